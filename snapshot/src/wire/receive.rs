//! The gateway's side of the stream, without the network: frames in, deltas for the replica out.

use super::Frame;
use crate::model::{Delta, Snapshot, Version};

/// How a change came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// By events of objects.
    Events,
    /// By a list: what was not in it is gone.
    List,
    /// By a full sync.
    FullSync,
    /// By a full sync after everything was listed anew, because this gateway asked for it.
    Confirmed,
}

/// What a frame means to a gateway.
#[derive(Debug)]
pub enum Received {
    /// Nothing to do.
    Nothing,
    /// To be taken over and acknowledged.
    Delta(Box<Delta>, Origin),
    /// The controller publishes this version.
    Current(Version),
    /// What comes does not fit what the gateway has: everything is needed. The text says why, for people.
    Resync(String),
}

/// Puts parts of a full sync together and checks what comes against what is there.
#[derive(Debug, Default)]
pub struct Receiver {
    /// The full sync that is on its way, and what it is.
    full: Option<(Snapshot, Origin)>,
}

impl Receiver {
    /// Takes a frame. `have`: what the replica was published last.
    pub fn take(&mut self, frame: Frame, have: &Snapshot) -> Received {
        match frame {
            Frame::FullBegin(begin) => {
                let origin = if begin.confirmed { Origin::Confirmed } else { Origin::FullSync };
                self.full = Some((Snapshot::default(), origin));
                Received::Nothing
            }
            Frame::FullPart(part) => {
                if let Some((full, _)) = &mut self.full {
                    full.apply(&part.into_delta());
                }
                Received::Nothing
            }
            Frame::FullEnd(end) => {
                let Some((mut full, origin)) = self.full.take() else { return Received::Nothing };
                if full.version.digest != end.version.digest {
                    let (got, said) = (full.version.digest.short(), end.version.digest.short());
                    return Received::Resync(format!("a full sync came as {got}, and {said} was announced"));
                }
                full.version = end.version;
                Received::Delta(Box::new(Delta::between(have, &full)), origin)
            }
            // Until everything is here a change has nothing to build on; the controller sends none.
            Frame::Update(_) if self.full.is_some() => Received::Nothing,
            Frame::Update(update) => match update.base {
                Some(base) if base == have.version.digest => {
                    let origin = if update.listed { Origin::List } else { Origin::Events };
                    Received::Delta(Box::new(update.into_delta()), origin)
                }
                base => Received::Resync(format!(
                    "a change of {} came, and {} is in force",
                    base.unwrap_or_default().short(),
                    have.version.digest.short()
                )),
            },
            Frame::Heartbeat(heartbeat) => heartbeat.version.map_or(Received::Nothing, Received::Current),
            Frame::Welcome(_)
            | Frame::Hello(_)
            | Frame::Ack(_)
            | Frame::Resync(_)
            | Frame::Ahead(_)
            | Frame::Doubt(_)
            | Frame::Unknown(_) => Received::Nothing,
        }
    }
}
