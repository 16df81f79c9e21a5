//! The engine's request as the phases' plain views.

use pingora::http::{RequestHeader, Version};
use pingora::proxy::Session;

use crate::phase::{Connection, Hosts, RequestHead};

/// Shows a request.
pub(super) fn head<'a>(request: &'a RequestHeader, connection: &'a Connection) -> RequestHead<'a> {
    RequestHead {
        method: &request.method,
        target: request.raw_path(),
        hosts: hosts(request),
        http10: request.version <= Version::HTTP_10,
        headers: &request.headers,
        connection,
    }
}

/// `:authority` for HTTP/2 (the engine has seen to it that a Host beside it is equal), else `Host`.
fn hosts(request: &RequestHeader) -> Hosts<'_> {
    if request.version == Version::HTTP_2
        && let Some(authority) = request.uri.authority()
    {
        return Hosts::One(authority.as_str().as_bytes());
    }
    let mut values = request.headers.get_all(http::header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Hosts::None,
        (Some(host), None) => Hosts::One(host.as_bytes()),
        (Some(_), Some(_)) => Hosts::Many,
    }
}

/// Whether a request came over HTTP/2; the engine does not know that of sessions that are not its own.
pub(super) fn is_http2(session: &Session) -> bool {
    session.req_header().version == Version::HTTP_2
}

/// Whether a request asks for a WebSocket, the one protocol that is switched to.
pub(super) fn is_websocket(request: &RequestHeader) -> bool {
    let upgrade = request.headers.get(http::header::UPGRADE);
    upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
