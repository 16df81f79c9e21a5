//! Which connections of a worker come first. A runtime serves what is ready in the order in which it became so: a thousand clients that send or
//! take a byte now and then would each keep everybody else waiting for a moment, and all together for long.
//!
//! So the task of a connection that has been served before goes on whenever it is ready: over HTTP/1 as long as its request takes little, over HTTP/2
//! always, since what such clients ask for and send takes turns by itself (`turns.rs`). All others share a part of each round of the worker: those
//! that have not been served yet, and those whose request goes on and on, or that take long to ask, in turn. Nothing is held back on a worker that
//! has nothing else to do.
//!
//! Steps of handshakes take turns as well (`turns.rs`): a connection leaves its line while it has the turn of one.
//!
//! A connection that comes to its end no longer comes first: the last step costs more than most others, and thousands end at once.

mod pace;
mod standing;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::turns::everything_else;
use pace::BEGUN;
#[cfg(test)]
pub use pace::pieces_of_long_steps;
pub use pace::{Pace, is_long};
pub use standing::Standing;
use standing::{Line, MAY_GO_ON, NONE, WAITS};

/// Microseconds of each round that belong to connections that do not come first, at least and at most.
const PART: i64 = 100;
const MOST_PART: i64 = 10_000;

/// The part of a long round that does: however many come first, the others have so much of the worker's time, until its rounds take so many times
/// [`MOST_PART`].
const PART_OF_ROUND: i64 = 8;

/// So many new ones that wait are enough: others stay where they are, in the kernel, where they cost less.
const MOST_NEW: usize = 64;

/// Where all others together take no longer than so many microseconds of a round, the worker has nothing else to do.
const NOTHING_ELSE: i64 = 20;

/// The lines of a worker.
#[derive(Debug, Default)]
pub struct Schedule {
    lines: Mutex<Lines>,
    /// Somebody waits.
    more: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    /// What is left of this round's part; less than nothing: they have taken some of the next ones'.
    left: i64,
    /// What they took in this round.
    took: i64,
    /// When it began, while somebody waits.
    begun: Option<Instant>,
    new: VecDeque<(Arc<Standing>, Waker)>,
    long: VecDeque<(Arc<Standing>, Waker)>,
    /// Whose turn it is.
    long_is_next: bool,
    /// [`Schedule::run`] knows that somebody waits.
    is_told: bool,
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.new.is_empty() && self.long.is_empty()
    }

    /// The lines take turns.
    fn pop(&mut self) -> Option<(Arc<Standing>, Waker)> {
        self.long_is_next = !self.long_is_next;
        let (first, second) =
            if self.long_is_next { (&mut self.new, &mut self.long) } else { (&mut self.long, &mut self.new) };
        first.pop_front().or_else(|| second.pop_front())
    }
}

impl Schedule {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection of this line goes on at once; else it is woken when it is its turn.
    fn goes_on(&self, line: Line, standing: &Arc<Standing>, waker: &Waker) -> bool {
        let mut lines = self.lines();
        if lines.is_empty() && lines.left > 0 {
            lines.left -= standing.cost();
            return true;
        }
        standing.place.store(WAITS, Ordering::Relaxed);
        let place = (standing.clone(), waker.clone());
        match line {
            Line::New => lines.new.push_back(place),
            Line::Long => lines.long.push_back(place),
        }
        if !std::mem::replace(&mut lines.is_told, true) {
            self.more.notify_one();
        }
        false
    }

    /// A step of one of them took so long, and was taken to last `expected`.
    fn took(&self, micros: u32, expected: i64) {
        let (mut lines, micros) = (self.lines(), i64::from(micros));
        lines.left -= micros - expected;
        lines.took += micros;
    }

    /// Waits until there is room for one more new connection.
    pub async fn room(&self) {
        // Whoever waits has its part of each round, so that is soon.
        while self.lines().new.len() >= MOST_NEW {
            everything_else().await;
        }
    }

    /// Gives each round its part, for as long as the worker lives.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.more.notified().await;
            while {
                everything_else().await;
                self.begin_round()
            } {}
        }
    }

    /// Lets as many go on as have a part in this round; false: nobody waits any more.
    fn begin_round(&self) -> bool {
        let mut lines = self.lines();
        let now = Instant::now();
        let last = lines.begun.replace(now).map_or(Duration::ZERO, |begun| now.duration_since(begun));
        // Who waits pays for what others before it took too much, but not where that kept nobody waiting.
        let others = micros(last) - std::mem::take(&mut lines.took);
        let debt = if others <= NOTHING_ELSE { 0 } else { lines.left.min(0) };
        lines.left = part(last) + debt;
        while lines.left > 0 {
            let Some((standing, waker)) = lines.pop() else { break };
            lines.left -= standing.cost();
            standing.place.store(MAY_GO_ON, Ordering::Relaxed);
            waker.wake();
        }
        lines.is_told = !lines.is_empty();
        if !lines.is_told {
            lines.begun = None;
        }
        lines.is_told
    }
}

