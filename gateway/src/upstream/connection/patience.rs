//! How long an exchange waits, and for whom. Time counts only while the gateway is ready to read: a client that takes an answer slowly is
//! somebody else's matter ([`crate::io::http1`]).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::io::pressure::SHORT_STALL;

/// How much faster than it has to a client must send its body while memory runs short: what is held for it is needed.
const SHORT_TIMES: u64 = 16;

/// How long an exchange waits.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For the head of the answer, since the request last moved.
    pub answer: Duration,
    /// For a byte either way, once the answer has begun.
    pub stream: Duration,
    /// For a byte either way on a connection that switched protocols.
    pub upgraded: Duration,
    /// In which a client has to send `rate` bytes a second of a request's body.
    pub window: Duration,
    /// Bytes a second; 0: however few.
    pub rate: u64,
}

/// Whom or what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The client, to send the body.
    ForClient,
    /// The backend, to take more of the request.
    ForRoom,
    /// The backend, to begin its answer.
    ForAnswer,
    /// Either, on an answer that has begun.
    ForStream,
    /// Either, after protocols were switched.
    ForUpgraded,
}

/// An exchange's patience.
#[derive(Debug)]
pub struct Patience {
    times: Times,
    armed: Option<Waits>,
    /// Made when it is first waited, and set again after that.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Bytes of the request that were sent in the window, and since its part began.
    sent: u64,
    lately: u64,
    /// How much of the wait is over, and how long this part of it lasts.
    over: Duration,
    part: Duration,
}

/// What others need of what is held meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// It is needed now.
    pub now: bool,
    /// It may soon be: that is looked at in between.
    pub soon: bool,
}

impl Patience {
    /// Nothing is waited for yet.
    pub fn new(times: Times) -> Self {
        Patience { times, armed: None, sleep: None, sent: 0, lately: 0, over: Duration::ZERO, part: Duration::ZERO }
    }

    fn limit(&self, waits: Waits) -> Duration {
        match waits {
            Waits::ForClient => self.times.window,
            Waits::ForRoom | Waits::ForAnswer => self.times.answer,
            Waits::ForStream => self.times.stream,
            Waits::ForUpgraded => self.times.upgraded,
        }
    }

    /// Something was read: nothing is waited for.
    pub fn read(&mut self) {
        self.armed = None;
    }

    /// So much was sent. The client's window goes on with it; every other wait begins anew.
    pub fn wrote(&mut self, count: usize) {
        self.lately += count as u64;
        if self.armed != Some(Waits::ForClient) {
            self.armed = None;
        }
    }

    /// A part of the wait is over; whether another one begins.
    fn goes_on(&mut self, waits: Waits, needs: Needs) -> bool {
        self.over += self.part;
        match waits {
            Waits::ForClient => self.is_sent_enough(needs),
            Waits::ForRoom if needs.now => false,
            _ => self.over < self.limit(waits),
        }
    }

    /// A part of the client's window is over; whether enough was sent.
    fn is_sent_enough(&mut self, needs: Needs) -> bool {
        let lately = std::mem::take(&mut self.lately);
        let enough = |rate: u64, time: Duration| rate.saturating_mul(time.as_secs());
        self.sent += lately;
        if needs.now && lately < enough(self.times.rate.saturating_mul(SHORT_TIMES), self.part) {
            return false;
        }
        if self.over < self.times.window {
            return true;
        }
        self.over = Duration::ZERO;
        std::mem::take(&mut self.sent) >= enough(self.times.rate, self.times.window)
    }

