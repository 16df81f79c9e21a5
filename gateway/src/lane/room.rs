//! How many requests may be on their way to backends at a time. Each needs memory and a descriptor, and an HTTP/2 connection may ask for a
//! hundred: where more than half of the room is used, each of them gets the fewer the less is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::observe::Cells;

/// Memory that is taken for what a request needs, on average (`make attack`: a body that does not end, 42 KiB).
const MEMORY_EACH: u64 = 48 * 1024;

/// The default: what `connections` of clients leave of so many descriptors, and no more than three quarters of the memory.
pub fn default_limit(descriptors: u64, memory: Option<u64>, connections: usize) -> usize {
    // However many connections somebody wishes for: a quarter is left.
    let by_files = descriptors.saturating_sub(connections as u64).max(descriptors / 4);
    let by_memory = memory.map_or(u64::MAX, |bytes| bytes / 4 * 3 / MEMORY_EACH);
    usize::try_from(by_files.min(by_memory)).unwrap_or(usize::MAX).clamp(16, 1_000_000)
}

/// See the module.
#[derive(Debug)]
pub struct Room {
    limit: usize,
    /// What a worker has for itself, without looking at the others: half of its share.
    own: usize,
    /// Streams of an HTTP/2 connection where there is room for all.
    streams: usize,
}

fn of(cells: &Cells) -> usize {
    usize::try_from(cells.in_flight.load(Ordering::Relaxed)).unwrap_or(0)
}

impl Room {
    /// For so many requests of so many workers; `streams`: of an HTTP/2 connection, at most.
    pub fn new(limit: usize, workers: usize, streams: usize) -> Self {
        Room { limit, own: limit / workers.max(1) / 2, streams }
    }

    /// What is left, if every worker uses what it has for itself.
    fn left(&self, all: &[Arc<Cells>]) -> usize {
        let used: usize = all.iter().map(|cells| of(cells).max(self.own)).sum();
        self.limit.saturating_sub(used)
    }

    /// Whether another request has room. `own`: the worker's. Costs one load where it uses no more than it has for itself.
    pub fn has(&self, own: &Cells, all: &[Arc<Cells>]) -> bool {
        of(own) < self.own || self.left(all) > 0
    }

    /// Streams that one HTTP/2 connection may have.
    pub fn streams(&self, own: &Cells, all: &[Arc<Cells>]) -> usize {
        if of(own) < self.own {
            return self.streams;
        }
        (2 * self.streams * self.left(all) / self.limit.max(1)).clamp(1, self.streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_descriptors_and_memory_are_enough_for() {
        assert_eq!(default_limit(64_000, None, 32_000), 32_000);
        assert_eq!(default_limit(1 << 20, Some(512 << 20), 10_922), 8192);
        assert_eq!(default_limit(64_000, None, 65_000), 16_000);
        assert_eq!(default_limit(20, None, 100), 16);
    }

    #[test]
    fn the_less_room_is_left_the_fewer_streams_a_connection_has() {
        let all = [Arc::new(Cells::default()), Arc::new(Cells::default())];
        let room = Room::new(1000, 2, 100);
        // Of the two workers one has all the requests.
        for (used, streams, has) in
            [(0, 100, true), (250, 100, true), (350, 80, true), (500, 50, true), (745, 1, true), (750, 1, false)]
        {
            all[0].in_flight.store(used, Ordering::Relaxed);
            assert_eq!((room.streams(&all[0], &all), room.has(&all[0], &all)), (streams, has), "{used}");
        }
        assert!(room.has(&all[1], &all), "it has something for itself");
        assert_eq!(room.streams(&all[1], &all), 100);
        all[1].in_flight.store(250, Ordering::Relaxed);
        assert!(!room.has(&all[1], &all), "never more than the limit");
    }
}
