//! Answers of backends, held to the same rules as requests of clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::cases::{self, Case, Passes};
use crate::backends::{Scripted, everything_to};
use crate::harness::{PATIENCE, Start};

/// What a client got.
#[derive(Debug)]
struct Got {
    status: u16,
    /// Lower-case names.
    fields: Vec<(String, String)>,
    body: String,
    /// As long as it says.
    whole: bool,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Asks once, and reads until the connection ends.
fn ask(gateway: std::net::SocketAddr, method: &str) -> Got {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{method} / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A reset ends it too.
    let _ = stream.read_to_end(&mut bytes);
    let mut text = latin1(&bytes);
    while text.starts_with("HTTP/1.1 1") {
        text = text.split_once("\r\n\r\n").unwrap().1.to_owned();
    }
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let field =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let fields: Vec<_> = lines.filter_map(field).collect();
    let value = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let has_none = method == "HEAD" || matches!(status, 204 | 304);
    let (body, whole) = match (value("transfer-encoding"), value("content-length")) {
        _ if has_none => (rest.to_owned(), rest.is_empty()),
        (Some(_), _) => chunks(rest),
        (None, Some(length)) => (rest.to_owned(), rest.chars().count() == length.parse::<usize>().unwrap()),
        (None, None) => (rest.to_owned(), true),
    };
    Got { status, fields, body, whole }
}

/// A decoded body, and whether its end was there.
fn chunks(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, after == "\r\n");
        }
        let Some(data) = after.get(..size) else { break };
        body.push_str(data);
        rest = after[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    (body, false)
}

fn differences(got: &Got, passes: &Passes) -> Vec<String> {
    let mut wrong = Vec::new();
    if passes.status.is_some_and(|status| status != got.status) {
        wrong.push(format!("status {}", got.status));
    }
    if passes.body.as_ref().is_some_and(|body| *body != got.body) || !got.whole {
        wrong.push(format!("body {:?}, {}", got.body, if got.whole { "whole" } else { "cut off" }));
    }
    let all = |name: &str| -> Vec<&str> {
        got.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    };
    for (name, value) in &passes.fields {
        if all(name) != [value.as_str()] {
            wrong.push(format!("{name} is {:?} and not {value:?}", all(name)));
        }
    }
    wrong.extend(passes.absent.iter().filter(|name| !all(name).is_empty()).map(|name| format!("{name} is there")));
    wrong
}

fn judge(case: &Case, got: &Got) -> Vec<String> {
    let own = got.fields.iter().any(|(name, _)| name == "sluicegate-reason");
    match (case.answer, &case.passes, case.cut) {
        (Some(status), None, false) if (got.status, own) == (status, true) => Vec::new(),
        (Some(_), None, false) => vec![format!("{got:?}")],
        (None, Some(passes), false) => differences(got, passes),
        // Where nothing of it was passed on yet, it is no answer at all.
        (None, None, true) if !got.whole || (got.status, own) == (502, true) => Vec::new(),
        (None, None, true) => vec![format!("passed as {got:?}")],
        _ => vec!["the case says neither, or several, of `answer`, `passes` and `cut`".to_owned()],
    }
}

#[test]
fn answers_are_refused_or_brought_into_one_form() {
    let raw = Arc::new(Mutex::new(Vec::new()));
    let current = raw.clone();
    let backend = Scripted::new(move |mut incoming| {
        let answer = current.lock().unwrap().clone();
        incoming.send(answer);
    });
    let gateway = Start::with(&everything_to(&[backend.address])).set("workers", 1.into()).ready();
    let cases = cases::all("responses");
    let mut failed = Vec::new();
    for case in &cases {
        *raw.lock().unwrap() = case.raw();
        let got = ask(gateway.http, case.method.as_deref().unwrap_or("GET"));
        let wrong = judge(case, &got);
        if !wrong.is_empty() {
            failed.push(format!("{}: {}", case.name, wrong.join("; ")));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    println!("{} cases", cases.len());
}
