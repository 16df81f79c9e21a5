//! Which of several controllers writes statuses and Events: the holder of a Lease.
//!
//! Of our own on three calls, as client-go's leader election does it. Libraries for it compare clocks of different machines, write
//! without a condition, or look at a Lease that was given back only when it would have expired (ADR 0018).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use sluicegate_snapshot::ObjectKey;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::status::Board;
use crate::watch::Failure;

/// Seconds after which a holder that no longer renews has lost the Lease.
const DURATION: i32 = 10;

/// How often the holder renews, and the others look: one that is given back finds its next holder soon.
const STEP: Duration = Duration::from_secs(1);

/// A holder that could not renew for so long stops. It looks every five seconds at the latest ([`CALL_LIMIT`] and [`RETRY`]), so
/// that it has stopped before anybody else may begin.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest wait for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// How often the Lease is read again because somebody wrote in between.
const MAX_TRIES: usize = 3;

/// What became of one look at the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It is ours, from the moment before the call.
    Held,
    /// It is somebody else's, or somebody was faster.
    Others,
}

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    key: ObjectKey,
    /// By this name it holds the Lease.
    identity: String,
    /// Where controllers tell each other what their gateways report, if anybody wants to know.
    board: Option<Board>,
    /// The holder and time of renewal that were seen last, and since when: other machines' clocks do not matter.
    seen: Option<(Option<String>, Option<Timestamp>, Instant)>,
}

impl Candidate {
    /// A candidate for this Lease, with the number that tells processes on one machine apart.
    pub fn new(client: Client, key: ObjectKey, number: u32, board: Option<Board>) -> Self {
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let identity = format!("{machine}_{number:08x}");
        Candidate { api: Api::namespaced(client, &key.namespace), key, identity, board, seen: None }
    }

    /// Holds the Lease whenever it can, and says in `leads` whether it does; until `stop`, when it gives it back.
    pub async fn run(mut self, leads: watch::Sender<bool>, mut stop: oneshot::Receiver<oneshot::Sender<()>>) {
        let mut held_since: Option<Instant> = None;
        let mut trouble: Option<String> = None;
        let done = loop {
            let asked = Instant::now();
            let wait = match timeout(CALL_LIMIT, self.look()).await {
                Ok(Ok(look)) => {
                    trouble = None;
                    held_since = (look == Look::Held).then_some(asked);
                    STEP
                }
                Ok(Err(failure)) => {
                    self.say(&mut trouble, failure.sentence());
                    RETRY
                }
                Err(_) => {
                    self.say(&mut trouble, "the API server does not answer".to_owned());
                    RETRY
                }
            };
            self.tell(&leads, held_since.is_some_and(|since| since.elapsed() < DEADLINE));
            let wait = wait.mul_f64(rand::random_range(0.8..1.0));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                done = &mut stop => break done,
            }
        };
        self.tell(&leads, false);
        if held_since.is_some() && !matches!(timeout(CALL_LIMIT, self.give_back()).await, Ok(Ok(()))) {
            tracing::warn!(lease = %self.key, "the Lease could not be given back; it expires");
        }
        if let Ok(done) = done {
            let _ = done.send(());
        }
    }

    fn say(&self, said: &mut Option<String>, sentence: String) {
        if said.as_ref() != Some(&sentence) {
            tracing::warn!(lease = %self.key, "no leader can be elected: {sentence}; statuses and Events are not written until it works");
            *said = Some(sentence);
        }
    }

    fn tell(&self, leads: &watch::Sender<bool>, is_leader: bool) {
        leads.send_if_modified(|leads| {
            let is_news = *leads != is_leader;
            if is_news {
                let what = if is_leader { "leads" } else { "no longer leads" };
                tracing::info!(lease = %self.key, identity = self.identity, "this controller {what}: statuses and Events are the leader's");
            }
            *leads = is_leader;
            is_news
        });
    }

    async fn look(&mut self) -> Result<Look, Failure> {
        // Others write into the Lease as well, and that takes nothing from its holder.
        for _ in 1..MAX_TRIES {
            if let Some(look) = self.try_to_look().await? {
                return Ok(look);
            }
        }
        Ok(self.try_to_look().await?.unwrap_or(Look::Others))
    }

    /// `None`: somebody wrote in between.
    async fn try_to_look(&mut self) -> Result<Option<Look>, Failure> {
        let Some(mut lease) = self.api.get_opt(&self.key.name).await.map_err(|error| Failure::of(&error))? else {
            let metadata = ObjectMeta { name: Some(self.key.name.to_string()), ..ObjectMeta::default() };
            let spec = Some(self.held(None));
            let lease = Lease { metadata, spec };
            return Self::written(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        let renewed = spec.renew_time.as_ref().map(|time| time.0);
        let is_news = self.seen.as_ref().is_none_or(|(by, when, _)| *by != holder || *when != renewed);
        if is_news {
            self.seen = Some((holder.clone(), renewed, Instant::now()));
        }
        let unchanged_for = self.seen.as_ref().map_or(Duration::ZERO, |(_, _, since)| since.elapsed());
        let duration = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(DURATION)).unwrap_or(0));
        let may_take = match &holder {
            None => true,
            Some(holder) => *holder == self.identity || unchanged_for > duration,
        };
        let annotations = lease.metadata.annotations.get_or_insert_default();
        let has_news = self.board.as_mut().is_some_and(|board| board.exchange(annotations, Instant::now()));
        if !may_take {
            if has_news {
                return Ok(Self::written(self.api.replace(&self.key.name, &PostParams::default(), &lease).await)?
                    .map(|_| Look::Others));
            }
            return Ok(Some(Look::Others));
        }
        lease.spec = Some(self.held(Some(&spec)));
        Self::written(self.api.replace(&self.key.name, &PostParams::default(), &lease).await)
    }

    /// The Lease in our hands.
    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let is_ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION),
            acquire_time: before
                .filter(|_| is_ours)
                .and_then(|spec| spec.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if is_ours || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    fn written(result: kube::Result<Lease>) -> Result<Option<Look>, Failure> {
        match result {
            Ok(_) => Ok(Some(Look::Held)),
            // The version that was read is no longer the newest: somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(Failure::of(&error)),
        }
    }

    async fn give_back(&self) -> Result<(), Failure> {
        let of = |error: kube::Error| Failure::of(&error);
        let mut lease = self.api.get(&self.key.name).await.map_err(of)?;
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.key.name, &PostParams::default(), &lease).await.map_err(of)?;
        }
        Ok(())
    }
}
