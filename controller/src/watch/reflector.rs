//! Lists and watches one feed.
//!
//! Of our own on the client's two calls, and not kube's `watcher`: that one hides the `resourceVersion` of lists and bookmarks,
//! which versions of snapshots are made of, and its back-off and handling of 403 are not ours (ADR 0013).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use sluicegate_snapshot::facts::Facts;
use sluicegate_snapshot::{Kind, ObjectKey};

use super::known::Known;
use super::{Failure, Feed, Listed, News, Reach, Watched, Watcher};

/// Objects per page, where the server does not stream its list.
const PAGE: u32 = 500;

/// Seconds after which the server ends a watch, which then goes on where it was.
const WATCH_SECONDS: u32 = 290;

/// A watch that ends so long before [`WATCH_SECONDS`] are over was not ended by them.
const IN_TIME: Duration = Duration::from_secs(2);

/// First wait after a failure, or a watch that ended before its time; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait: an API server that is back is noticed soon.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A watch that lived so long was a good one: the wait begins anew.
const STABLE: Duration = Duration::from_secs(1);

/// How long a feed is denied before that is believed: just after its start an API server says 403 to everybody, until it has
/// loaded its rules.
const BELIEVED_AFTER: Duration = Duration::from_secs(3);

/// Wait between two tries where the rights are missing: a new RoleBinding is noticed soon, and many namespaces without one
/// cost the API server little. For a kind in the whole cluster, which there is once, [`LONGEST_WAIT`] stays.
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
    /// The next one comes at once: what a list read is watched, or a list is needed.
    Next,
    /// The watch ended.
    Ended,
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
    feed: Arc<Feed>,
    api: Api<K>,
    known: Known,
    /// Where the watch goes on; `None`: a list is needed.
    version: Option<String>,
    /// The last event since the last list, with what it put: what a watch after a broken one goes on from.
    anchor: Option<(u64, Option<Facts>)>,
    /// The version was read just now, or the last watch ended when it had to: nothing happened to the server since.
    is_fresh: bool,
    /// The server streams lists; `false` once it refused to.
    streams: bool,
    /// Generation of the last list.
    listed_in: u64,
    wait: Duration,
    denied_since: Option<Instant>,
}

