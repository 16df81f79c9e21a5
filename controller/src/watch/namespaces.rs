//! Secrets and ConfigMaps: watched in the namespaces where an Ingress of ours names one, as long as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluicegate_snapshot::Kind;
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use super::{Feed, News, Watcher};

/// The namespaces whose Secrets and ConfigMaps are named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of Secrets.
    pub secrets: BTreeSet<Arc<str>>,
    /// Of ConfigMaps.
    pub config_maps: BTreeSet<Arc<str>>,
}

impl Needs {
    fn feeds(&self) -> BTreeSet<Feed> {
        let feed =
            |kind: Kind| move |namespace: &Arc<str>| Feed { kind, namespace: Some(namespace.clone()), labels: None };
        let secrets = self.secrets.iter().map(feed(Kind::Secret));
        secrets.chain(self.config_maps.iter().map(feed(Kind::ConfigMap))).collect()
    }
}

/// Starts a feed for every namespace that is needed, and ends those that no longer are.
pub async fn follow_needs(watcher: Watcher, mut needs: Receiver<Needs>) {
    let mut running: BTreeMap<Feed, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = needs.borrow_and_update().feeds();
        running.retain(|feed, task| {
            let stays = wanted.contains(feed);
            if !stays {
                task.abort();
                watcher.trouble.ended(feed);
                let _ = watcher.news.send(News::Ended(feed.clone()));
            }
            stays
        });
        for feed in wanted {
            let start = || tokio::spawn(watcher.clone().follow(feed.clone()));
            running.entry(feed.clone()).or_insert_with(start);
        }
        if needs.changed().await.is_err() {
            return;
        }
    }
}
