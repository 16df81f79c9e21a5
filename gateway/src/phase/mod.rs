//! The phases of a request, as functions on plain views. No type of the engine appears here, so that every lane drives
//! the same rules.
//!
//! Order, with its reasons:
//! 1. [`canonical`]: the request in the one form that is matched and forwarded. First, because nothing may be decided on
//!    another form.
//! 2. [`admit`]: health path, route, redirect, refusal, static content. The redirect stands before anything that looks at
//!    credentials or counts, as with ingress-nginx.
//! 3. pick ([`crate::upstream::pick`]): an endpoint; again after a connection that could not be made.
//! 4. [`forward`]: what the request gains and loses on its way.
//! 5. [`respond`]: the same for the response.
//! 6. account and log ([`crate::observe`]): once per request, whatever became of it.

pub mod address;
pub mod admit;
pub mod canonical;
pub mod forward;
pub mod request_id;
pub mod respond;
pub mod static_files;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

pub use crate::reason::Reason;

/// How the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Facts of the connection a request came on.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// How the client speaks, where a proxy in front of the connection ended TLS and said so; else as `scheme`.
    pub client_scheme: Scheme,
    /// Address of whoever connected, IPv4-mapped ones unmapped; behind the PROXY protocol the client's.
    pub peer: IpAddr,
    /// Its port.
    pub peer_port: u16,
    /// Address that it connected to.
    pub local: SocketAddr,
    /// Port that the client connected to, as it sees it.
    pub port: u16,
    /// Port that clients reach HTTPS on, for redirects.
    pub https_port: u16,
    /// Whether the peer is in `trustedProxies`.
    pub trusted: bool,
}

impl Connection {
    /// From `peer` to `local`, of nobody who is trusted.
    pub const fn new(scheme: Scheme, peer: SocketAddr, local: SocketAddr) -> Self {
        Connection {
            scheme,
            client_scheme: scheme,
            peer: peer.ip().to_canonical(),
            peer_port: peer.port(),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            port: local.port(),
            https_port: 443,
            trusted: false,
        }
    }
}

/// A request's head, as any lane can show it.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// Method.
    pub method: &'a http::Method,
    /// Request target as received.
    pub target: &'a [u8],
    /// `Host`, or `:authority`; several values are several hosts.
    pub hosts: Hosts<'a>,
    /// Whether the version is HTTP/1.0.
    pub http10: bool,
    /// Header fields.
    pub headers: &'a http::HeaderMap,
    /// Where it came from.
    pub connection: &'a Connection,
}

/// What a request says about its host.
#[derive(Clone, Copy)]
pub enum Hosts<'a> {
    /// Nothing.
    None,
    /// One.
    One(&'a [u8]),
    /// More than one: refused.
    Many,
}

/// An answer that the gateway makes itself.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Why; also says the status.
    pub reason: Reason,
    /// `Location`.
    pub location: Option<String>,
    /// Body with its type, for static content; other replies get a small body from their reason.
    pub content: Option<Content>,
}

/// Static content of a [`Reply`].
#[derive(Debug, Clone)]
pub struct Content {
    /// `Content-Type`.
    pub media_type: String,
    /// `ETag`, quoted.
    pub etag: String,
    /// The file.
    pub body: Bytes,
}

impl From<Reason> for Reply {
    fn from(reason: Reason) -> Self {
        Reply { reason, location: None, content: None }
    }
}
