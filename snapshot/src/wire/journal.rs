//! The last changes, encoded once for all gateways. A gateway that reads slowly holds a position in it and no queue of its own:
//! one that falls behind its end gets everything again.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::Digest;

/// Most bytes of changes that are kept.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Most changes that are kept.
const MAX_ENTRIES: usize = 4096;

/// A position: the number of the next change to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

/// What a reader of the journal has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It has everything.
    Nothing,
    /// To take this change, an encoded frame, and to go on behind it.
    Change(Arc<[u8]>, Cursor),
    /// The change at its position was dropped: it needs everything.
    Dropped,
}

#[derive(Debug)]
struct Entry {
    base: Digest,
    frame: Arc<[u8]>,
}

/// Changes, oldest first.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    bytes: usize,
}

impl Journal {
    /// Adds a change of what has the digest `base`.
    pub fn push(&mut self, base: Digest, frame: Arc<[u8]>) {
        self.bytes += frame.len();
        self.entries.push_back(Entry { base, frame });
        while self.entries.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.entries.len() > 1) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.frame.len();
                self.first += 1;
            }
        }
    }

    /// Forgets all changes, because one could not be encoded: whoever reads needs everything.
    pub fn clear(&mut self) {
        // One number is passed over, so that a cursor at the end falls out too.
        self.first += self.entries.len() as u64 + 1;
        self.entries.clear();
        self.bytes = 0;
    }

    /// The position after all changes.
    pub fn end(&self) -> Cursor {
        Cursor(self.first + self.entries.len() as u64)
    }

    /// Where to go on for somebody who has the content `have`; `None`: not known any more.
    pub fn find(&self, have: Digest, current: Digest) -> Option<Cursor> {
        if have == current {
            return Some(self.end());
        }
        // The newest one: content may come back to what it was.
        let index = self.entries.iter().rposition(|entry| entry.base == have)?;
        Some(Cursor(self.first + index as u64))
    }

    /// What stands at a position.
    pub fn read(&self, cursor: Cursor) -> Next {
        let Some(index) = cursor.0.checked_sub(self.first) else { return Next::Dropped };
        match usize::try_from(index).ok().and_then(|index| self.entries.get(index)) {
            Some(entry) => Next::Change(entry.frame.clone(), Cursor(cursor.0 + 1)),
            None => Next::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of("test", &number, &number)
    }

    fn frame(number: u8, length: usize) -> Arc<[u8]> {
        vec![number; length].into()
    }

    #[test]
    fn a_reader_goes_on_where_its_content_was_the_base() {
        let mut journal = Journal::default();
        (0..5).for_each(|number| journal.push(digest(number), frame(number, 1)));
        let cursor = journal.find(digest(3), digest(5)).unwrap();
        let Next::Change(read, cursor) = journal.read(cursor) else { panic!() };
        assert_eq!(*read, [3]);
        let Next::Change(read, cursor) = journal.read(cursor) else { panic!() };
        assert_eq!(*read, [4]);
        assert_eq!(journal.read(cursor), Next::Nothing);
        assert_eq!(journal.find(digest(5), digest(5)), Some(journal.end()), "equal content needs nothing");
        assert_eq!(journal.find(digest(9), digest(5)), None);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_whoever_needs_it_is_told() {
        let mut journal = Journal::default();
        journal.push(digest(0), frame(0, MAX_BYTES / 2 + 1));
        let old = journal.find(digest(0), digest(2)).unwrap();
        journal.push(digest(1), frame(1, MAX_BYTES / 2));
        assert_eq!(journal.read(old), Next::Dropped);
        assert!(journal.find(digest(0), digest(2)).is_none());
        let mut journal = Journal::default();
        let first = journal.end();
        (0..=MAX_ENTRIES).for_each(|number| journal.push(digest((number % 250) as u8), frame(0, 1)));
        assert_eq!(journal.read(first), Next::Dropped);
    }

    #[test]
    fn after_a_change_without_a_frame_nobody_can_go_on() {
        let mut journal = Journal::default();
        journal.push(digest(0), frame(0, 1));
        let end = journal.end();
        journal.clear();
        assert_eq!(journal.read(end), Next::Dropped);
        assert_eq!(journal.read(journal.end()), Next::Nothing);
    }
}
