//! What costs much takes turns with its like: a step of a handshake costs up to a millisecond of computing, and a worker that has a thousand of
//! them to do would serve nobody else for a second; so does a client that sends frames or requests over HTTP/2 as fast as it can. Between two
//! steps everything else that is ready comes first.
//!
//! A request is not served in one go: it waits for the kernel, its endpoint, its client. So that it does not meet a costly step each time, a long
//! step is followed by several rounds of everything else.
//!
//! The networks of clients take turns as well: who asks for a thousand waits for itself. What has begun goes on before something else
//! begins, since it holds much meanwhile.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::schedule::Standing;

/// How long a handshake waits for its first turn. More of them than can be computed are shed, and not queued.
const PATIENCE: Duration = Duration::from_secs(3);

/// For each so much time that a step took there is a round of everything else behind it.
const ROUND: Duration = Duration::from_micros(100);

/// What a step counts at most: what took longer was kept waiting itself, by a machine that did something else.
const LONGEST: Duration = Duration::from_millis(1);

/// How many times as long as a step took everything else is waited for at most, for more rounds than one: a worker that has more to do than it can
/// goes on with what takes turns in an eighth of its time.
const SHARE: u32 = 7;

/// The turns of a worker for one kind of work.
#[derive(Debug)]
pub struct Turns {
    queue: Arc<Mutex<Queue>>,
    patience: Duration,
}

/// There was no turn in time.
#[derive(Debug, PartialEq, Eq)]
pub struct Shed;

impl Default for Turns {
    fn default() -> Self {
        Turns { queue: Arc::default(), patience: PATIENCE }
    }
}

/// Who waits for the turn.
#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    /// When the last step ended, and what it took.
    last: Option<(Instant, Duration)>,
    /// What has begun, and goes on.
    begun: VecDeque<Waiter>,
    /// Those of each network that want to begin.
    networks: HashMap<IpAddr, VecDeque<Waiter>>,
    /// Networks in the order of their turns.
    order: VecDeque<IpAddr>,
}

/// Who waits.
#[derive(Debug)]
struct Waiter {
    tell: oneshot::Sender<Turn>,
    /// Of a connection that goes on at once when it has the turn.
    standing: Option<Arc<Standing>>,
}

impl Waiter {
    fn is_closed(&self) -> bool {
        self.tell.is_closed()
    }
}

impl Queue {
    /// The next one, whether or not it still waits.
    fn pop(&mut self) -> Option<Waiter> {
        if let Some(waiter) = self.begun.pop_front() {
            return Some(waiter);
        }
        let network = self.order.pop_front()?;
        let waiting = self.networks.get_mut(&network)?;
        let waiter = waiting.pop_front();
        // Those who have gone meanwhile are no use of its turn.
        while waiting.front().is_some_and(Waiter::is_closed) {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            self.networks.remove(&network);
        } else {
            self.order.push_back(network);
        }
        waiter
    }

    fn begin(&mut self, network: IpAddr, waiter: Waiter) {
        let waiting = self.networks.entry(network).or_default();
        if waiting.is_empty() {
            self.order.push_back(network);
        }
        waiting.push_back(waiter);
    }
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    queue: Arc<Mutex<Queue>>,
    standing: Option<Arc<Standing>>,
}

impl Turn {
    /// Whoever has it goes on at once from now on.
    fn new(queue: Arc<Mutex<Queue>>, standing: Option<Arc<Standing>>) -> Turn {
        standing.iter().for_each(|standing| standing.set_has_turn(true));
        Turn { queue, standing }
    }

