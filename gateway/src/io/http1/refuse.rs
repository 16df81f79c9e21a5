//! Answers to requests that no lane could take, and the end of their connections.

use std::time::Duration;

use http::{HeaderMap, Method};
use pingora::protocols::{Shutdown, Stream};
use tokio::io::AsyncWriteExt;

use crate::io::client::{ClientInfo, Refusal};
use crate::io::linger::{LINGER, linger};
use crate::phase::canonical::Refused;
use crate::phase::{Reason, request_id, respond};

/// The answer to a request that is refused; a connection is refused once, and ends with it.
pub fn answer(info: &ClientInfo, refused: Refused) -> Vec<u8> {
    let method = if refused.reason == Reason::MethodNotAllowed { Method::CONNECT } else { Method::GET };
    let refusal = Refusal { refused, request_id: request_id::new() };
    let answer = respond::render(&refused.reason.into(), &method, &HeaderMap::new(), &refusal.request_id);
    let bytes = respond::raw_http1(&answer, &refusal.request_id, info.server_header.as_ref());
    let _ = info.refusal.set(refusal);
    bytes
}

/// Writes it, and ends the connection. `limit`: for a client that does not read.
pub async fn end(mut stream: Stream, answer: &[u8], limit: Duration) {
    let write = async {
        stream.write_all(answer).await?;
        stream.flush().await
    };
    // A client that is gone, or does not read, gets nothing more.
    if matches!(tokio::time::timeout(limit, write).await, Ok(Ok(()))) {
        linger(stream).await;
    }
}

/// Ends a connection on which nothing is to be said; over TLS that is told.
pub async fn close(mut stream: Stream) {
    // Whoever does not take even that is not waited for.
    let _ = tokio::time::timeout(LINGER, Shutdown::shutdown(&mut *stream)).await;
}
