//! What the machine itself does meanwhile. Others' work on a shared one stops a CPU for tens of milliseconds at times, and everybody on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(1);

/// Who is late by less was woken up late, as all are at times.
const USUAL: Duration = Duration::from_micros(500);

/// A thread on each CPU that comes before all others, and does nothing: when it is late, its CPU stood still.
pub struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Watch {
    /// Begins.
    pub fn start() -> Watch {
        let stop = Arc::<AtomicBool>::default();
        let cpus = rustix::thread::sched_getaffinity(None).unwrap();
        let watch = |cpu| {
            let stop = stop.clone();
            std::thread::spawn(move || watch(cpu, &stop))
        };
        let threads = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).map(watch).collect();
        Watch { stop, threads }
    }

    /// How long a CPU stood still in all, the one that did so longest; nothing where that cannot be told.
    pub fn lost(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.threads.into_iter().map(|thread| thread.join().unwrap());
        lost.max().unwrap_or_default()
    }
}

fn watch(cpu: usize, stop: &AtomicBool) -> Duration {
    let mut lost = Duration::ZERO;
    // One that does not come before all others is late as well when the gateway is at work: the turns in which it did little must not be preferred.
    if !super::before_all_on(cpu) {
        return lost;
    }
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + EVERY;
        std::thread::park_timeout(EVERY);
        let late = due.elapsed();
        if late > USUAL {
            lost += late;
        }
    }
    lost
}
