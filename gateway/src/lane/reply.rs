//! Writing the gateway's own answers through the engine.

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::phase::respond::OwnResponse;

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
        if !session.is_http2() {
            header.insert_header(CONNECTION, "close")?;
        }
    }
    let has_body = !response.body.is_empty();
    session.write_response_header(Box::new(header), !has_body).await?;
    if has_body {
        session.write_response_body(Some(response.body), true).await?;
    }
    Ok(())
}
