//! Secrets and ConfigMaps: watched in the namespaces where an Ingress of ours names one, as long as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluicegate_snapshot::{Kind, World};
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
    /// What a world names; nothing where Secrets are watched everywhere. Costs O(namespaces + classes).
    pub fn of(world: &World) -> Self {
        match world.settings().guarded {
            true => Needs { secrets: world.namespaces_of_secrets(), config_maps: world.namespaces_of_config_maps() },
            false => Needs::default(),
        }
    }

    /// Whether it is known of all of them what is there, or that it may not be read.
    pub fn are_settled(&self, world: &World) -> bool {
        let settled = |kind: Kind, namespaces: &BTreeSet<Arc<str>>| {
            namespaces.iter().all(|namespace| world.is_settled(kind, namespace))
        };
        settled(Kind::Secret, &self.secrets) && settled(Kind::ConfigMap, &self.config_maps)
    }

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
