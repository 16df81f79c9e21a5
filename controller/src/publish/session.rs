//! One gateway's stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use sluicegate_process::frames::{Frames, StreamError, send, send_bytes};
use sluicegate_snapshot::compile::PublishAddress;
use sluicegate_snapshot::model::{Backend, Certificate, Resource, StaticContent, VirtualHost};
use sluicegate_snapshot::wire::{
    Cursor, Doubt, Frame, FullBegin, FullEnd, HEARTBEAT_SECONDS, Heartbeat, Hello, MAX_ADDRESSES, Next,
    SILENCE_SECONDS, Update, WIRE, Welcome,
};
use sluicegate_snapshot::{Delta, Snapshot, Version};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::server::{Sources, Streams};
use super::{Entered, Gateway, Publication};
use crate::events::Loss;
use crate::metrics::Metrics;
use crate::watch::News;

/// Resources in one part of a full sync, at most.
const PART: usize = 128;

/// Bytes of one part, by estimate, but for its last resource. Compile limits hosts and backends, the API server ConfigMaps and Secrets:
/// with any of them it is far less than a frame can hold.
const PART_BYTES: usize = 1024 * 1024;

/// How long credentials are believed: a certificate or token that is no longer good is noticed then. The gateway connects again
/// and goes on where it was.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// How long a gateway holds a loss back.
const DOUBT_LIMIT: Duration = Duration::from_secs(60);

const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// Serves a gateway until it goes.
pub(super) async fn run(streams: Streams, sources: Sources) {
    let Streams { receive, send, peer, identity } = streams;
    let mut frames = Frames::of(receive);
    let Ok(Ok(Some(Frame::Hello(hello)))) = timeout(SILENCE, frames.next()).await else {
        return tracing::debug!(%peer, "no hello on the publish address");
    };
    let identity = identity.map(|identity| identity.name);
    let known = identity.as_deref().unwrap_or("(not asked)");
    tracing::info!(gateway = %hello.gateway, identity = known, %peer, program = %hello.program, "gateway connected");
    let is_known = identity.is_some();
    let gateway = Gateway {
        name: hello.gateway.clone(),
        identity,
        peer,
        program: hello.program.clone(),
        addresses: addresses(&hello),
        acknowledged: None,
        refused: Vec::new(),
        sequence: 0,
    };
    let Sources { publication, news, relists, metrics, trust: _, refusals_said: _ } = sources;
    let entered = publication.enter(gateway);
    let gate = Gate::Unpublished {
        have: hello.have.clone(),
        is_ours: hello.have_from.as_ref() == Some(publication.instance()),
        lacks_keys: hello.lacks_keys,
    };
    let mut session = Session { send, publication, news, relists, metrics, entered, name: hello.gateway.clone(), gate };
    let why = match session.serve(&hello, frames, is_known).await {
        Ok(()) => "it closed the stream".to_owned(),
        Err(why) => why,
    };
    tracing::info!(gateway = %hello.gateway, %peer, "gateway gone: {why}");
}

/// What a gateway reports and can be an address.
fn addresses(hello: &Hello) -> Vec<Arc<str>> {
    let is_address = |text: &&Arc<str>| {
        let is = text.parse::<PublishAddress>().is_ok();
        if !is {
            tracing::warn!(gateway = %hello.gateway, address = %text, "a gateway reports what is no address; it is left out");
        }
        is
    };
    if hello.addresses.len() > MAX_ADDRESSES {
        tracing::warn!(gateway = %hello.gateway, "a gateway reports more than {MAX_ADDRESSES} addresses; the others are left out");
    }
    hello.addresses.iter().take(MAX_ADDRESSES).filter(is_address).cloned().collect()
}

struct Session {
    send: SendStream<Bytes>,
    publication: Arc<Publication>,
    news: Sender<News>,
    relists: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
    entered: Entered,
    /// The gateway's name.
    name: Arc<str>,
    gate: Gate,
}

/// What a gateway may be sent.
enum Gate {
    /// Nothing: nothing is published yet. It came with this; `is_ours`: from this controller.
    Unpublished { have: Option<Version>, is_ours: bool, lacks_keys: bool },
    /// Nothing: it may have more than is known here.
    Ahead(Version),
    /// What comes after this position in the journal.
    Open(Cursor),
    /// Everything.
    Everything,
    /// Everything, when a listing later than this one has come to its end; or, where that does not come about, when the gateway has waited for
    /// so long that it takes what it holds back.
    Doubt { listing: u64, since: Instant },
}

