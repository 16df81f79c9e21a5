//! Lists and watches one feed.
//!
//! Of our own on the client's two calls, and not kube's `watcher`: that one hides the `resourceVersion` of lists and bookmarks,
//! which versions of snapshots are made of, and its back-off and handling of 403 are not ours (ADR 0013).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use sluicegate_snapshot::ObjectKey;

use super::{Failure, Feed, News, Watched, Watcher};

/// Objects per page, where the server does not stream its list.
const PAGE: u32 = 500;

/// Seconds after which the server ends a watch, which then goes on where it was.
const WATCH_SECONDS: u32 = 290;

/// First wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait: an API server that is back is noticed soon.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// How long a feed is denied before that is believed: just after its start an API server says 403 to everybody, until it has
/// loaded its rules.
const BELIEVED_AFTER: Duration = Duration::from_secs(3);

/// Wait between two tries where the rights are missing: a new RoleBinding is noticed soon, and many namespaces without one
/// cost the API server little.
const DENIED_WAIT: Duration = Duration::from_secs(10);

/// The annotation of the bookmark that ends a streamed list.
const LIST_END: &str = "k8s.io/initial-events-end";

/// What the receiver of news does with a task's work.
pub type Feedback = Result<(), ReceiverGone>;

/// Nobody listens any more.
#[derive(Debug)]
pub struct ReceiverGone;

/// Why one pass over a feed ended.
enum Stop {
    Failure(Failure),
    /// The server ended the watch, as it does now and then.
    Renew,
    ReceiverGone,
}

impl From<ReceiverGone> for Stop {
    fn from(_: ReceiverGone) -> Self {
        Stop::ReceiverGone
    }
}

/// A feed on its way.
struct Reflector<K> {
    watcher: Watcher,
    feed: Feed,
    api: Api<K>,
    /// Objects that were passed on and are not gone.
    known: BTreeSet<ObjectKey>,
    /// Where the watch goes on; `None`: a list is needed.
    version: Option<String>,
    /// The server streams lists; `false` once it refused to.
    streams: bool,
    wait: Duration,
    denied_since: Option<Instant>,
}

/// Follows a feed until nobody listens any more.
pub async fn reflect<K: Watched>(watcher: Watcher, feed: Feed) {
    let api = K::api(watcher.client.clone(), feed.namespace.as_deref());
    let mut reflector = Reflector {
        watcher,
        feed,
        api,
        known: BTreeSet::new(),
        version: None,
        streams: true,
        wait: FIRST_WAIT,
        denied_since: None,
    };
    loop {
        let started = Instant::now();
        match reflector.pass().await {
            Stop::ReceiverGone => return,
            // A server, or a proxy before it, that ends every watch at once must not be asked without a pause.
            Stop::Renew if started.elapsed() < FIRST_WAIT => tokio::time::sleep(FIRST_WAIT).await,
            Stop::Renew => {}
            Stop::Failure(failure) => {
                if reflector.failed(failure).is_err() {
                    return;
                }
                tokio::time::sleep(reflector.next_wait()).await;
                let longest = if reflector.is_denied() { DENIED_WAIT } else { LONGEST_WAIT };
                reflector.wait = (reflector.wait * 2).min(longest);
            }
        }
    }
}

impl<K: Watched> Reflector<K> {
    async fn pass(&mut self) -> Stop {
        let result = match (&self.version, self.streams) {
            (None, true) => self.streamed_list().await,
            (None, false) => self.paged_list().await,
            (Some(_), _) => self.watch().await,
        };
        match result {
            Ok(()) => Stop::Renew,
            Err(stop) => stop,
        }
    }

    fn failed(&mut self, failure: Failure) -> Feedback {
        self.watcher.metrics.watch_failed(self.feed.kind);
        match &failure {
            Failure::Gone => self.version = None,
            Failure::Unsupported(message) if self.version.is_none() && self.streams => {
                tracing::debug!(feed = %self.feed, message, "no streaming lists; pages are used");
                self.streams = false;
                return Ok(());
            }
            Failure::Unsupported(_) => self.version = None,
            Failure::Denied { user, .. } => {
                self.denied_since.get_or_insert_with(Instant::now);
                if !self.is_denied() {
                    return Ok(());
                }
                self.send(News::Denied(self.feed.clone(), user.clone()))?;
            }
            Failure::Unauthorized(_) | Failure::Unavailable(_) => {}
        }
        self.watcher.trouble.failed(&self.feed, &failure);
        Ok(())
    }

    fn send(&self, news: News) -> Feedback {
        self.watcher.news.send(news).map_err(|_| ReceiverGone)
    }

    /// Rights are missing, and not only because the API server has just started.
    fn is_denied(&self) -> bool {
        self.denied_since.is_some_and(|since| since.elapsed() >= BELIEVED_AFTER)
    }

