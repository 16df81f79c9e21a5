//! What the reader of an HTTP/1 connection and the lane tell each other about the request that is lent to the engine.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pingora::protocols::Stream;

use crate::io::incoming::Incoming;
use crate::phase::canonical::{Canonical, Refused};
use crate::upstream::connection::exchange::Seen;

/// See the module. Empty on HTTP/2 connections, whose streams have no reader.
#[derive(Debug, Default)]
pub struct Lending {
    canonical: Mutex<Option<Canonical>>,
    fault: Mutex<Option<Refused>>,
    taken: AtomicBool,
    switched: AtomicBool,
    last: AtomicBool,
    /// Seconds for the client to take anything of the answer, where the route says so; 0: it does not.
    stall: AtomicU32,
    exchange: Mutex<Option<Arc<Seen>>>,
    left: Mutex<Option<Left>>,
}

/// A connection whose request the engine has done with.
#[derive(Debug)]
pub struct Left {
    /// The connection.
    pub incoming: Incoming<Stream>,
    /// The next request may come on it: this one was read whole, and its answer is written.
    pub usable: bool,
}

impl Lending {
    /// A request goes to the engine. `last`: its connection is to be closed after it.
    pub fn begin(&self, canonical: Canonical, last: bool) {
        *self.canonical.lock().unwrap_or_else(PoisonError::into_inner) = Some(canonical);
        self.taken.store(false, Ordering::Relaxed);
        self.last.store(last, Ordering::Relaxed);
        self.stall.store(0, Ordering::Relaxed);
    }

    /// The route says how long the client may take nothing of the answer.
    pub fn stall_after(&self, seconds: u32) {
        self.stall.store(seconds, Ordering::Relaxed);
    }

    /// How long that is; `None`: it is not said.
    pub fn stall(&self) -> Option<Duration> {
        let seconds = self.stall.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// The lane asks an endpoint.
    pub fn ask(&self, exchange: Arc<Seen>) {
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = Some(exchange);
    }

    /// Whether the whole answer of an endpoint was read, and the request was not sent.
    pub fn is_answered(&self) -> bool {
        let exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        exchange.as_ref().is_some_and(|seen| seen.is_answered() && !seen.is_sent())
    }

    /// The engine has done with the request.
    pub(super) fn leave(&self, left: Left) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
        *self.exchange.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The connection of the request that the engine has done with.
    pub(super) fn take_left(&self) -> Option<Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The phases take the request: what is written from here on is theirs. `None`: it was read by nobody here, as with HTTP/2.
    pub fn take(&self) -> Option<Canonical> {
        self.taken.store(true, Ordering::Relaxed);
        self.canonical.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the phases have the request.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether the connection is to be closed after the request.
    pub fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// From here on bytes go both ways as they are: the backend has switched protocols.
    pub fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether they do.
    pub fn is_switched(&self) -> bool {
        self.switched.load(Ordering::Relaxed)
    }

    /// Something is wrong with the request's body; the engine only sees that it cannot be read.
    pub fn fail(&self, refused: Refused) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refused);
    }

    /// What is wrong with it.
    pub fn fault(&self) -> Option<Refused> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