    /// Waits; ready when that has lasted too long.
    pub fn poll(&mut self, waits: Waits, needs: Needs, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.armed != Some(waits) {
                (self.armed, self.sent, self.lately, self.over) = (Some(waits), 0, 0, Duration::ZERO);
                self.arm(waits, needs);
            }
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.goes_on(waits, needs) {
                self.armed = None;
                return Poll::Ready(());
            }
            self.arm(waits, needs);
        }
    }

    fn arm(&mut self, waits: Waits, needs: Needs) {
        let left = self.limit(waits).saturating_sub(self.over);
        let looks = needs.soon || matches!(waits, Waits::ForClient | Waits::ForRoom);
        self.part = if looks { left.min(SHORT_STALL) } else { left };
        let deadline = Instant::now() + self.part;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: Needs = Needs { now: true, soon: true };

    fn patience() -> Patience {
        let seconds = Duration::from_secs;
        Patience::new(Times {
            answer: seconds(60),
            stream: seconds(300),
            upgraded: seconds(3600),
            window: seconds(30),
            rate: 512,
        })
    }

    /// Whether it ends within so many seconds, in which `each` second something happens.
    async fn ends(patience: &mut Patience, waits: Waits, seconds: u64, each: impl Fn(&mut Patience)) -> bool {
        ends_where(patience, waits, seconds, Needs::default(), each).await
    }

    async fn ends_where(
        patience: &mut Patience,
        waits: Waits,
        seconds: u64,
        needs: Needs,
        each: impl Fn(&mut Patience),
    ) -> bool {
        for _ in 0..seconds {
            let wait = std::future::poll_fn(|cx| patience.poll(waits, needs, cx));
            if tokio::time::timeout(Duration::from_secs(1), wait).await.is_ok() {
                return true;
            }
            each(patience);
        }
        false
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_time() {
        for (waits, seconds) in
            [(Waits::ForClient, 30), (Waits::ForAnswer, 60), (Waits::ForStream, 300), (Waits::ForUpgraded, 3600)]
        {
            assert!(!ends(&mut patience(), waits, seconds - 1, |_| {}).await, "{waits:?}");
            assert!(ends(&mut patience(), waits, seconds + 1, |_| {}).await, "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_to_send_fast_enough_and_everybody_else_only_something() {
        assert!(!ends(&mut patience(), Waits::ForClient, 1000, |patience| patience.wrote(600)).await);
        assert!(ends(&mut patience(), Waits::ForClient, 31, |patience| patience.wrote(500)).await);
        for waits in [Waits::ForAnswer, Waits::ForStream, Waits::ForUpgraded] {
            assert!(!ends(&mut patience(), waits, 4000, |patience| patience.wrote(1)).await, "{waits:?}");
            assert!(!ends(&mut patience(), waits, 4000, Patience::read).await, "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_memory_runs_short_a_client_has_to_send_faster() {
        let ends = async |bytes| {
            ends_where(&mut patience(), Waits::ForClient, 100, NEEDED, |patience| patience.wrote(bytes)).await
        };
        assert!(!ends(16 * 700).await);
        assert!(ends(16 * 500).await);
        let mut patience = patience();
        for waits in [Waits::ForAnswer, Waits::ForStream, Waits::ForUpgraded] {
            assert!(!ends_where(&mut patience, waits, 59, NEEDED, |_| {}).await, "{waits:?}");
        }
        assert!(ends_where(&mut patience, Waits::ForClient, 6, NEEDED, |_| {}).await, "soon");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_a_request_has_less_time_while_others_need_what_it_holds() {
        let ends = async |seconds, needs, each: &dyn Fn(&mut Patience)| {
            ends_where(&mut patience(), Waits::ForRoom, seconds, needs, each).await
        };
        assert!(!ends(59, Needs::default(), &|_| {}).await);
        assert!(ends(61, Needs::default(), &|_| {}).await);
        assert!(!ends(4, NEEDED, &|_| {}).await);
        assert!(ends(6, NEEDED, &|_| {}).await);
        assert!(!ends(100, NEEDED, &|patience| patience.wrote(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_needed_soon_is_looked_at_in_between_and_takes_no_longer() {
        let soon = Needs { now: false, soon: true };
        for (waits, seconds) in
            [(Waits::ForClient, 30), (Waits::ForRoom, 60), (Waits::ForAnswer, 60), (Waits::ForStream, 300)]
        {
            assert!(!ends_where(&mut patience(), waits, seconds - 1, soon, |_| {}).await, "{waits:?}");
            assert!(ends_where(&mut patience(), waits, seconds + 1, soon, |_| {}).await, "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_wait_begins_anew() {
        let mut patience = patience();
        assert!(!ends(&mut patience, Waits::ForClient, 29, |_| {}).await);
        assert!(!ends(&mut patience, Waits::ForAnswer, 59, |_| {}).await);
        assert!(ends(&mut patience, Waits::ForAnswer, 2, |_| {}).await);
    }
}
