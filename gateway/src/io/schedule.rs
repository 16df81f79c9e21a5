//! Which connections of a worker come first. A runtime serves what is ready in the order in which it became so: a thousand clients that send or
//! take a byte now and then would each keep everybody else waiting for a moment, and all together for long.
//!
//! So the task of an HTTP/1 connection that has been served before, and whose request takes little, goes on whenever it is ready. All others
//! share a part of each round of the worker: those that have not been served yet, and those whose request goes on and on, in turn. Nothing is
//! held back on a worker that has nothing else to do.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::turns::everything_else;

/// Microseconds of each round that belong to connections that do not come first, at least and at most.
const PART: i64 = 100;
const MOST_PART: i64 = 10_000;

/// The part of a long round that does: however many come first, the others have so much of the worker's time, until its rounds take so many times
/// [`MOST_PART`].
const PART_OF_ROUND: i64 = 8;

/// How often a request may go on, and for how many microseconds, before its connection no longer comes first. A small one takes five to ten steps.
const PROMPT_STEPS: u32 = 32;
const PROMPT_MICROS: u32 = 1_000;

/// How often one that has not been served yet goes on among its like.
const NEW_STEPS: u32 = 64;

/// So many new ones that wait are enough: others stay where they are, in the kernel, where they cost less.
const MOST_NEW: usize = 64;

/// What a step takes at least, to be counted: to wake a task is not for nothing.
const LEAST_MICROS: u32 = 10;

/// What it counts at most: what took longer was kept waiting itself, by a machine that did something else.
const MOST_MICROS: u32 = 250;

/// How long a step goes on with one piece of an answer after the other.
const LONG: Duration = Duration::from_micros(200);

