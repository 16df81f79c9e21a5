//! How many CPUs the process may use, and pinning.

/// CPUs by affinity mask and cgroup quota (the standard library counts both), at least one.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins the calling thread to the `index`-th CPU of its affinity mask.
pub fn pin(index: usize) {
    let Ok(mask) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect();
    let Some(cpu) = cpus.get(index % cpus.len().max(1)) else { return };
    let mut one = rustix::thread::CpuSet::new();
    one.set(*cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &one) {
        tracing::warn!(index, %error, "worker cannot be pinned");
    }
}

/// Whether pinning is right without being asked for: exactly one CPU per worker, so that no other process was promised
/// them by a quota.
pub fn mask_fits(workers: usize) -> bool {
    rustix::thread::sched_getaffinity(None)
        .is_ok_and(|mask| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).count() == workers)
}
