//! `limits.http2`: what a client may ask of one HTTP/2 connection.

use serde::{Deserialize, Serialize};

/// How many times as much a trusted proxy may hold, or have on its way: it carries many clients.
const TRUSTED_TIMES: usize = 8;

/// The largest window (RFC 9113, 6.9.1).
const MOST_WINDOW: u32 = (1 << 31) - 1;

/// `limits.http2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2Settings {
    /// Streams at a time (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams: usize,
    /// Bytes of a request's body that may come before its endpoint has taken them (SETTINGS_INITIAL_WINDOW_SIZE).
    pub stream_window: usize,
    /// The same of all requests of the connection.
    pub connection_window: usize,
    /// Bytes that its requests, and what is not sent of their answers, may hold.
    pub held_bytes: usize,
    /// Frames that belong to no request, at once; a tenth of them more each second.
    pub frames: usize,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Http2Settings {
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            held_bytes: 1_000_000,
            frames: 1000,
        }
    }
}

impl Http2Settings {
    /// Those of one connection. `trusted`: it is one of `trustedProxies`.
    #[must_use]
    pub fn of(self, trusted: bool) -> Http2Settings {
        let times = if trusted { TRUSTED_TIMES } else { 1 };
        let Http2Settings { connection_window, held_bytes, .. } = self;
        Http2Settings { connection_window: times * connection_window, held_bytes: times * held_bytes, ..self }
    }

    /// The windows of a stream and of the connection, as the protocol has them.
    pub fn windows(&self) -> (u32, u32) {
        let window = |bytes: usize| u32::try_from(bytes).unwrap_or(MOST_WINDOW).min(MOST_WINDOW);
        (window(self.stream_window), window(self.connection_window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxy_has_eight_times_as_much_and_no_window_is_larger_than_can_be() {
        let usual = Http2Settings::default();
        assert_eq!(usual.of(false), usual);
        let trusted = usual.of(true);
        assert_eq!((trusted.held_bytes, trusted.windows()), (8_000_000, (64 << 10, 8 << 20)));
        assert_eq!((trusted.streams, trusted.frames), (100, 1000));
        let large = Http2Settings { connection_window: 1 << 30, ..usual };
        assert_eq!(large.of(true).windows().1, MOST_WINDOW);
    }
}
