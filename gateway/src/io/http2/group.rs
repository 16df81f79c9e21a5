//! The streams of a connection run in one task, a few at a time: a hundred that are ready at once, as when their connection ends, have one
//! place among the tasks of their worker, and not a hundred. Those of a client that causes much work take turns, as its frames do.

use std::collections::VecDeque;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::frames::Watched;
use crate::io::admission::network;
use crate::io::turns::{Turns, behind_others, everything_else};
use crate::phase::Connection;

/// Streams that go on before others of the worker do; in a turn it is one.
const AT_A_TIME: usize = 4;

/// The same for a trusted proxy, which carries many clients.
const TRUSTED_AT_A_TIME: usize = 32;

/// See the module.
pub struct Group(Arc<Shared>);

struct Shared {
    at_a_time: usize,
    watched: Arc<Watched>,
    turns: Arc<Turns>,
    /// Whose turns they are.
    network: IpAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Stream>>,
    /// Streams that have not ended.
    count: usize,
    /// The task runs. Where there is no stream, there is no task.
    runs: bool,
    /// Wakes the task, which waits.
    task: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Group {
    /// No stream yet.
    pub fn new(of: &Connection, watched: Arc<Watched>, turns: Arc<Turns>) -> Group {
        let at_a_time = if of.trusted { TRUSTED_AT_A_TIME } else { AT_A_TIME };
        Group(Arc::new(Shared { at_a_time, watched, turns, network: network(of.peer), state: Mutex::default() }))
    }

    /// Runs a stream, also when the connection ends before it. One that panics ends alone.
    pub fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(stream);
        let stream = Stream { of: self.0.clone(), queued: AtomicBool::new(false), future: Mutex::new(Some(future)) };
        let runs = {
            let mut state = self.0.state();
            state.count += 1;
            std::mem::replace(&mut state.runs, true)
        };
        Arc::new(stream).wake();
        if !runs {
            tokio::spawn(self.0.clone().run());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until all streams have ended.
    async fn run(self: Arc<Self>) {
        while let Some(stream) = self.ready().await {
            if self.watched.takes_turns() {
                let _turn = self.turns.acquire(Some(self.network)).await;
                stream.go_on();
                everything_else().await;
                continue;
            }
            stream.go_on();
            for _ in 1..self.at_a_time {
                let next = self.state().ready.pop_front();
                let Some(stream) = next else { break };
                stream.go_on();
            }
            if !self.state().ready.is_empty() {
                behind_others().await;
            }
        }
    }

    /// The next stream that goes on; `None`: all have ended.
    async fn ready(&self) -> Option<Arc<Stream>> {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            if let Some(stream) = state.ready.pop_front() {
                return Poll::Ready(Some(stream));
            }
            if state.count == 0 {
                state.runs = false;
                return Poll::Ready(None);
            }
            state.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// A stream, which is kept by what it waits for.
struct Stream {
    of: Arc<Shared>,
    /// It is among those that are ready.
    queued: AtomicBool,
    /// `None`: it has ended.
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Stream {
    fn go_on(self: Arc<Self>) {
        // What wakes it from now on, it has not seen yet; what did before, it sees.
        self.queued.swap(false, Ordering::AcqRel);
        let waker = Waker::from(self.clone());
        let mut future = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(going) = future.as_mut() else { return };
        let went = catch_unwind(AssertUnwindSafe(|| going.as_mut().poll(&mut Context::from_waker(&waker))));
        if !matches!(went, Ok(Poll::Pending)) {
            let ended = future.take();
            // What it holds may panic as well.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
            self.of.state().count -= 1;
        }
    }
}

impl Wake for Stream {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let of = self.of.clone();
            let mut state = of.state();
            state.ready.push_back(self);
            state.wake();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Nothing is there that could wake it.
        if self.future.get_mut().unwrap_or_else(PoisonError::into_inner).is_some() {
            let mut state = self.of.state();
            state.count -= 1;
            state.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::phase::Scheme;

    fn group(trusted: bool, watched: &Arc<Watched>, turns: &Arc<Turns>) -> Group {
        let address = ([192, 0, 2, 1], 443).into();
        let of = Connection { trusted, ..Connection::new(Scheme::Https, address, address) };
        Group::new(&of, watched.clone(), turns.clone())
    }

    /// Waits, as a task that is ready all the time, until all streams have ended; `each`: whenever it is its turn.
    async fn until_all_have_ended(group: Group, mut each: impl FnMut(usize) + Send + 'static) {
        let other = async move {
            let mut times = 0;
            while group.0.state().runs {
                each(times);
                times += 1;
                behind_others().await;
            }
            assert_eq!(Arc::strong_count(&group.0), 1, "the task has ended, and holds nothing");
        };
        tokio::spawn(other).await.unwrap();
    }

    /// Streams that are ready all the time, and how often they went on in all.
    fn busy(group: &Group, count: usize, times: usize) -> Arc<AtomicUsize> {
        let polls = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let polls = polls.clone();
            group.spawn(async move {
                for _ in 0..times {
                    polls.fetch_add(1, Ordering::Relaxed);
                    behind_others().await;
                }
            });
        }
        polls
    }

    #[tokio::test]
    async fn a_few_streams_go_on_before_others_do() {
        let group = group(false, &Arc::default(), &Arc::default());
        let polls = busy(&group, 100, 3);
        let all = polls.clone();
        until_all_have_ended(group, move |times| {
            let went_on = polls.load(Ordering::Relaxed);
            assert!(went_on <= (times + 1) * AT_A_TIME, "{went_on} after {times} rounds");
        })
        .await;
        assert_eq!(all.load(Ordering::Relaxed), 300);
    }

    #[tokio::test]
    async fn those_of_clients_that_cause_much_work_go_on_one_at_a_time() {
        let (watched, turns) = (Arc::new(Watched::default()), Arc::default());
        watched.set_takes_turns(Instant::now() + Duration::from_secs(60));
        let groups: Vec<_> = (0..10).map(|_| group(false, &watched, &turns)).collect();
        let polls: Vec<_> = groups.iter().map(|group| busy(group, 10, 3)).collect();
        let all = polls.clone();
        for (number, group) in groups.into_iter().enumerate() {
            let polls = polls.clone();
            until_all_have_ended(group, move |times| {
                let went_on: usize = polls.iter().map(|polls| polls.load(Ordering::Relaxed)).sum();
                assert!(number > 0 || went_on <= times + 1, "{went_on} after {times} rounds");
            })
            .await;
        }
        assert!(all.iter().all(|polls| polls.load(Ordering::Relaxed) == 30));
    }

    /// A stream that ends at once, and not well.
    struct PanicsWhenDropped;

    impl Future for PanicsWhenDropped {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("what a stream holds");
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_stream_and_others_may_come_later() {
        let group = group(true, &Arc::default(), &Arc::default());
        for _ in 0..2 {
            let (tell, told) = tokio::sync::oneshot::channel::<()>();
            let ended = Arc::new(AtomicBool::new(false));
            let ends = ended.clone();
            group.spawn(async move {
                let _ = told.await;
                ends.store(true, Ordering::Relaxed);
            });
            group.spawn(async { panic!("a stream that panics") });
            group.spawn(PanicsWhenDropped);
            behind_others().await;
            // One that nothing will wake is not kept.
            group.spawn(std::future::pending());
            let _ = tell.send(());
            while group.0.state().runs {
                behind_others().await;
            }
            assert!(ended.load(Ordering::Relaxed));
        }
    }
}
