//! The addresses that gateways report themselves: on edge VMs and host networks nobody else knows them.
//!
//! A gateway is connected to one controller, and the one that writes statuses may be another. So each controller notes what its
//! gateways report in an annotation of the Lease that all of them look at every second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluicegate_snapshot::compile::PublishAddress;
use tokio::sync::watch;
use tokio::time::interval;

use crate::publish::Publication;
use crate::watch::News;

/// How long a gateway that is gone still counts: one that restarts must not take its address out of every status.
const LINGER: Duration = Duration::from_secs(60);

/// How long after the start nothing is published: gateways are only just coming.
const SETTLE: Duration = Duration::from_secs(10);

/// How often a controller says in the Lease that it is still there.
const RENEW: Duration = Duration::from_secs(30);

/// How long what another controller noted counts when it is not renewed.
const STALE: Duration = Duration::from_secs(90);

/// Begins the names of the annotations.
const PREFIX: &str = "gateways.sluicegate.dev/";

/// Addresses, as text.
pub type Addresses = BTreeSet<Arc<str>>;

/// Addresses that were reported lately.
#[derive(Debug, Default)]
struct Lately(BTreeMap<Arc<str>, Instant>);

impl Lately {
    fn look(&mut self, reported: impl IntoIterator<Item = Arc<str>>, now: Instant) -> Addresses {
        self.0.extend(reported.into_iter().map(|address| (address, now)));
        self.0.retain(|_, seen| now.duration_since(*seen) < LINGER);
        self.0.keys().cloned().collect()
    }
}

/// Follows what gateways report, here and at the other controllers, until nobody listens any more.
pub async fn follow(
    publication: Arc<Publication>,
    own: watch::Sender<Addresses>,
    others: watch::Receiver<Addresses>,
    news: Sender<News>,
) {
    let mut lately = Lately::default();
    let mut published = BTreeSet::new();
    let started = Instant::now();
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let reported = publication.gateways().into_iter().flat_map(|gateway| gateway.addresses);
        let here = lately.look(reported, Instant::now());
        own.send_if_modified(|own| std::mem::replace(own, here.clone()) != here);
        let all: BTreeSet<PublishAddress> = here.union(&others.borrow()).filter_map(|text| text.parse().ok()).collect();
        // Without any gateway what was published stays: whoever reads it would take the whole edge away.
        if started.elapsed() < SETTLE || all.is_empty() || all == published {
            continue;
        }
        if news.send(News::Addresses(all.iter().cloned().collect())).is_err() {
            return;
        }
        published = all;
    }
}

/// The annotations of the Lease, seen by one controller.
pub struct Board {
    /// What its own gateways report.
    own: watch::Receiver<Addresses>,
    /// What those of the others do.
    others: watch::Sender<Addresses>,
    /// Its own annotation.
    name: String,
    /// What was written last: its text may have been refused since, where somebody else was faster.
    written: Option<(String, Addresses, Instant)>,
    renewals: u64,
    /// The others' annotations, and since when each is as it is. Other machines' clocks do not matter.
    seen: BTreeMap<String, (String, Instant)>,
}

/// An annotation's value.
#[derive(Serialize, Deserialize)]
struct Note {
    addresses: Addresses,
    /// How often it was renewed: makes it another text.
    renewals: u64,
}

impl Board {
    /// The board of the controller with this number.
    pub fn new(number: u32, own: watch::Receiver<Addresses>, others: watch::Sender<Addresses>) -> Self {
        Board { own, others, name: format!("{PREFIX}{number:08x}"), written: None, renewals: 0, seen: BTreeMap::new() }
    }

    /// Reads what others wrote, and writes what has to be written. True: the annotations are other ones now.
    pub fn exchange(&mut self, annotations: &mut BTreeMap<String, String>, now: Instant) -> bool {
        let is_foreign = |name: &&String| name.starts_with(PREFIX) && **name != self.name;
        let foreign: BTreeSet<String> = annotations.keys().filter(is_foreign).cloned().collect();
        self.seen.retain(|name, _| foreign.contains(name));
        let mut others = Addresses::new();
        let mut changed = false;
        for name in foreign {
            let Some(value) = annotations.get(&name).cloned() else { continue };
            let (known, since) = self.seen.entry(name.clone()).or_insert_with(|| (value.clone(), now));
            if *known != value {
                (*known, *since) = (value.clone(), now);
            }
            if now.duration_since(*since) >= STALE {
                annotations.remove(&name);
                changed = true;
            } else if let Ok(note) = serde_json::from_str::<Note>(&value) {
                others.extend(note.addresses);
            }
        }
        self.others.send_if_modified(|known| std::mem::replace(known, others.clone()) != others);
        self.write(annotations, now) || changed
    }

