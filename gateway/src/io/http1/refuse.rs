//! Answers to requests that no lane could take, and the end of their connections.

use std::time::Duration;

use http::{HeaderMap, Method};
use pingora::protocols::{Shutdown, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::io::client::{ClientInfo, Refusal};
use crate::phase::canonical::Refused;
use crate::phase::{Reason, request_id, respond};

/// How long a closing connection is read from, at most.
const LINGER: Duration = Duration::from_secs(1);

/// How many bytes are read from it, at most.
const LINGER_BYTES: usize = 1024 * 1024;

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
        linger(&mut stream).await;
    }
}

/// Closes in a way that lets the client read the answer: what it still sends is taken for a moment, since a socket that
/// is closed with unread bytes resets the connection, and the reset overtakes the answer.
pub async fn linger(stream: &mut Stream) {
    Shutdown::shutdown(&mut **stream).await;
    let mut chunk = [0; 4096];
    let discard = async {
        let mut left = LINGER_BYTES;
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    // A client that neither reads nor closes has had its chance.
    let _ = tokio::time::timeout(LINGER, discard).await;
}