    /// The jittered wait; a denial that is not believed yet is asked about again when it would be.
    fn next_wait(&self) -> Duration {
        let wait = self.wait.mul_f64(rand::random_range(0.75..1.25));
        match self.denied_since.filter(|_| !self.is_denied()) {
            Some(since) => wait.min(BELIEVED_AFTER.saturating_sub(since.elapsed())),
            None => wait,
        }
    }

    fn works(&mut self) {
        self.wait = FIRST_WAIT;
        self.denied_since = None;
        self.watcher.trouble.ended(&self.feed);
    }

    fn params(&self) -> WatchParams {
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.label_selector = self.feed.labels.as_deref().map(str::to_owned);
        params
    }

    /// A list as the first part of a watch, object by object: neither side holds it as a whole.
    async fn streamed_list(&mut self) -> Result<(), Stop> {
        self.watcher.metrics.listed(self.feed.kind);
        let params = WatchParams { send_initial_events: true, bookmarks: true, ..self.params() };
        let stream = self.api.watch(&params, "").await.map_err(failure)?;
        let mut stream = std::pin::pin!(stream);
        let mut listed = BTreeSet::new();
        while let Some(event) = stream.try_next().await.map_err(failure)? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    listed.insert(self.put(object)?);
                }
                WatchEvent::Deleted(object) => drop(listed.remove(&self.remove(object)?)),
                WatchEvent::Bookmark(bookmark) => {
                    let is_end = bookmark.metadata.annotations.get(LIST_END).is_some_and(|value| value == "true");
                    let version = bookmark.metadata.resource_version;
                    if is_end {
                        self.listed(listed, version)?;
                        return self.events(stream).await;
                    }
                }
                WatchEvent::Error(status) => return Err(Stop::Failure(Failure::of_status(&status))),
            }
        }
        Ok(())
    }

    async fn paged_list(&mut self) -> Result<(), Stop> {
        self.watcher.metrics.listed(self.feed.kind);
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = self.feed.labels.as_deref().map(str::to_owned);
        let mut listed = BTreeSet::new();
        loop {
            let page = self.api.list(&params).await.map_err(failure)?;
            for object in page.items {
                listed.insert(self.put(object)?);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(self.listed(listed, page.metadata.resource_version.unwrap_or_default())?),
            }
        }
    }

    async fn watch(&mut self) -> Result<(), Stop> {
        let version = self.version.clone().unwrap_or_default();
        let stream = self.api.watch(&self.params(), &version).await.map_err(failure)?;
        if self.denied_since.is_some() {
            // The watch goes on where it was, so everything is known again without a list.
            self.send(News::Listed(self.feed.clone()))?;
        }
        self.works();
        self.events(std::pin::pin!(stream)).await
    }

    async fn events(
        &mut self,
        mut stream: impl futures_util::Stream<Item = kube::Result<WatchEvent<K>>> + Unpin,
    ) -> Result<(), Stop> {
        while let Some(event) = stream.next().await {
            match event.map_err(failure)? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let version = object.meta().resource_version.clone();
                    self.put(object)?;
                    self.version = version.or(self.version.take());
                }
                WatchEvent::Deleted(object) => {
                    let version = object.meta().resource_version.clone();
                    self.remove(object)?;
                    self.seen(version.as_deref())?;
                    self.version = version.or(self.version.take());
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.seen(Some(&bookmark.metadata.resource_version))?;
                    self.version = Some(bookmark.metadata.resource_version);
                }
                WatchEvent::Error(status) => return Err(Stop::Failure(Failure::of_status(&status))),
            }
            self.watcher.metrics.watched(self.feed.kind);
        }
        Ok(())
    }

    fn put(&mut self, object: K) -> Result<ObjectKey, ReceiverGone> {
        let observed = object.observed();
        let trimmed = object.object().trim();
        let key = trimmed.facts.key().clone();
        self.known.insert(key.clone());
        self.send(News::Put(trimmed, observed))?;
        Ok(key)
    }

    fn remove(&mut self, object: K) -> Result<ObjectKey, ReceiverGone> {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, meta.name.as_deref().unwrap_or_default());
        self.known.remove(&key);
        self.send(News::Remove(K::KIND, key.clone()))?;
        Ok(key)
    }

    fn seen(&self, version: Option<&str>) -> Feedback {
        match version.and_then(|text| text.parse().ok()) {
            Some(version) => self.send(News::Seen(K::KIND, version)),
            None => Ok(()),
        }
    }

    /// Everything was listed: what is known and was not listed is gone.
    fn listed(&mut self, listed: BTreeSet<ObjectKey>, version: String) -> Feedback {
        let gone: Vec<ObjectKey> = self.known.difference(&listed).cloned().collect();
        for key in gone {
            self.known.remove(&key);
            self.send(News::Remove(K::KIND, key))?;
        }
        self.seen(Some(&version))?;
        self.version = Some(version);
        self.works();
        self.send(News::Listed(self.feed.clone()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failure(error: kube::Error) -> Stop {
    Stop::Failure(Failure::of(&error))
}