thread_local! {
    /// When the step that goes on now began.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether the connection that is being served has been for long, and others should be.
pub(super) fn is_long() -> bool {
    BEGUN.get().is_some_and(|begun| begun.elapsed() >= LONG)
}

/// Whoever reads one piece after the other, between which others come where a step is long.
#[derive(Debug, Default)]
pub struct Pace {
    /// A piece was read since others came.
    has_read: bool,
}

impl Pace {
    /// A piece was read.
    pub fn read(&mut self) {
        self.has_read = true;
    }

    /// Ready to read the next one; where the step is long, in the next step. That one reads a piece at least, however long it is by then: other
    /// work of the connection would keep it from reading at all.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_read && is_long() {
            self.has_read = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// What a connection has done, and whether it waits for its part.
#[derive(Debug, Default)]
pub struct Standing {
    /// It waits for requests, or is served one. Before that its handshake takes turns with others (`turns`).
    is_open: AtomicBool,
    /// It was served before.
    is_proven: AtomicBool,
    /// Steps since the last request was served, and their microseconds.
    steps: AtomicU32,
    micros: AtomicU32,
    /// Microseconds of the last one.
    last: AtomicU32,
    place: AtomicU8,
}

/// A connection's place: in no line, in one, or at the head of it.
const NONE: u8 = 0;
const WAITS: u8 = 1;
const MAY_GO_ON: u8 = 2;

/// Those who do not come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Not served yet.
    New,
    /// The request takes long.
    Long,
}

impl Standing {
    /// From now on it waits for requests.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// A request was served: the next one comes first, until it takes long.
    pub fn served(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
        self.steps.store(0, Ordering::Relaxed);
        self.micros.store(0, Ordering::Relaxed);
    }

    /// Where it stands; `None`: it comes first.
    fn line(&self) -> Option<Line> {
        if !self.is_open.load(Ordering::Relaxed) {
            return None;
        }
        let steps = self.steps.load(Ordering::Relaxed);
        if !self.is_proven.load(Ordering::Relaxed) {
            return Some(if steps < NEW_STEPS { Line::New } else { Line::Long });
        }
        let is_prompt = steps < PROMPT_STEPS && self.micros.load(Ordering::Relaxed) < PROMPT_MICROS;
        (!is_prompt).then_some(Line::Long)
    }

    /// What the next step takes, as far as the last one tells.
    fn cost(&self) -> i64 {
        self.last.load(Ordering::Relaxed).max(LEAST_MICROS).into()
    }

    fn stepped(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).min(MOST_MICROS);
        self.last.store(micros, Ordering::Relaxed);
        let add =
            |sum: &AtomicU32, more: u32| sum.store(sum.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
        add(&self.steps, 1);
        add(&self.micros, micros);
    }
}

/// The lines of a worker.
#[derive(Debug, Default)]
pub struct Schedule {
    lines: Mutex<Lines>,
    /// Somebody waits.
    more: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    /// What is left of this round's part.
    left: i64,
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
        lines.left = part(last);
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
    let micros = i64::try_from(last.as_micros()).unwrap_or(i64::MAX);
    (micros / PART_OF_ROUND).clamp(PART, MOST_PART)
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

impl<F: Future> Future for Scheduled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let goes_on = match this.standing.place.load(Ordering::Relaxed) {
            WAITS => false,
            MAY_GO_ON => true,
            _ => match this.standing.line() {
                None => true,
                Some(line) => this.schedule.goes_on(line, &this.standing, cx.waker()),
            },
        };
        if !goes_on {
            return Poll::Pending;
        }
        this.standing.place.store(NONE, Ordering::Relaxed);
        let begun = Instant::now();
        BEGUN.set(Some(begun));
        let polled = this.connection.as_mut().poll(cx);
        BEGUN.set(None);
        this.standing.stepped(begun.elapsed());
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::io::turns::behind_others;

    /// Most steps of a round: each takes something.
    const MOST: usize = PART as usize / LEAST_MICROS as usize;

    fn schedule() -> Arc<Schedule> {
        let schedule = Arc::new(Schedule::default());
        tokio::spawn(schedule.clone().run());
        schedule
    }

    fn standing(is_open: bool, is_proven: bool, steps: u32, micros: u32) -> Standing {
        Standing {
            is_open: is_open.into(),
            is_proven: is_proven.into(),
            steps: steps.into(),
            micros: micros.into(),
            ..Standing::default()
        }
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

    #[test]
    fn who_was_served_comes_first_until_its_request_takes_long() {
        for (what, standing, line) in [
            ("it is accepted, or shakes hands", standing(false, false, 1000, 1_000_000), None),
            ("it waits for its first request", standing(true, false, 0, 0), Some(Line::New)),
            ("and has for long", standing(true, false, NEW_STEPS, 0), Some(Line::Long)),
            ("it was served", standing(true, true, 0, 0), None),
            ("and is served a little", standing(true, true, PROMPT_STEPS - 1, PROMPT_MICROS - 1), None),
            ("in many steps", standing(true, true, PROMPT_STEPS, 0), Some(Line::Long)),
            ("with much to do", standing(true, true, 1, PROMPT_MICROS), Some(Line::Long)),
        ] {
            assert_eq!(standing.line(), line, "{what}");
            standing.open();
            standing.served();
            assert_eq!(standing.line(), None, "{what}: served");
        }
    }

    #[tokio::test]
    async fn those_who_do_not_come_first_share_a_part_of_each_round() {
        as_a_task(async {
            let schedule = schedule();
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, standing(true, false, 0, 0), 3)).collect();
            let (mut before, mut rounds, mut longest) = (0, 0, Duration::ZERO);
            while before < 900 {
                let begun = Instant::now();
                behind_others().await;
                longest = longest.max(begun.elapsed());
                let steps = steps_of(&all);
                let most = usize::try_from(part(4 * longest)).unwrap() / LEAST_MICROS as usize;
                assert!(steps - before <= 2 * most, "{} in a round of {longest:?}", steps - before);
                before = steps;
                rounds += 1;
                assert!(rounds < 100_000, "they all go on");
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
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, standing(true, true, PROMPT_STEPS, 0), 1)).collect();
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
            let all: Vec<_> = (0..300).map(|_| busy(&schedule, standing(true, true, PROMPT_STEPS, 0), 3)).collect();
            behind_others().await;
            let (steps, first) = busy(&schedule, standing(true, true, 0, 0), 10);
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
            let long: Vec<_> = (0..100).map(|_| busy(&schedule, standing(true, true, PROMPT_STEPS, 0), 1)).collect();
            let (steps, new) = busy(&schedule, standing(true, false, 0, 0), 1);
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
            let all: Vec<_> = (0..MOST_NEW).map(|_| busy(&schedule, standing(true, false, 0, 0), 1)).collect();
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
            let all: Vec<_> = (0..10).map(|_| busy(&schedule, standing(true, false, 0, 0), 2)).collect();
            behind_others().await;
            all.iter().step_by(2).for_each(|(_, task)| task.abort());
            tokio::spawn(schedule.clone().run());
            for (number, (_, task)) in all.into_iter().enumerate() {
                assert_eq!(task.await.is_ok(), number % 2 == 1);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_step_knows_when_it_is_long() {
        assert!(!is_long(), "no step");
        let standing = Arc::new(Standing::default());
        let connection = async {
            assert!(!is_long());
            let begun = Instant::now();
            while !is_long() {
                assert!(begun.elapsed() < 1000 * LONG);
            }
        };
        Scheduled::new(connection, standing.clone(), schedule()).await;
        assert!(!is_long());
        assert!(standing.cost() >= 200 && standing.cost() <= MOST_MICROS.into());
    }

    #[tokio::test]
    async fn others_come_between_two_pieces_of_a_long_step_and_each_step_reads_one() {
        for (work, pieces, expected) in [(true, 4, vec![1, 1, 1, 1]), (false, 4, vec![4])] {
            let (mut pace, mut steps, mut left) = (Pace::default(), vec![], pieces);
            let connection = std::future::poll_fn(|cx| {
                steps.push(0);
                // Something else that the connection does before it reads.
                while work && !is_long() {}
                while left > 0 {
                    std::task::ready!(pace.poll(cx));
                    pace.read();
                    left -= 1;
                    *steps.last_mut().unwrap() += 1;
                }
                Poll::Ready(())
            });
            Scheduled::new(connection, Arc::default(), Arc::default()).await;
            assert_eq!(steps, expected, "{work}");
        }
    }
}
