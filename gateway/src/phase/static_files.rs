//! Static content out of ConfigMaps: path below the matched prefix, `index.html` by default, ETag, HEAD, 304.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use sluicegate_snapshot::model::{Route, StaticContent};

use super::canonical::Canonical;
use super::{Content, Reason, Reply, RequestHead};

/// Answers a request for static content. `None`: the ConfigMap does not exist.
pub fn serve(
    content: Option<&Arc<StaticContent>>,
    route: &Route,
    head: &RequestHead<'_>,
    canonical: &Canonical,
) -> Reply {
    let Some(content) = content else { return Reason::ConfigMapNotFound.into() };
    if content.not_published {
        return Reason::NotPublished.into();
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        return Reason::MethodNotAllowed.into();
    }
    let key = file_key(route, &canonical.path);
    let Some(file) = content.files.get(key) else { return Reason::FileNotFound.into() };
    let etag = format!("\"{}\"", file.etag);
    let matches =
        head.headers.get_all(http::header::IF_NONE_MATCH).iter().any(|value| names_tag(value.as_bytes(), &etag));
    let reason = if matches { Reason::NotModified } else { Reason::StaticFile };
    let body = Bytes::copy_from_slice(&file.bytes);
    Reply { content: Some(Content { media_type: media_type(key), etag, body }), ..reason.into() }
}

/// The key below the matched prefix. A route of type Exact names the file by its last element.
fn file_key<'a>(route: &Route, path: &'a str) -> &'a str {
    let below = if route.path_type.is_prefix() {
        path.strip_prefix(route.match_path()).unwrap_or(path)
    } else {
        path.rsplit_once('/').map_or(path, |(_, last)| last)
    };
    match below.trim_start_matches('/') {
        "" => "index.html",
        key => key,
    }
}

/// `If-None-Match` with weak comparison (RFC 9110, 13.1.2).
fn names_tag(value: &[u8], etag: &str) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    text.trim() == "*" || text.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

fn media_type(key: &str) -> String {
    let guess = mime_guess::from_path(key).first_or_octet_stream();
    let text = guess.type_() == "text" || matches!(guess.essence_str(), "application/javascript" | "application/json");
    if text { format!("{}; charset=utf-8", guess.essence_str()) } else { guess.essence_str().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_follow_the_extension() {
        for (key, media_type_) in [
            ("index.html", "text/html; charset=utf-8"),
            ("app.css", "text/css; charset=utf-8"),
            ("logo.png", "image/png"),
            ("robots.txt", "text/plain; charset=utf-8"),
            ("README", "application/octet-stream"),
        ] {
            assert_eq!(media_type(key), media_type_);
        }
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(names_tag(b"\"a\", W/\"b\"", "\"b\""));
        assert!(names_tag(b"*", "\"b\""));
        assert!(!names_tag(b"\"a\"", "\"b\""));
    }
}
