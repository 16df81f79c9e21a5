//! `limits`: how large and how many things may be.

use serde::{Deserialize, Serialize};
use sluicegate_process::SettingsError;

use super::Http2Settings;
use crate::phase::canonical::Limits;

/// How many times the largest head an HTTP/2 connection has room for, at least.
const HEADS: usize = 4;

/// `limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitSettings {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Bytes of its target.
    pub target_bytes: usize,
    /// Its fields, without those named Cookie.
    pub fields: usize,
    /// Its fields named Cookie.
    pub cookies: usize,
    /// Bytes a second that a client has to send of a request's body.
    pub body_rate: usize,
    /// Requests of one connection.
    pub requests_per_connection: usize,
    /// Connections of clients, in all. Absent: what descriptors and memory allow.
    pub connections: Option<usize>,
    /// Requests that are on their way to backends, in all. Absent: what descriptors and memory allow.
    pub requests_in_flight: Option<usize>,
    /// Connections of one client network; 0: however many.
    pub connections_per_network: usize,
    /// New connections a second, in all; 0: however many.
    pub new_connections: u32,
    /// TLS handshakes a second, in all; 0: as many as can be computed.
    pub handshakes: u32,
    /// Bytes of memory. Absent: what the control group or the machine has.
    pub memory: Option<u64>,
    /// What a client may ask of one HTTP/2 connection.
    pub http2: Http2Settings,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let Limits { head_bytes, target_bytes, fields, cookies } = Limits::default();
        LimitSettings {
            head_bytes,
            target_bytes,
            fields,
            cookies,
            body_rate: 512,
            requests_per_connection: 10_000,
            connections: None,
            requests_in_flight: None,
            connections_per_network: 0,
            new_connections: 0,
            handshakes: 0,
            memory: None,
            http2: Http2Settings::default(),
        }
    }
}

impl LimitSettings {
    /// Those of a request's head.
    pub fn head(&self) -> Limits {
        let &LimitSettings { head_bytes, target_bytes, fields, cookies, .. } = self;
        Limits { head_bytes, target_bytes, fields, cookies }
    }

    /// The engine takes heads of 1 MiB and 256 fields at most, of which some are the gateway's own, and targets of 64 KiB, which encoding
    /// can make three times as long.
    pub(super) fn judge(&self) -> Result<(), SettingsError> {
        let ranges = [
            ("headBytes", self.head_bytes, 1024..=512 * 1024),
            ("targetBytes", self.target_bytes, 256..=20 * 1024),
            ("fields", self.fields, 10..=240),
            ("cookies", self.cookies, 1..=10_000),
            ("bodyRate", self.body_rate, 0..=1 << 30),
            ("requestsPerConnection", self.requests_per_connection, 0..=1 << 40),
            ("connections", self.connections.unwrap_or(1), 1..=10_000_000),
            ("requestsInFlight", self.requests_in_flight.unwrap_or(1), 1..=10_000_000),
            ("connectionsPerNetwork", self.connections_per_network, 0..=10_000_000),
            ("newConnections", self.new_connections as usize, 0..=10_000_000),
            ("handshakes", self.handshakes as usize, 0..=10_000_000),
            ("memory", self.memory.map_or(1 << 30, |bytes| bytes as usize), 16 << 20..=1 << 50),
            ("http2.streams", self.http2.streams, 1..=1000),
            ("http2.streamWindow", self.http2.stream_window, 1024..=1 << 30),
            // A smaller one is no part of the protocol (RFC 9113, 6.9.2).
            ("http2.connectionWindow", self.http2.connection_window, 65_535..=1 << 30),
            ("http2.heldBytes", self.http2.held_bytes, 128 * 1024..=1 << 30),
            ("http2.frames", self.http2.frames, 100..=1_000_000),
        ];
        if self.target_bytes >= self.head_bytes {
            return Err(SettingsError(
                "limits.targetBytes: must be less than limits.headBytes, which it is part of".to_owned(),
            ));
        }
        // A head is held as it came and as it goes, and what is left of two thirds is for others.
        if self.http2.held_bytes < HEADS * self.head_bytes {
            return Err(SettingsError(format!(
                "limits.http2.heldBytes: must be at least {HEADS} times limits.headBytes, or the largest requests are refused"
            )));
        }
        match ranges.iter().find(|(_, value, range)| !range.contains(value)) {
            Some((name, _, range)) => {
                Err(SettingsError(format!("limits.{name}: must be from {} to {}", range.start(), range.end())))
            }
            None => Ok(()),
        }
    }
}