    /// A step was done, which took so long.
    fn took(&self, time: Duration) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).last = Some((Instant::now(), time));
    }

    /// Everything else has come as often as is due behind the last step.
    async fn make_room(&self) {
        let last = self.queue.lock().unwrap_or_else(PoisonError::into_inner).last.take();
        let Some((ended, took)) = last else { return };
        let took = took.min(LONGEST);
        let rounds = took.as_micros() / ROUND.as_micros();
        for _ in 0..rounds {
            if ended.elapsed() >= took * SHARE {
                return;
            }
            everything_else().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.standing.iter().for_each(|standing| standing.set_has_turn(false));
        loop {
            let next = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                let next = queue.pop();
                queue.taken = next.is_some();
                next
            };
            match next {
                // It may have gone in this moment; then the turn comes back, and is dropped here.
                Some(waiter) if !waiter.is_closed() => {
                    return drop(waiter.tell.send(Turn::new(self.queue.clone(), waiter.standing)));
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// Everything that is ready to run has run: what was, and what has come from the kernel since.
pub async fn everything_else() {
    behind_others().await;
    // The kernel is asked.
    tokio::task::yield_now().await;
    behind_others().await;
}

/// Goes to the end of the queue.
pub async fn behind_others() {
    let mut woken = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut woken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for a turn.
pub type Next = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Turns {
    /// Waits for the turn. `network`: of whoever wants to begin something; `None`: it has begun.
    pub async fn acquire(&self, network: Option<IpAddr>) -> Option<Turn> {
        self.acquire_for(network, None).await
    }

    /// The same for a connection that stands in line with others: with the turn it no longer does.
    async fn acquire_for(&self, network: Option<IpAddr>, standing: Option<&Arc<Standing>>) -> Option<Turn> {
        let standing = standing.cloned();
        let told = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut queue.taken, true) {
                return Some(Turn::new(self.queue.clone(), standing));
            }
            let (tell, told) = oneshot::channel();
            let waiter = Waiter { tell, standing };
            match network {
                Some(network) => queue.begin(network, waiter),
                None => queue.begun.push_back(waiter),
            }
            told
        };
        told.await.ok()
    }

    /// Waits for one step of something costly that a client of this network wants; the next turn is given when everything else that was ready
    /// has come.
    ///
    /// The turn belongs to a task of its own: whoever asked for it may have stopped to look, and others wait.
    pub fn next(self: &Arc<Self>, network: IpAddr) -> Next {
        let turns = self.clone();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let Some(_turn) = turns.acquire(Some(network)).await else { return };
            if tell.send(()).is_ok() {
                everything_else().await;
            }
        });
        Box::pin(async move {
            // Not told: the worker ends.
            let _ = told.await;
        })
    }

    /// Does something costly in turns, for a client of this network, on the connection that stands so.
    ///
    /// # Errors
    /// Too many others wait.
    pub async fn take<F: Future>(
        &self,
        network: IpAddr,
        standing: &Arc<Standing>,
        costly: F,
    ) -> Result<F::Output, Shed> {
        let mut costly = pin!(costly);
        let first = timeout(self.patience, self.acquire_for(Some(network), Some(standing)));
        let Ok(Some(mut turn)) = first.await else { return Err(Shed) };
        loop {
            // What is ready comes before it, and before the next one's turn.
            turn.make_room().await;
            everything_else().await;
            let mut held = Some(turn);
            let done = std::future::poll_fn(|cx| match held.take() {
                Some(turn) => {
                    let begun = Instant::now();
                    let polled = costly.as_mut().poll(cx);
                    turn.took(begun.elapsed());
                    polled.map(Some)
                }
                // Woken: it goes on in its next turn.
                None => Poll::Ready(None),
            });
            if let Some(done) = done.await {
                return Ok(done);
            }
            turn = self.acquire_for(None, Some(standing)).await.ok_or(Shed)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// A task that is always ready, and how often it went on.
    fn other() -> (Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let others = Arc::new(AtomicUsize::new(0));
        let counting = others.clone();
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        (others, other)
    }

    #[tokio::test]
    async fn others_come_between_two_turns() {
        let turns = Arc::new(Turns::default());
        let (others, other) = other();
        let costly: Vec<_> = (0..100)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(
                    async move { turns.take(ONE, &Arc::default(), async { tokio::task::yield_now().await }).await },
                )
            })
            .collect();
        for task in costly {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        other.abort();
        assert!(others.load(Ordering::Relaxed) >= 200, "{others:?}");
    }

    /// How often another task goes on while a few steps are done that take so long each.
    async fn rounds_beside(step: Duration) -> usize {
        const STEPS: usize = 10;
        let turns = Arc::new(Turns::default());
        let (others, other) = other();
        let costly = |turns: Arc<Turns>| async move {
            let computes = async {
                let begun = Instant::now();
                while begun.elapsed() < step {}
            };
            turns.take(ONE, &Arc::default(), computes).await
        };
        let all: Vec<_> = (0..STEPS).map(|_| tokio::spawn(costly(turns.clone()))).collect();
        for task in all {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        other.abort();
        others.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_long_step_is_followed_by_several_rounds_of_others() {
        let (short, long) = (rounds_beside(Duration::ZERO).await, rounds_beside(5 * ROUND).await);
        assert!(long >= 3 * short, "{long} beside long steps, {short} beside short ones");
    }

    #[tokio::test]
    async fn steps_are_done_one_at_a_time_and_others_come_between() {
        let turns = Arc::new(Turns::default());
        let (others, steps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counting = others.clone();
        let other = tokio::spawn(async move {
            loop {
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let costly: Vec<_> = (0..10)
            .map(|_| {
                let (turns, steps, others) = (turns.clone(), steps.clone(), others.clone());
                tokio::spawn(async move {
                    for _ in 0..10 {
                        turns.next(ONE).await;
                        steps.fetch_add(1, Ordering::Relaxed);
                        let (others, steps) = (others.load(Ordering::Relaxed), steps.load(Ordering::Relaxed));
                        assert!(others + 2 >= steps, "{others} {steps}");
                    }
                })
            })
            .collect();
        for task in costly {
            task.await.unwrap();
        }
        other.abort();
        assert_eq!(steps.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn who_does_not_take_its_turn_keeps_nobody_waiting() {
        let turns = Arc::new(Turns::default());
        let (mut first, mut second) = (turns.next(ONE), turns.next(ONE));
        tokio::select! {
            biased;
            () = &mut second => panic!("it is the first one's turn"),
            () = &mut first => {}
        }
        // The second has looked once, and never does again.
        turns.next(ONE).await;
        assert_eq!(turns.take(ONE, &Arc::default(), async {}).await, Ok(()));
        drop(second);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_the_first_turn_is_shed() {
        let turns = Turns { patience: Duration::from_millis(5), ..Turns::default() };
        let held = turns.acquire(None).await.unwrap();
        assert_eq!(turns.take(ONE, &Arc::default(), async {}).await, Err(Shed));
        drop(held);
        // What waits for something else has no turn meanwhile, and is not shed.
        let standing = Arc::default();
        let slow = turns.take(ONE, &standing, async { tokio::time::sleep(4 * turns.patience).await });
        let (slow, quick) = tokio::join!(slow, turns.take(ONE, &standing, async {}));
        assert_eq!((slow, quick), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn whose_turn_it_is_no_longer_stands_in_line() {
        let turns = Turns::default();
        let standing = Arc::new(Standing::default());
        let held = turns.acquire(Some(OTHER)).await;
        let costly = async {
            assert!(standing.comes_now());
            tokio::task::yield_now().await;
            assert!(standing.comes_now(), "its next turn");
        };
        let mut takes = pin!(turns.take(ONE, &standing, costly));
        tokio::select! {
            biased;
            _ = &mut takes => panic!("it is another one's turn"),
            () = tokio::task::yield_now() => assert!(!standing.comes_now()),
        }
        drop(held);
        assert!(standing.comes_now(), "before it is woken");
        assert_eq!(takes.await, Ok(()));
        assert!(!standing.comes_now());
    }

    #[tokio::test]
    async fn who_asks_for_many_waits_for_itself_and_what_has_begun_goes_on_first() {
        let turns = Arc::new(Turns::default());
        let done = Arc::new(Mutex::new(Vec::new()));
        let ask = |name: &'static str, network: Option<IpAddr>| {
            let (turns, done) = (turns.clone(), done.clone());
            async move {
                let _turn = turns.acquire(network).await;
                done.lock().unwrap().push(name);
            }
        };
        let held = turns.acquire(Some(ONE)).await;
        let gone = turns.acquire(Some(OTHER));
        assert!(timeout(Duration::ZERO, gone).await.is_err(), "who has gone takes no turn");
        let all = [
            ask("many", Some(ONE)),
            ask("many", Some(ONE)),
            ask("many", Some(ONE)),
            ask("one", Some(OTHER)),
            ask("begun", None),
        ];
        let free = async { drop(held) };
        tokio::join!(futures_util::future::join_all(all), free);
        assert_eq!(*done.lock().unwrap(), ["begun", "many", "one", "many", "many"]);
        assert!(turns.queue.lock().unwrap().networks.is_empty() && turns.queue.lock().unwrap().order.is_empty());
    }
}
