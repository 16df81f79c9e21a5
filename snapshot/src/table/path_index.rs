//! The routes of one host by path.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::model::Route;

/// Exact paths by hash; prefixes by hash for each length that occurs, longest first.
///
/// A lookup costs one hash for the exact map and one for each different prefix length up to the path's: bounded by the
/// rules of the host, whatever path a client sends.
#[derive(Debug, Default)]
pub struct PathIndex {
    exact: HashMap<Arc<str>, Arc<Route>, foldhash::fast::RandomState>,
    prefix: HashMap<Arc<str>, Arc<Route>, foldhash::fast::RandomState>,
    /// Lengths of the prefixes (without a trailing slash), descending.
    lengths: Box<[usize]>,
}

impl PathIndex {
    /// Indexes routes; of two with the same path and type the first counts.
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut index = PathIndex::default();
        let mut lengths = BTreeSet::new();
        for route in routes {
            let path = route.match_path();
            let map = if route.path_type.is_prefix() {
                lengths.insert(path.len());
                &mut index.prefix
            } else {
                &mut index.exact
            };
            // Mostly the path as it is.
            let key = if path.len() == route.path.len() { route.path.clone() } else { Arc::from(path) };
            map.entry(key).or_insert_with(|| route.clone());
        }
        index.lengths = lengths.into_iter().rev().collect();
        index
    }

    /// The route for a normalised path.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        let bytes = path.as_bytes();
        self.lengths
            .iter()
            .filter(|length| bytes.len() == **length || bytes.get(**length) == Some(&b'/'))
            .find_map(|length| self.prefix.get(&path[..*length]))
    }
}
