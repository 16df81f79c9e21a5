//! Writing the gateway's own answers through the engine.

use std::time::Duration;

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::view;
use crate::phase::respond::OwnResponse;

/// Body bytes that are taken before an answer that does not need them.
const BODY_LIMIT: usize = 64 * 1024;

/// How long they are waited for.
const BODY_TIME: Duration = Duration::from_secs(1);

/// Takes a short request body, so that the connection can be kept.
/// One that waits for `100 Continue` has not sent any.
pub(super) async fn take_body(session: &mut Session) {
    if view::is_http2(session) || session.req_header().headers.contains_key(EXPECT) {
        return;
    }
    let take = async {
        let mut left = BODY_LIMIT;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_TIME, take).await;
}

/// Writes an answer.
///
/// # Errors
/// The client is gone, or does not read.
pub(super) async fn write(
    session: &mut Session,
    response: OwnResponse,
    extra: Vec<(HeaderName, http::HeaderValue)>,
    close: bool,
) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(response.status, Some(8))?;
    for (name, value) in response.headers.into_iter().chain(extra) {
        header.insert_header(name, value)?;
    }
    if let Some(length) = response.content_length {
        header.insert_header(CONTENT_LENGTH, length.to_string())?;
    }
    if close {
        session.set_keepalive(None);
        if !view::is_http2(session) {
            header.insert_header(CONNECTION, "close")?;
        }
    }
    let has_body = !response.body.is_empty();
    session.write_response_header(Box::new(header), !has_body).await?;
    if has_body {
        session.write_response_body(Some(response.body), true).await?;
    } else if view::is_http2(session) {
        // The engine does not tell a stream that this was all, and resets it where something has failed.
        session.as_downstream_mut().finish_body().await?;
    }
    Ok(())
}
