//! Phase 5: responses. What a backend's answer gains, and what the gateway's own answers look like.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION, SERVER};
use http::{HeaderMap, Method};
use sluicegate_snapshot::model::{Route, Version};

use super::{Reason, Reply};

/// Name of the debugging header.
pub const ROUTE: HeaderName = HeaderName::from_static("sluicegate-route");

/// Name of the header that tells the reason of the gateway's own answers.
pub const REASON: HeaderName = HeaderName::from_static("sluicegate-reason");

/// Name of the header that tells the id of a request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that every response may get.
pub struct Marks<'a> {
    /// `serverHeader`.
    pub server: Option<&'a HeaderValue>,
    /// Route and version, where `debugHeader` is on.
    pub route: Option<(Option<&'a Route>, &'a Version)>,
}

impl Marks<'_> {
    /// The fields to set.
    pub fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::new();
        fields.extend(self.server.map(|server| (SERVER, server.clone())));
        if let Some((route, version)) = self.route {
            let ingress =
                route.and_then(|route| route.ingress.as_ref()).map_or_else(|| "-".to_owned(), ToString::to_string);
            let value = match route {
                Some(route) => format!(
                    "{ingress};host={};path={};type={};version={version}",
                    route.host, route.path, route.path_type
                ),
                None => format!("{ingress};version={version}"),
            };
            fields.extend(HeaderValue::from_str(&value).ok().map(|value| (ROUTE, value)));
        }
        fields
    }
}

/// A finished answer of the gateway itself.
#[derive(Debug)]
pub struct OwnResponse {
    /// Status.
    pub status: u16,
    /// Fields, without framing.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body; empty where the method or status has none.
    pub body: Bytes,
    /// `Content-Length`, also where the body is left out (HEAD).
    pub content_length: Option<usize>,
}

/// Renders a reply: static content as it is, everything else as a small body with reason and request id, as text or, when
/// asked for, JSON.
pub fn render(reply: &Reply, method: &Method, headers: &HeaderMap, request_id: &str) -> OwnResponse {
    let mut fields = Vec::new();
    let mut set =
        |name: HeaderName, value: &str| fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
    let mut body = match &reply.content {
        Some(content) => {
            set(CONTENT_TYPE, &content.media_type);
            set(ETAG, &content.etag);
            content.body.clone()
        }
        None => {
            let json = wants_json(headers);
            set(CONTENT_TYPE, if json { "application/json" } else { "text/plain; charset=utf-8" });
            set(REASON, reply.reason.as_str());
            own_body(reply.reason, request_id, json)
        }
    };
    if let Some(location) = &reply.location {
        set(LOCATION, location);
    }
    if reply.reason == Reason::MethodNotAllowed {
        // Static content is read only; the one method that nothing here takes is CONNECT.
        let allowed =
            if *method == Method::CONNECT { "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" } else { "GET, HEAD" };
        set(http::header::ALLOW, allowed);
    }
    if matches!(reply.reason, Reason::MemoryExhausted | Reason::TooManyInFlight) {
        set(http::header::RETRY_AFTER, "1");
    }
    let mut content_length = Some(body.len());
    if reply.reason == Reason::NotModified {
        (body, content_length) = (Bytes::new(), None);
    } else if *method == Method::HEAD {
        body = Bytes::new();
    }
    OwnResponse { status: reply.reason.status(), headers: fields, body, content_length }
}

/// An answer as bytes of HTTP/1.1 that close the connection, for requests that no lane could take.
pub fn raw_http1(response: &OwnResponse, request_id: &str, server: Option<&HeaderValue>) -> Vec<u8> {
    let status = http::StatusCode::from_u16(response.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let phrase = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {phrase}\r\n", status.as_u16()).into_bytes();
    let mut field = |name: &str, value: &[u8]| {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    };
    for (name, value) in &response.headers {
        field(name.as_str(), value.as_bytes());
    }
    if let Some(server) = server {
        field("server", server.as_bytes());
    }
    field(REQUEST_ID.as_str(), request_id.as_bytes());
    field("content-length", response.body.len().to_string().as_bytes());
    field("connection", b"close");
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&response.body);
    bytes
}

fn own_body(reason: Reason, request_id: &str, json: bool) -> Bytes {
    let text = if json {
        let value = serde_json::json!({
            "status": reason.status(), "reason": reason.as_str(), "message": reason.text(), "requestId": request_id,
        });
        format!("{value}\n")
    } else {
        format!("{} {}\n{}\nrequest id: {request_id}\n", reason.status(), reason.as_str(), reason.text())
    };
    Bytes::from(text)
}

/// Whether `Accept` names JSON and not also HTML or text before it.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let position = |needle: &str| accept.find(needle);
    match (position("json"), position("text/")) {
        (Some(json), Some(text)) => json < text,
        (json, _) => json.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(reason: Reason, method: Method, accept: &str) -> OwnResponse {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept.parse().unwrap());
        render(&reason.into(), &method, &headers, "abc")
    }

    #[test]
    fn bodies_hold_reason_and_request_id() {
        let text = rendered(Reason::NoRoute, Method::GET, "*/*");
        assert_eq!(text.status, 404);
        assert_eq!(text.body, "404 NoRoute\nNo route for this host and path.\nrequest id: abc\n");
        let json = rendered(Reason::NoEndpoints, Method::GET, "application/json");
        let value: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!((value["reason"].as_str(), value["requestId"].as_str()), (Some("NoEndpoints"), Some("abc")));
    }

    #[test]
    fn a_browser_gets_text_and_head_gets_no_body() {
        assert!(rendered(Reason::NoRoute, Method::GET, "text/html,application/json;q=0.9").body.starts_with(b"404"));
        let head = rendered(Reason::NoRoute, Method::HEAD, "*/*");
        assert!(head.body.is_empty() && head.content_length > Some(0));
    }

    #[test]
    fn every_reason_of_the_set_has_a_sentence() {
        assert!(Reason::ALL.iter().all(|reason| reason.text().ends_with('.')));
    }
}
