//! What each piece of news asks of the next pass: edits of the world, and what has to be looked at besides.

use std::collections::BTreeSet;
use std::time::Instant;

use sluicegate_snapshot::compile::Access;
use sluicegate_snapshot::facts::{Facts, Trimmed};
use sluicegate_snapshot::{Edit, Kind, ObjectKey};

use super::{Batch, Compiler, Stage, access};
use crate::owners::Notice;
use crate::watch::{Feed, Listed, News, Reach};

impl Compiler {
    pub(super) fn take(&mut self, news: News, batch: &mut Batch) {
        match news {
            News::Put(object, observed, reach) => {
                self.reach(&reach);
                self.put(object, observed, matches!(reach, Reach::Listing), batch);
            }
            News::Remove(kind, key, reach) => {
                self.reach(&reach);
                self.remove(kind, key, batch);
            }
            News::Seen(reach) => self.reach(&reach),
            News::Listed(listed) => self.listed(listed, batch),
            News::Granted(feed) => batch.edits.extend(access(&feed, Access::Granted)),
            News::Denied(feed, user) => {
                self.position.loses(&feed);
                self.relist.lost(&feed);
                batch.edits.extend(access(&feed, Access::Denied { user }));
            }
            News::Claimed(version) => self.relist.claim(version, Instant::now()),
            News::Time(now) => batch.edits.push(Edit::Now(now)),
            News::Doubted(loss) => {
                self.ledger.held(&loss);
                self.relist.doubt(Instant::now());
            }
            News::Ended(feed) => {
                self.position.loses(&feed);
                self.relist.lost(&feed);
                let Some(namespace) = feed.namespace else { return };
                // Those of the world, and those that came in this batch.
                let came = batch.edits.iter().filter_map(|edit| match edit {
                    Edit::PutTrimmed(object) if object.facts.kind() == feed.kind => Some(object.facts.key()),
                    _ => None,
                });
                let came = came.filter(|key| key.namespace == namespace).cloned();
                let gone: Vec<ObjectKey> = came.chain(self.world.objects_in(feed.kind, &namespace)).collect();
                batch.edits.extend(gone.into_iter().map(|key| Edit::Remove(feed.kind, key)));
                batch.edits.push(Edit::Access(feed.kind, namespace, Access::Pending));
            }
            News::Addresses(addresses) => {
                self.desk.set_addresses(addresses);
                batch.all_statuses = true;
            }
            News::Acknowledged => {
                if let Some(by) = self.publication.acknowledged() {
                    self.ledger.acknowledged(&by);
                }
            }
            News::Leads(leads) => {
                self.ledger.lead(leads);
                if self.stage == Stage::Publishing {
                    self.ledger.tell_all(&self.world);
                }
                self.desk.lead(leads);
                batch.all_statuses |= leads;
            }
            News::Clear(done) => {
                self.desk.clear();
                self.desk.flush(done);
                batch.stop = true;
            }
            News::Stop => batch.stop = true,
        }
    }

    fn remove(&mut self, kind: Kind, key: ObjectKey, batch: &mut Batch) {
        if kind == Kind::Ingress {
            self.desk.forget(&key);
            self.ledger.forget(&key);
        }
        if kind == Kind::HostOwners {
            self.note(Notice::Record { key: key.clone(), found: None, is_certain: true });
        }
        batch.edits.push(Edit::Remove(kind, key));
    }

    fn reach(&mut self, reach: &Reach) {
        match reach {
            // What a list shows counts when it is complete: until then what is known does not reach as far.
            Reach::Listing => {}
            Reach::To(feed, version) => {
                self.position.shows(feed.kind, *version);
                self.position.reaches(feed, *version);
            }
        }
    }

    fn listed(&mut self, Listed { feed, gone, version, generation }: Listed, batch: &mut Batch) {
        batch.listed |= !gone.is_empty();
        gone.into_iter().for_each(|key| self.remove(feed.kind, key, batch));
        if !self.position.lists(&feed, version) {
            self.restored();
            self.position.lists(&feed, version);
        }
        self.relist.listed(&feed, generation);
        if self.unlisted.remove(&*feed) {
            self.shared.set_unlisted(&self.unlisted);
        }
        batch.edits.extend(access(&feed, Access::Granted));
    }

    /// The API server went back to an older state: a new epoch begins, in which everything has to be listed.
    fn restored(&mut self) {
        let feeds = self.followed();
        self.position.restart(self.position.epoch() + 1);
        tracing::error!(
            epoch = self.position.epoch(),
            "the API server was restored from an older state; a new epoch begins, and everything is listed anew"
        );
        self.note(Notice::Restored);
        self.relist.begin(feeds, Instant::now());
        if self.stage == Stage::Publishing {
            self.stage = Stage::Restoring;
        }
    }

    /// The feeds that list.
    pub(super) fn followed(&self) -> BTreeSet<Feed> {
        self.feeds.iter().chain(self.position.feeds()).cloned().collect()
    }

    fn put(&mut self, object: Trimmed, observed: Option<crate::watch::Observed>, is_listed: bool, batch: &mut Batch) {
        if let Some(observed) = observed {
            let key = object.facts.key();
            if self.ledger.observe(key, &observed) {
                batch.renewed.insert(key.clone());
            }
            self.desk.observe(key, observed);
            batch.ingresses.insert(key.clone());
        }
        if let Facts::HostOwners(facts) = &object.facts {
            let found = Some((facts.clone(), object.resource_version));
            self.note(Notice::Record { key: facts.key.clone(), found, is_certain: is_listed });
        }
        batch.edits.push(Edit::PutTrimmed(object));
    }
}
