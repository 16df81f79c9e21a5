//! Old tables until nobody reads them: the last owner drops a table, and that must be this thread and no worker.

use std::sync::Arc;

/// Tables that were replaced.
#[derive(Debug)]
pub(super) struct Retired<T = crate::table::Table>(Vec<Arc<T>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Retired(Vec::new())
    }
}

impl<T> Retired<T> {
    /// Keeps a table, and drops those that are free by now.
    pub(super) fn push(&mut self, table: Arc<T>) {
        self.sweep();
        self.0.push(table);
    }

    /// Drops what only this list owns.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|table| Arc::strong_count(table) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_kept_while_a_reader_has_it() {
        let (mut retired, table) = (Retired::default(), Arc::new(1));
        let reader = table.clone();
        retired.push(table);
        retired.sweep();
        assert_eq!(Arc::strong_count(&reader), 2);
        let weak = Arc::downgrade(&reader);
        drop(reader);
        assert!(weak.upgrade().is_some(), "the reader's drop does not free it");
        retired.sweep();
        assert!(weak.upgrade().is_none());
    }
}
