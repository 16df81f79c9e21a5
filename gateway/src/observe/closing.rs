//! Why the gateway ended a connection whose client did nothing wrong.

/// A limit of a connection that was reached, or what needs its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Nothing came in `timeouts.firstByte`.
    FirstByte,
    /// No HTTP/2 preface came in `timeouts.handshake`.
    Preface,
    /// No request came in `timeouts.keepAlive`, or `timeouts.keepAliveTrusted`.
    KeepAlive,
    /// It has become as old as `timeouts.connectionAge` says.
    ConnectionAge,
    /// It has served `limits.requestsPerConnection` requests.
    RequestsPerConnection,
    /// It waited for a request, and there was no room for a new one.
    NoRoom,
    /// It waited for a request, or was served, while memory ran short.
    MemoryPressure,
    /// The gateway ends: it waited for a request, or was served meanwhile.
    Draining,
}

impl Closing {
    /// All with their label.
    pub const ALL: [(Closing, &'static str); 8] = [
        (Closing::FirstByte, "FirstByte"),
        (Closing::Preface, "Preface"),
        (Closing::KeepAlive, "KeepAlive"),
        (Closing::ConnectionAge, "ConnectionAge"),
        (Closing::RequestsPerConnection, "RequestsPerConnection"),
        (Closing::NoRoom, "NoRoom"),
        (Closing::MemoryPressure, "MemoryPressure"),
        (Closing::Draining, "Draining"),
    ];
}