    fn write(&mut self, annotations: &mut BTreeMap<String, String>, now: Instant) -> bool {
        let own = self.own.borrow().clone();
        if own.is_empty() {
            self.written = None;
            return annotations.remove(&self.name).is_some();
        }
        let is_fresh = |addresses: &Addresses, when: &Instant| *addresses == own && now.duration_since(*when) < RENEW;
        let fresh = self.written.take_if(|(_, addresses, when)| is_fresh(addresses, when));
        let (text, addresses, when) = fresh.unwrap_or_else(|| {
            self.renewals += 1;
            let note = Note { addresses: own.clone(), renewals: self.renewals };
            (serde_json::to_string(&note).unwrap_or_default(), own, now)
        });
        let is_there = annotations.get(&self.name) == Some(&text);
        if !is_there {
            annotations.insert(self.name.clone(), text.clone());
        }
        self.written = Some((text, addresses, when));
        !is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Addresses {
        texts.iter().map(|text| Arc::from(*text)).collect()
    }

    #[test]
    fn a_gateway_that_is_gone_counts_for_a_minute() {
        let (mut lately, now) = (Lately::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(lately.look(addresses(&["a", "b"]), at(0)), addresses(&["a", "b"]));
        assert_eq!(lately.look(addresses(&["b"]), at(59)), addresses(&["a", "b"]));
        assert_eq!(lately.look(addresses(&["b"]), at(60)), addresses(&["b"]));
        assert_eq!(lately.look(addresses(&["a", "b"]), at(61)), addresses(&["a", "b"]));
    }

    #[test]
    fn controllers_read_each_others_notes_until_they_are_stale() {
        let board = |number, own: &[&str]| {
            let (own_sender, own) = watch::channel(addresses(own));
            let (others, seen) = watch::channel(Addresses::new());
            (Board::new(number, own, others), own_sender, seen)
        };
        let (mut one, own, seen_by_one) = board(1, &["192.0.2.1"]);
        let (mut two, _own, seen_by_two) = board(2, &["192.0.2.2"]);
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut lease = BTreeMap::from([("somebody.test/else".to_owned(), "x".to_owned())]);
        assert!(one.exchange(&mut lease, at(0)), "it is written");
        assert!(!one.exchange(&mut lease, at(1)), "and not again");
        assert!(two.exchange(&mut lease, at(1)));
        assert_eq!(*seen_by_two.borrow(), addresses(&["192.0.2.1"]));
        assert!(!one.exchange(&mut lease, at(2)));
        assert_eq!(*seen_by_one.borrow(), addresses(&["192.0.2.2"]));
        let before = lease.clone();
        own.send(addresses(&["192.0.2.7"])).unwrap();
        assert!(one.exchange(&mut lease, at(3)), "another address");
        // Somebody was faster, and it was not taken: the Lease is read again as it was.
        lease = before;
        assert!(one.exchange(&mut lease, at(4)), "so it is written again");
        assert!(lease["gateways.sluicegate.dev/00000001"].contains("192.0.2.7"));
        assert!(!one.exchange(&mut lease, at(5)));
        assert!(one.exchange(&mut lease, at(33)), "renewed");
        // The second is never heard of again.
        assert_eq!(*seen_by_one.borrow(), addresses(&["192.0.2.2"]));
        one.exchange(&mut lease, at(92));
        assert_eq!(*seen_by_one.borrow(), addresses(&[]));
        own.send(addresses(&[])).unwrap();
        assert!(one.exchange(&mut lease, at(93)));
        assert_eq!(lease.into_keys().collect::<Vec<_>>(), ["somebody.test/else"]);
    }
}
