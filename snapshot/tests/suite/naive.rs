//! The rules read linearly, as the API's documentation says them: the oracle for the table.

use std::sync::Arc;

use sluicegate_snapshot::model::{PathType, Route};
use sluicegate_snapshot::{HostPattern, Snapshot};

/// Finds the route of a request by going through every host and every route.
pub fn route<'a>(snapshot: &'a Snapshot, host: &str, path: &str) -> Option<&'a Arc<Route>> {
    let covering = |rank: fn(&HostPattern) -> bool| {
        snapshot.hosts.iter().find(|(pattern, _)| rank(pattern) && covers(pattern, host)).map(|(_, host)| host)
    };
    let chosen = covering(|pattern| matches!(pattern, HostPattern::Exact(_)))
        .or_else(|| covering(|pattern| matches!(pattern, HostPattern::Wildcard(_))))
        .or_else(|| covering(|pattern| matches!(pattern, HostPattern::Any)));
    let in_host = chosen.and_then(|host| {
        let exact = host.routes.iter().find(|route| route.path_type == PathType::Exact && *route.path == *path);
        let prefix = host
            .routes
            .iter()
            .filter(|route| route.path_type != PathType::Exact && is_element_prefix(&route.path, path))
            .max_by_key(|route| elements(&route.path).len());
        exact.or(prefix).or(host.default.as_ref())
    });
    in_host.or(snapshot.globals.catch_all.as_ref()).or(snapshot.globals.default_backend.as_ref())
}

fn covers(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(name) => **name == *host,
        HostPattern::Wildcard(suffix) => {
            let mut labels = host.split('.');
            let first = labels.next().unwrap_or_default();
            !first.is_empty() && labels.eq(suffix.split('.'))
        }
    }
}

/// Elements of a path; a slash at the end adds none.
fn elements(path: &str) -> Vec<&str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').skip(1).collect()
}

fn is_element_prefix(rule: &str, path: &str) -> bool {
    let (rule, path): (Vec<&str>, Vec<&str>) = (elements(rule), path.split('/').skip(1).collect());
    rule.len() <= path.len() && rule.iter().zip(path).all(|(one, other)| *one == other)
}
