//! Answers to lists and watches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::store::{Event, Id};
use super::{Faults, Shared};

type Body = UnsyncBoxBody<Bytes, Cut>;

/// The connection has to end in the middle of a body.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// What a request asks for.
struct Question {
    plural: String,
    namespace: Option<String>,
    parameters: BTreeMap<String, String>,
}

impl Question {
    fn of(request: &Request<Incoming>) -> Question {
        let segments: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        let namespace = segments.iter().position(|part| *part == "namespaces").and_then(|at| segments.get(at + 1));
        let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let decode = |text: &str| text.replace("%3D", "=").replace("%3A", ":");
        Question {
            plural: segments.last().copied().unwrap_or_default().to_owned(),
            namespace: namespace.map(|name| (*name).to_owned()),
            parameters: pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect(),
        }
    }

    fn is(&self, key: &str) -> bool {
        self.parameters.get(key).is_some_and(|value| value == "true" || value == "1")
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.parameters.get(key)?.parse().ok()
    }

    fn has(&self, id: &Id) -> bool {
        let name = self.parameters.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name="));
        id.plural == self.plural
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == id.namespace)
            && name.is_none_or(|name| name == id.name)
    }
}

pub fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let question = Question::of(request);
    let faults = shared.lock().faults.clone();
    Ok(match faults.refuses {
        Some(status) => refusal(status, "told to"),
        None if question.is("watch") => watch(question, &faults, shared),
        None => list(&question, &faults, shared),
    })
}

fn json_body(status: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    if status == 429 {
        response = response.header("retry-after", "1");
    }
    response.body(body).unwrap()
}

fn status_of(code: u16, message: &str) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        410 => "Expired",
        429 => "TooManyRequests",
        400 => "BadRequest",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code})
}

fn refusal(code: u16, message: &str) -> Response<Body> {
    json_body(code, &status_of(code, message))
}

fn list(question: &Question, faults: &Faults, shared: &Shared) -> Response<Body> {
    let mut inner = shared.lock();
    if question.parameters.contains_key("continue") && inner.faults.expired_pages > 0 {
        inner.faults.expired_pages -= 1;
        return refusal(410, "the continue token is too old");
    }
    // A token is "VERSION:OBJECTS": all pages are of the state in which the first was read.
    let (version, skip) = match question.parameters.get("continue").and_then(|token| token.split_once(':')) {
        Some((version, skip)) => (version.parse().unwrap(), skip.parse().unwrap()),
        None => (inner.store.version, 0),
    };
    let objects = match skip {
        0 => inner.store.objects.clone(),
        _ => match inner.paged.get(&version) {
            Some(objects) => objects.clone(),
            None => return refusal(410, "the continue token is too old"),
        },
    };
    let matching = objects.iter().filter(|(id, _)| question.has(id)).map(|(_, object)| object);
    let matching: Vec<&Value> = matching.take(faults.loses_after.unwrap_or(usize::MAX)).collect();
    let limit = question.number("limit").map(|limit| limit as usize).filter(|limit| *limit > 0);
    let page = [limit, Some(faults.page).filter(|page| *page > 0)].into_iter().flatten().min().unwrap_or(usize::MAX);
    let items: Vec<&Value> = matching.iter().skip(skip).take(page).copied().collect();
    let next = skip + items.len();
    let token = if next < matching.len() { format!("{version}:{next}") } else { String::new() };
    if !token.is_empty() {
        inner.paged.insert(version, objects.clone());
    }
    let metadata = json!({"resourceVersion": version.to_string(), "continue": token});
    json_body(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn watch(question: Question, faults: &Faults, shared: &Arc<Shared>) -> Response<Body> {
    let initial = question.is("sendInitialEvents");
    if initial && faults.pages_only {
        return refusal(400, "sendInitialEvents is not known here");
    }
    let mut lines = Vec::new();
    let position = {
        let inner = shared.lock();
        let asked = question.number("resourceVersion").unwrap_or_default();
        if initial {
            let objects = inner.store.objects.iter().filter(|(id, _)| question.has(id));
            let objects = objects.take(faults.loses_after.unwrap_or(usize::MAX));
            lines.extend(objects.map(|(_, object)| line("ADDED", object)));
            lines.push(bookmark(inner.store.version, true));
            inner.store.version
        } else if asked < inner.store.compacted {
            match faults.gone_in_stream {
                true => lines.push(line("ERROR", &status_of(410, "too old resource version"))),
                false => return refusal(410, "too old resource version"),
            }
            asked
        } else {
            asked
        }
    };
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Cut>>(64);
    tokio::spawn(follow(question, position, lines, sender, shared.clone()));
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    });
    Response::builder().header("content-type", "application/json").body(StreamBody::new(stream).boxed_unsync()).unwrap()
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

fn bookmark(version: u64, ends_list: bool) -> String {
    let annotations = if ends_list { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    line("BOOKMARK", &json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": metadata}))
}

/// Says what happens after `position`, until the other end is gone.
async fn follow(
    question: Question,
    mut position: u64,
    first: Vec<String>,
    sender: mpsc::Sender<Result<Frame<Bytes>, Cut>>,
    shared: Arc<Shared>,
) {
    let say = |text: String| sender.send(Ok(Frame::data(Bytes::from(text))));
    for text in first {
        if say(text).await.is_err() {
            return;
        }
    }
    let (mut changes, mut bookmarks) = (shared.changes.subscribe(), shared.bookmarks.subscribe());
    loop {
        let (faults, events, version) = {
            let inner = shared.lock();
            // In the order of their versions.
            let news = inner.store.history.partition_point(|event| event.version <= position);
            let is_ours = |event: &&Event| question.has(&event.id);
            (
                inner.faults.clone(),
                inner.store.history[news..].iter().filter(is_ours).cloned().collect::<Vec<_>>(),
                inner.store.version,
            )
        };
        if faults.silent {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            continue;
        }
        let mut lines: Vec<String> = events.iter().map(|event| line(event.what, &event.object)).collect();
        if faults.repeats {
            lines = lines.iter().chain(&lines).rev().cloned().collect();
        }
        if faults.cuts_lines && !lines.is_empty() {
            let half = lines[0].len() / 2;
            let _ = say(lines[0][..half].to_owned()).await;
            let _ = sender.send(Err(Cut)).await;
            return;
        }
        // In one piece: what comes late comes, unlike what is lost.
        if say(lines.concat()).await.is_err() {
            return;
        }
        position = position.max(events.last().map_or(0, |event| event.version));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = bookmarks.changed() => {
                // Only what was said before may be in it; like a real server, one that was asked for the future says nothing.
                let up_to_date = position.max(version);
                if changed.is_err() || (version >= position && say(bookmark(up_to_date, false)).await.is_err()) {
                    return;
                }
            }
            () = sender.closed() => return,
        }
    }
}