/// Follows a feed until nobody listens any more.
pub async fn reflect<K: Watched>(watcher: Watcher, feed: Feed) {
    let api = K::api(watcher.client.clone(), feed.namespace.as_deref());
    let mut reflector = Reflector {
        watcher,
        feed: Arc::new(feed),
        api,
        known: Known::default(),
        version: None,
        anchor: None,
        is_fresh: false,
        streams: true,
        listed_in: 0,
        wait: FIRST_WAIT,
        denied_since: None,
    };
    loop {
        let started = Instant::now();
        let stop = reflector.pass().await;
        if started.elapsed() >= STABLE {
            reflector.wait = FIRST_WAIT;
        }
        match stop {
            Stop::ReceiverGone => return,
            Stop::Next => continue,
            Stop::Ended if reflector.is_fresh => continue,
            Stop::Ended => {}
            Stop::Failure(failure) => {
                if reflector.failed(failure).is_err() {
                    return;
                }
            }
        }
        // A server, or a proxy before it, that ends every watch at once must not be asked without a pause either.
        reflector.pause().await;
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
            Ok(()) => Stop::Ended,
            Err(stop) => stop,
        }
    }

    /// The jittered wait; the next one is longer.
    async fn pause(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
        let is_one_of_many = self.feed.namespace.is_some() && self.feed.kind != Kind::HostOwners && self.is_denied();
        let longest = if is_one_of_many { DENIED_WAIT } else { LONGEST_WAIT };
        self.wait = (self.wait * 2).min(longest);
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
                self.send(News::Denied((*self.feed).clone(), user.clone()))?;
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
        let generation = self.begin_list();
        let params = WatchParams { send_initial_events: true, bookmarks: true, ..self.params() };
        let asked = Instant::now();
        let stream = self.api.watch(&params, "").await.map_err(failure)?;
        let mut stream = std::pin::pin!(stream);
        let mut listed = BTreeSet::new();
        while let Some(event) = stream.try_next().await.map_err(failure)? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    listed.insert(self.put(object, Reach::Listing)?);
                }
                WatchEvent::Deleted(object) => drop(listed.remove(&self.remove(&object, Reach::Listing)?)),
                WatchEvent::Bookmark(bookmark) => {
                    let is_end = bookmark.metadata.annotations.get(LIST_END).is_some_and(|value| value == "true");
                    let version = bookmark.metadata.resource_version;
                    if is_end {
                        self.listed(&listed, version, generation)?;
                        return self.events(stream, asked).await;
                    }
                }
                WatchEvent::Error(status) => return Err(Stop::Failure(Failure::of_status(&status))),
            }
        }
        Ok(())
    }

    async fn paged_list(&mut self) -> Result<(), Stop> {
        let generation = self.begin_list();
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = self.feed.labels.as_deref().map(str::to_owned);
        let mut listed = BTreeSet::new();
        loop {
            let page = self.api.list(&params).await.map_err(failure)?;
            for object in page.items {
                listed.insert(self.put(object, Reach::Listing)?);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.is_fresh = true;
                    self.listed(&listed, page.metadata.resource_version.unwrap_or_default(), generation)?;
                    return Err(Stop::Next);
                }
            }
        }
    }

    async fn watch(&mut self) -> Result<(), Stop> {
        if !std::mem::take(&mut self.is_fresh) && !self.is_same_history().await? {
            self.version = None;
            return Err(Stop::Next);
        }
        let version = self.version.clone().unwrap_or_default();
        let asked = Instant::now();
        let stream = self.api.watch(&self.params(), &version).await.map_err(failure)?;
        if self.denied_since.is_some() {
            self.send(News::Granted((*self.feed).clone()))?;
        }
        self.works();
        self.events(std::pin::pin!(stream), asked).await
    }

    /// Whether what was seen is still so. While nobody watched, the API server may have been restored from an older state, and
    /// then it has another history: to a version that it has yet to reach a watch of it is silent, and one that it has passed it
    /// takes for its own; neither is an error to it.
    ///
    /// The object of the last event, in that event's version and with its content, proves that the history up to there is the
    /// same, so the watch goes on from there, and not from a later bookmark. Where the last news was a deletion or a list there
    /// is no such proof, and everything is listed.
    async fn is_same_history(&mut self) -> Result<bool, Stop> {
        let Some((version, Some(facts))) = &self.anchor else { return Ok(false) };
        let params = ListParams::default().fields(&format!("metadata.name={}", facts.key().name));
        let list = self.api.list(&params).await.map_err(failure)?;
        let is_there = list.items.into_iter().any(|object| {
            let trimmed = object.object().trim();
            trimmed.resource_version == *version && trimmed.facts == *facts
        });
        if is_there {
            self.version = Some(version.to_string());
        }
        Ok(is_there)
    }

    async fn events(
        &mut self,
        mut stream: impl futures_util::Stream<Item = kube::Result<WatchEvent<K>>> + Unpin,
        asked: Instant,
    ) -> Result<(), Stop> {
        let mut relists = self.watcher.relists.clone();
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                changed = relists.wait_for(|generation| *generation > self.listed_in) => match changed {
                    Ok(_) => {
                        self.version = None;
                        return Err(Stop::Next);
                    }
                    Err(_) => return Err(Stop::ReceiverGone),
                },
            };
            match event {
                Some(event) => self.take(event.map_err(failure)?)?,
                None => {
                    self.is_fresh = asked.elapsed() + IN_TIME >= Duration::from_secs(WATCH_SECONDS.into());
                    return Ok(());
                }
            }
        }
    }

    fn take(&mut self, event: WatchEvent<K>) -> Result<(), Stop> {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.meta().resource_version.clone();
                let reach = self.reach(version.as_deref());
                self.put(object, reach)?;
                version
            }
            WatchEvent::Deleted(object) => {
                let version = object.meta().resource_version.clone();
                let reach = self.reach(version.as_deref());
                self.remove(&object, reach)?;
                version
            }
            WatchEvent::Bookmark(bookmark) => {
                let version = bookmark.metadata.resource_version;
                self.send(News::Seen(self.reach(Some(&version))))?;
                Some(version)
            }
            WatchEvent::Error(status) => return Err(Stop::Failure(Failure::of_status(&status))),
        };
        self.version = newest(self.version.take(), version);
        self.watcher.metrics.watched(self.feed.kind);
        Ok(())
    }

    /// Everything of the feed is known up to an event's version.
    fn reach(&self, version: Option<&str>) -> Reach {
        match version.and_then(|text| text.parse().ok()) {
            Some(version) => Reach::To(self.feed.clone(), version),
            None => Reach::Listing,
        }
    }

    fn put(&mut self, object: K, reach: Reach) -> Result<ObjectKey, ReceiverGone> {
        let observed = object.observed(&self.watcher.field_manager);
        let trimmed = object.object().trim();
        let key = trimmed.facts.key().clone();
        let is_news = match &reach {
            Reach::To(..) => self.known.put(&key, trimmed.resource_version),
            Reach::Listing => {
                self.known.listed(&key, trimmed.resource_version);
                true
            }
        };
        if is_news {
            if let Reach::To(_, version) = &reach {
                self.moves_anchor(*version, Some(&trimmed.facts));
            }
            self.send(News::Put(trimmed, observed, reach))?;
        }
        Ok(key)
    }

    fn remove(&mut self, object: &K, reach: Reach) -> Result<ObjectKey, ReceiverGone> {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, meta.name.as_deref().unwrap_or_default());
        let version = meta.resource_version.as_deref().and_then(|text| text.parse().ok());
        if self.known.remove(&key, version.unwrap_or(u64::MAX)) {
            self.moves_anchor(version.unwrap_or(u64::MAX), None);
            self.send(News::Remove(K::KIND, key.clone(), reach))?;
        }
        Ok(key)
    }

    /// An event came; of an object that is there (`put`), or of one that is gone.
    fn moves_anchor(&mut self, version: u64, put: Option<&Facts>) {
        if self.anchor.as_ref().is_none_or(|(newest, _)| *newest < version) {
            self.anchor = Some((version, put.cloned()));
        }
    }

    /// A list begins; returns its generation.
    fn begin_list(&mut self) -> u64 {
        self.watcher.metrics.listed(self.feed.kind);
        self.listed_in = *self.watcher.relists.borrow();
        self.listed_in
    }

    /// Everything was listed: what is known and was not listed is gone.
    fn listed(&mut self, listed: &BTreeSet<ObjectKey>, version: String, generation: u64) -> Feedback {
        let gone = self.known.retain(listed);
        let number = version.parse().unwrap_or_default();
        self.anchor = None;
        self.version = Some(version);
        self.works();
        self.send(News::Listed(Listed { feed: self.feed.clone(), gone, version: number, generation }))
    }
}

/// The later of two versions: a late event must not take the watch back.
fn newest(old: Option<String>, new: Option<String>) -> Option<String> {
    let number = |version: &Option<String>| version.as_deref().and_then(|text| text.parse::<u64>().ok());
    match (number(&old), number(&new)) {
        (Some(was), Some(is)) if is < was => old,
        _ => new.or(old),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failure(error: kube::Error) -> Stop {
    Stop::Failure(Failure::of(&error))
}