/// The part of a round, where the last one has lasted so long.
fn part(last: Duration) -> i64 {
    (micros(last) / PART_OF_ROUND).clamp(PART, MOST_PART)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The task of a connection.
pub struct Scheduled<F> {
    /// In a box: it is large, and moved once.
    connection: Pin<Box<F>>,
    standing: Arc<Standing>,
    schedule: Arc<Schedule>,
}

impl<F> Scheduled<F> {
    /// A task of the worker with this schedule.
    pub fn new(connection: F, standing: Arc<Standing>, schedule: Arc<Schedule>) -> Self {
        Scheduled { connection: Box::pin(connection), standing, schedule }
    }
}

#[cfg(test)]
impl<F> Scheduled<F> {
    /// One that comes first, whatever it does.
    pub fn first(connection: F) -> Self {
        let standing = Arc::new(Standing::default());
        standing.set_has_turn(true);
        Scheduled::new(connection, standing, Arc::default())
    }
}

impl<F: Future> Future for Scheduled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let (goes_on, comes_first) = match this.standing.place.load(Ordering::Relaxed) {
            WAITS => (this.standing.comes_now(), true),
            MAY_GO_ON => (true, false),
            _ => match this.standing.line() {
                None => (true, true),
                Some(line) => (this.schedule.goes_on(line, &this.standing, cx.waker()), false),
            },
        };
        if !goes_on {
            return Poll::Pending;
        }
        this.standing.place.store(NONE, Ordering::Relaxed);
        let expected = this.standing.cost();
        let begun = Instant::now();
        BEGUN.set(Some(begun));
        let polled = this.connection.as_mut().poll(cx);
        BEGUN.set(None);
        let took = this.standing.stepped(begun.elapsed());
        if !comes_first {
            this.schedule.took(took, expected);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::standing::{LEAST_MICROS, PROMPT_STEPS};
    use super::*;
    use crate::io::turns::behind_others;

    /// Most steps of a round: each takes something.
    const MOST: usize = PART as usize / LEAST_MICROS as usize;

    fn schedule() -> Arc<Schedule> {
        let schedule = Arc::new(Schedule::default());
        tokio::spawn(schedule.clone().run());
        schedule
    }

    /// It was served, and its request takes long.
    fn long() -> Standing {
        let standing = served();
        for _ in 0..PROMPT_STEPS {
            standing.stepped(Duration::ZERO);
        }
        standing
    }

    fn served() -> Standing {
        let standing = Standing::default();
        standing.served();
        standing
    }

    /// A connection that is ready so often, and how often it went on.
    fn busy(
        schedule: &Arc<Schedule>,
        standing: Standing,
        times: usize,
    ) -> (Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = steps.clone();
        let connection = async move {
            for _ in 0..times {
                counted.fetch_add(1, Ordering::Relaxed);
                behind_others().await;
            }
        };
        (steps, tokio::spawn(Scheduled::new(connection, Arc::new(standing), schedule.clone())))
    }

    /// All of them come to their end.
    async fn end(connections: Vec<(Arc<AtomicUsize>, tokio::task::JoinHandle<()>)>) {
        for (_, task) in connections {
            task.await.unwrap();
        }
    }

    /// How often all of them went on.
    fn steps_of(connections: &[(Arc<AtomicUsize>, tokio::task::JoinHandle<()>)]) -> usize {
        connections.iter().map(|(steps, _)| steps.load(Ordering::Relaxed)).sum()
    }

    /// As a task, which has its place behind others; what is given to `block_on` has none.
    async fn as_a_task(test: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(test).await.unwrap();
    }

    #[tokio::test]
    async fn those_who_do_not_come_first_share_a_part_of_each_round() {
        as_a_task(async {
            let schedule = schedule();
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, Standing::default(), 3)).collect();
            let (mut before, mut passes, mut longest) = (0, 0, Duration::ZERO);
            let mut begun = Instant::now();
            while before < 900 {
                behind_others().await;
                let steps = steps_of(&all);
                if steps > before {
                    // A round may have been many passes of this task.
                    longest = longest.max(std::mem::replace(&mut begun, Instant::now()).elapsed());
                }
                let most = usize::try_from(part(longest)).unwrap() / LEAST_MICROS as usize;
                assert!(steps - before <= 2 * most, "{} in a round of {longest:?}", steps - before);
                before = steps;
                passes += 1;
                assert!(passes < 1_000_000, "they all go on");
            }
            end(all).await;
        })
        .await;
    }

    #[test]
    fn the_longer_rounds_are_the_longer_is_that_part() {
        for (micros, expected) in [(0, 100), (800, 100), (2_000, 250), (40_000, 5_000), (1_000_000, 10_000)] {
            assert_eq!(part(Duration::from_micros(micros)), expected, "{micros}");
        }
    }

    #[tokio::test]
    async fn where_those_who_come_first_take_long_the_others_do_not_starve() {
        as_a_task(async {
            let schedule = Arc::new(Schedule::default());
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, long(), 1)).collect();
            behind_others().await;
            assert!(schedule.begin_round());
            behind_others().await;
            let before = steps_of(&all);
            assert!(before <= MOST, "{before}");
            // Everything else takes four milliseconds.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(4) {}
            assert!(schedule.begin_round());
            behind_others().await;
            let after = steps_of(&all);
            assert!(after - before >= 500 / LEAST_MICROS as usize, "{before}, {after}");
            tokio::spawn(schedule.clone().run());
            end(all).await;
        })
        .await;
    }

    #[tokio::test]
    async fn who_comes_first_waits_for_none_of_them() {
        as_a_task(async {
            let schedule = schedule();
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, long(), 3)).collect();
            behind_others().await;
            let (steps, first) = busy(&schedule, served(), 10);
            for passes in 0..10 {
                behind_others().await;
                assert!(steps.load(Ordering::Relaxed) >= passes, "{steps:?} of {passes}");
            }
            first.await.unwrap();
            end(all).await;
        })
        .await;
    }

    #[tokio::test]
    async fn the_lines_take_turns() {
        as_a_task(async {
            // Nobody has a part yet: all of them wait.
            let schedule = Arc::new(Schedule::default());
            let long: Vec<_> = (0..100).map(|_| busy(&schedule, long(), 1)).collect();
            let (steps, new) = busy(&schedule, Standing::default(), 1);
            behind_others().await;
            assert_eq!(schedule.lines().long.len(), 100);
            schedule.begin_round();
            behind_others().await;
            assert_eq!(steps.load(Ordering::Relaxed), 1, "it does not wait for a hundred others");
            tokio::spawn(schedule.clone().run());
            new.await.unwrap();
            end(long).await;
        })
        .await;
    }

    #[tokio::test]
    async fn more_new_ones_wait_until_there_is_room() {
        as_a_task(async {
            let schedule = Arc::new(Schedule::default());
            let all: Vec<_> = (0..MOST_NEW).map(|_| busy(&schedule, Standing::default(), 1)).collect();
            schedule.room().await;
            behind_others().await;
            assert!(tokio::time::timeout(Duration::from_millis(1), schedule.room()).await.is_err());
            tokio::spawn(schedule.clone().run());
            schedule.room().await;
            end(all).await;
        })
        .await;
    }

    #[tokio::test]
    async fn who_ends_while_it_waits_keeps_nobody_waiting() {
        as_a_task(async {
            let schedule = Arc::new(Schedule::default());
            let all: Vec<_> = (0..10).map(|_| busy(&schedule, Standing::default(), 2)).collect();
            behind_others().await;
            all.iter().step_by(2).for_each(|(_, task)| task.abort());
            tokio::spawn(schedule.clone().run());
            for (number, (_, task)) in all.into_iter().enumerate() {
                assert_eq!(task.await.is_ok(), number % 2 == 1);
            }
        })
        .await;
    }

    /// Computes so long.
    fn computes(time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {}
    }

    #[tokio::test]
    async fn what_a_step_takes_more_than_was_thought_is_taken_from_the_part() {
        as_a_task(async {
            let schedule = Arc::new(Schedule::default());
            let step = async { computes(Duration::from_micros(200)) };
            let task = tokio::spawn(Scheduled::new(step, Arc::new(long()), schedule.clone()));
            behind_others().await;
            schedule.begin_round();
            assert_eq!(schedule.lines().left, PART - i64::from(LEAST_MICROS));
            task.await.unwrap();
            let lines = schedule.lines();
            assert!(lines.left <= PART - 200 && lines.took >= 200, "{lines:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn who_waits_does_not_pay_for_what_kept_nobody_else_waiting() {
        for (what, took, goes_on) in [("others took four milliseconds", 1_000, false), ("nobody else did", 5_000, true)]
        {
            let schedule = Arc::new(Schedule::default());
            let _waits = busy(&schedule, long(), 1);
            behind_others().await;
            {
                let mut lines = schedule.lines();
                lines.begun = Instant::now().checked_sub(Duration::from_millis(5));
                (lines.left, lines.took) = (-2_000, took);
            }
            schedule.begin_round();
            assert_eq!(schedule.lines().is_empty(), goes_on, "{what}");
        }
    }

    #[tokio::test]
    async fn those_who_end_at_once_keep_nobody_waiting_who_comes_first() {
        as_a_task(async {
            let schedule = schedule();
            let ended = Arc::new(AtomicUsize::new(0));
            let connection = || {
                let (standing, ended) = (Arc::new(served()), ended.clone());
                let its = standing.clone();
                let ends = async move {
                    its.ends().await;
                    ended.fetch_add(1, Ordering::Relaxed);
                };
                tokio::spawn(Scheduled::new(ends, standing, schedule.clone()))
            };
            let all: Vec<_> = (0..300).map(|_| connection()).collect();
            let (mut before, mut rounds) = (0, 0);
            while before < 300 {
                // It keeps the worker busy: rounds are not for nothing.
                computes(Duration::from_micros(50));
                behind_others().await;
                let now = ended.load(Ordering::Relaxed);
                assert!(now - before <= 60, "{} in one round", now - before);
                before = now;
                rounds += 1;
                assert!(rounds < 10_000, "they all end");
            }
            assert!(all.into_iter().all(|task| task.is_finished()));
        })
        .await;
    }
}
