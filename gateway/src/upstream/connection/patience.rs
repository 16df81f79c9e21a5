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
    /// The backend, to take the request or to begin its answer.
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
    /// Bytes of the request that were sent in the window, and since its part began, and how much of it is over.
    sent: u64,
    lately: u64,
    over: Duration,
}

impl Patience {
    /// Nothing is waited for yet.
    pub fn new(times: Times) -> Self {
        Patience { times, armed: None, sleep: None, sent: 0, lately: 0, over: Duration::ZERO }
    }

    fn limit(&self, waits: Waits) -> Duration {
        match waits {
            // It is looked at in between.
            Waits::ForClient => SHORT_STALL.min(self.times.window.saturating_sub(self.over)),
            Waits::ForAnswer => self.times.answer,
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

    /// A part of the window is over; whether enough was sent. `is_short`: memory is.
    fn goes_on(&mut self, is_short: bool) -> bool {
        let (part, lately) = (self.limit(Waits::ForClient), std::mem::take(&mut self.lately));
        let enough = |rate: u64, time: Duration| rate.saturating_mul(time.as_secs());
        self.sent += lately;
        self.over += part;
        if is_short && lately < enough(self.times.rate.saturating_mul(SHORT_TIMES), part) {
            return false;
        }
        if self.over < self.times.window {
            return true;
        }
        self.over = Duration::ZERO;
        std::mem::take(&mut self.sent) >= enough(self.times.rate, self.times.window)
    }

    /// Waits; ready when that has lasted too long. `is_short`: memory is.
    pub fn poll(&mut self, waits: Waits, is_short: bool, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.armed != Some(waits) {
                (self.armed, self.sent, self.lately, self.over) = (Some(waits), 0, 0, Duration::ZERO);
                self.arm(waits);
            }
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if waits != Waits::ForClient || !self.goes_on(is_short) {
                self.armed = None;
                return Poll::Ready(());
            }
            self.arm(waits);
        }
    }

    fn arm(&mut self, waits: Waits) {
        let deadline = Instant::now() + self.limit(waits);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ends_where(patience, waits, seconds, false, each).await
    }

    async fn ends_where(
        patience: &mut Patience,
        waits: Waits,
        seconds: u64,
        is_short: bool,
        each: impl Fn(&mut Patience),
    ) -> bool {
        for _ in 0..seconds {
            let wait = std::future::poll_fn(|cx| patience.poll(waits, is_short, cx));
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
            ends_where(&mut patience(), Waits::ForClient, 100, true, |patience| patience.wrote(bytes)).await
        };
        assert!(!ends(16 * 700).await);
        assert!(ends(16 * 500).await);
        let mut patience = patience();
        for waits in [Waits::ForAnswer, Waits::ForStream, Waits::ForUpgraded] {
            assert!(!ends_where(&mut patience, waits, 59, true, |_| {}).await, "{waits:?}");
        }
        assert!(ends_where(&mut patience, Waits::ForClient, 6, true, |_| {}).await, "soon");
    }

    #[tokio::test(start_paused = true)]
    async fn another_wait_begins_anew() {
        let mut patience = patience();
        assert!(!ends(&mut patience, Waits::ForClient, 29, |_| {}).await);
        assert!(!ends(&mut patience, Waits::ForAnswer, 59, |_| {}).await);
        assert!(ends(&mut patience, Waits::ForAnswer, 2, |_| {}).await);
    }
}
