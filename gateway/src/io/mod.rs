//! Connections of clients: sockets, accept loops, TLS, and the workers that own them.
//!
//! Each worker is one thread with a current-thread runtime, its own `SO_REUSEPORT` sockets and its own engine; a
//! connection never leaves the worker that accepted it (docs/adr/0003).

mod account;
pub mod admission;
pub mod bodies;
pub mod body;
pub mod client;
pub mod connection;
pub mod http1;
pub mod http2;
pub mod idle;
pub mod incoming;
mod lag;
mod linger;
pub mod listener;
pub mod pressure;
pub mod proxy_protocol;
mod rest;
pub mod schedule;
mod tunnel;
pub mod turns;
pub mod upload;
pub mod window;
pub mod worker;

pub use client::ClientStream;
pub use connection::Serve;
pub use listener::{BindError, Listeners};