impl Session {
    async fn serve(&mut self, hello: &Hello, mut frames: Frames, is_known: bool) -> Result<(), String> {
        let welcome = Welcome {
            wire: WIRE,
            controller: rustix::system::uname().nodename().to_string_lossy().into(),
            program: env!("CARGO_PKG_VERSION").into(),
            instance: Some(self.publication.instance().clone()),
        };
        self.send(&Frame::Welcome(welcome)).await?;
        if hello.wire != WIRE {
            // A clean end, so that the welcome, which says what is spoken here, is not cut off.
            let _ = self.send.send_data(Bytes::new(), true);
            return Err(format!("it speaks version {} of the stream, this controller version {WIRE}", hello.wire));
        }
        let mut changes = self.publication.changes.subscribe();
        let mut ticks = interval(Duration::from_secs(HEARTBEAT_SECONDS));
        let mut heard = Instant::now();
        // Not all at once.
        let mut again = std::pin::pin!(sleep(KNOWN_FOR.mul_f64(rand::random_range(0.8..1.0))));
        loop {
            self.pass_gate().await?;
            self.send_news().await?;
            tokio::select! {
                frame = frames.next() => match frame {
                    Ok(Some(frame)) => {
                        heard = Instant::now();
                        self.take(frame);
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                },
                changed = changes.changed() => changed.map_err(|_| "the controller ends".to_owned())?,
                () = sleep(SILENCE.saturating_sub(heard.elapsed())) => {
                    return Err(format!("nothing was heard for {SILENCE_SECONDS} s"));
                }
                _ = ticks.tick() => self.heartbeat().await?,
                () = &mut again, if is_known => return Err("its credentials have to be looked at again".to_owned()),
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Ack(ack) => {
                self.entered.acknowledge(ack.version, ack.refused);
                let _ = self.news.send(News::Acknowledged);
            }
            Frame::Resync(resync) => {
                tracing::warn!("a gateway wants everything: {}", resync.why);
                if let Gate::Open(_) = self.gate {
                    self.gate = Gate::Everything;
                }
            }
            Frame::Ahead(ahead) => self.is_ahead(ahead.have),
            Frame::Doubt(Doubt { routes, left }) => {
                tracing::error!(
                    routes,
                    left,
                    "a gateway holds back what lost most of its routes; everything is listed anew"
                );
                let loss = Loss { gateway: self.name.to_string(), routes, left };
                let _ = self.news.send(News::Doubted(loss));
                self.gate = Gate::Doubt { listing: *self.relists.borrow(), since: Instant::now() };
            }
            _ => {}
        }
    }

    /// The gateway has more than is known here: it waits until that is no longer so.
    fn is_ahead(&mut self, have: Version) {
        tracing::info!(%have, "a gateway may have more than is known here");
        let _ = self.news.send(News::Claimed(have.clone()));
        self.gate = Gate::Ahead(have);
    }

    /// Opens the gate where its condition is met.
    async fn pass_gate(&mut self) -> Result<(), String> {
        let Some(version) = self.publication.version() else { return Ok(()) };
        match &self.gate {
            // A gateway that came before anything was published resumes when there is something.
            Gate::Unpublished { have, is_ours, lacks_keys } => {
                let (have, is_ours, lacks_keys) = (have.clone(), *is_ours, *lacks_keys);
                self.heartbeat().await?;
                match have {
                    Some(have) if !is_ours && version.may_follow(&have).is_err() => self.is_ahead(have),
                    Some(have) if !lacks_keys => self.resume(&have),
                    _ => self.gate = Gate::Everything,
                }
            }
            Gate::Ahead(have) if version.may_follow(have).is_ok() => {
                // Something of its content may lack keys, so everything is sent.
                self.gate = Gate::Everything;
            }
            Gate::Doubt { since, .. } if since.elapsed() > DOUBT_LIMIT => {
                tracing::warn!("not everything could be listed anew; a gateway that doubts a loss is served as before");
                self.gate = Gate::Everything;
            }
            Gate::Ahead(_) | Gate::Open(_) | Gate::Everything | Gate::Doubt { .. } => {}
        }
        Ok(())
    }

    fn resume(&mut self, have: &Version) {
        self.gate = self.publication.find(have.digest).map_or(Gate::Everything, Gate::Open);
    }

    /// Sends all that the gateway does not have yet.
    async fn send_news(&mut self) -> Result<(), String> {
        loop {
            match self.gate {
                Gate::Unpublished { .. } | Gate::Ahead(_) => return Ok(()),
                Gate::Doubt { listing, .. } if self.publication.listing() <= listing => return Ok(()),
                Gate::Doubt { .. } => self.send_everything(true).await?,
                Gate::Everything => self.send_everything(false).await?,
                Gate::Open(cursor) => match self.publication.next(cursor) {
                    Next::Nothing => return Ok(()),
                    Next::Change(frame, next) => {
                        self.limited(Bytes::from_owner(frame.clone())).await?;
                        self.metrics.sent_change(frame.len());
                        self.gate = Gate::Open(next);
                    }
                    Next::Dropped => self.gate = Gate::Everything,
                },
            }
        }
    }

    async fn send_everything(&mut self, confirmed: bool) -> Result<(), String> {
        let Some((snapshot, cursor)) = self.publication.everything() else {
            return Err("nothing is published".to_owned());
        };
        self.metrics.sent_everything();
        self.send(&Frame::FullBegin(FullBegin { version: snapshot.version.clone(), confirmed })).await?;
        for part in parts(&snapshot) {
            self.send(&Frame::FullPart(Box::new(Update::new(None, part)))).await?;
        }
        self.send(&Frame::FullEnd(FullEnd { version: snapshot.version })).await?;
        self.gate = Gate::Open(cursor);
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), String> {
        let version = self.publication.version();
        self.send(&Frame::Heartbeat(Heartbeat { version })).await
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), String> {
        sent(timeout(SILENCE, send(&mut self.send, frame)).await)
    }

    async fn limited(&mut self, bytes: Bytes) -> Result<(), String> {
        sent(timeout(SILENCE, send_bytes(&mut self.send, bytes)).await)
    }
}

fn sent(result: Result<Result<(), StreamError>, tokio::time::error::Elapsed>) -> Result<(), String> {
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it reads nothing for {SILENCE_SECONDS} s")),
    }
}

/// A snapshot as deltas of a bounded number of resources and bytes, made as they are sent.
fn parts(snapshot: &Snapshot) -> impl Iterator<Item = Delta> {
    let globals = std::iter::once(Delta { globals: Some(snapshot.globals.clone()), ..Delta::default() });
    let of_host = |host: &Arc<VirtualHost>| {
        let routes = host.routes.iter().map(|route| route.bytes());
        routes.chain(host.lost.iter().map(|lost| 256 + lost.path.len())).sum()
    };
    let of_backend = |backend: &Resource<Backend>| backend.value().map_or(0, |backend| 48 * backend.endpoints.len());
    let of_content = |content: &Resource<StaticContent>| {
        content.value().map_or(0, |content| content.files.values().map(|file| 2 * file.bytes.len()).sum())
    };
    let of_certificate = |certificate: &Resource<Certificate>| {
        certificate.value().map_or(0, |certificate| 2 * certificate.chain_pem.len())
    };
    globals
        .chain(chunks(&snapshot.hosts, of_host, |hosts| Delta { hosts, ..Delta::default() }))
        .chain(chunks(&snapshot.backends, of_backend, |backends| Delta { backends, ..Delta::default() }))
        .chain(chunks(&snapshot.contents, of_content, |contents| Delta { contents, ..Delta::default() }))
        .chain(chunks(&snapshot.tls_hosts, |_| 0, |tls_hosts| Delta { tls_hosts, ..Delta::default() }))
        .chain(chunks(&snapshot.certificates, of_certificate, |certificates| Delta {
            certificates,
            ..Delta::default()
        }))
}

fn chunks<K: Ord + Clone, V: Clone>(
    map: &BTreeMap<K, V>,
    bytes: impl Fn(&V) -> usize,
    part: impl Fn(BTreeMap<K, Option<V>>) -> Delta,
) -> impl Iterator<Item = Delta> {
    let mut entries = map.iter();
    std::iter::from_fn(move || {
        let (mut chunk, mut size) = (BTreeMap::new(), 0);
        while chunk.len() < PART
            && size < PART_BYTES
            && let Some((key, value)) = entries.next()
        {
            size += bytes(value);
            chunk.insert(key.clone(), Some(value.clone()));
        }
        (!chunk.is_empty()).then(|| part(chunk))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sluicegate_snapshot::ObjectKey;
    use sluicegate_snapshot::model::StaticFile;

    use super::*;

    #[test]
    fn everything_is_sent_in_parts_that_fit_into_frames() {
        let content = |size: usize| {
            let file = StaticFile::new(vec![b'a'; size]);
            Resource::valid(StaticContent { files: [("f".into(), file)].into(), not_published: false })
        };
        let contents = (0..500).map(|number| (ObjectKey::new("n", format!("{number:03}")), content(200_000)));
        let small = (500..1000).map(|number| (ObjectKey::new("n", format!("{number:03}")), content(1)));
        let snapshot = Snapshot { contents: contents.chain(small).collect(), ..Snapshot::default() };
        let parts: Vec<Delta> = parts(&snapshot).collect();
        let counts: BTreeSet<usize> = parts.iter().map(|part| part.contents.len()).collect();
        assert!(counts.contains(&3) && counts.contains(&PART), "by bytes, and by number: {counts:?}");
        assert_eq!(parts.iter().map(|part| part.contents.len()).sum::<usize>(), 1000);
        for part in parts {
            let frame = Frame::FullPart(Box::new(Update::new(None, part))).encode().unwrap();
            assert!(frame.len() < 2 * PART_BYTES, "{} bytes", frame.len());
        }
    }

    #[test]
    fn what_is_no_address_and_what_is_too_many_is_left_out() {
        let many = (0..20).map(|number| format!("192.0.2.{number}").into());
        let hello = Hello {
            wire: WIRE,
            gateway: "g".into(),
            program: "p".into(),
            have: None,
            have_from: None,
            lacks_keys: false,
            addresses: ["a b".into(), "::".into()].into_iter().chain(many).collect(),
        };
        let taken = addresses(&hello);
        assert_eq!((taken.len(), &*taken[0]), (MAX_ADDRESSES - 2, "192.0.2.0"));
    }
}
