//! Are requests refused that could be taken in two ways, and is everything else brought into one form? Judged by a backend that
//! records what it is sent, with a strict reader of its own.

pub mod cases;
mod corpora;
mod mutations;
pub mod origin;
mod responses;
pub mod strict;
mod te_mutations;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::backends::everything_to;
use crate::client;
use crate::harness::{Gateway, PATIENCE, Start};
use cases::{Case, Passes};
use origin::Origin;
use strict::Message;

/// A gateway before a recording backend.
struct Scene {
    origin: Origin,
    gateway: Gateway,
    /// How long an answer is waited for.
    patience: Duration,
}

/// What became of bytes that a client sent.
struct Outcome {
    /// Status of the first answer; 0: none came.
    status: u16,
    /// Whether the gateway made it itself.
    own: bool,
    /// Whether the connection was closed behind it.
    closed: bool,
}

/// The address of a client, by which its requests are known at the backend.
fn client_address(number: usize) -> IpAddr {
    let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
    IpAddr::from([127, 77, high, low])
}

impl Scene {
    fn set() -> Scene {
        let origin = Origin::start();
        let gateway = Start::with(&everything_to(&[origin.address])).set("workers", 1.into()).ready();
        Scene { origin, gateway, patience: PATIENCE }
    }

    /// Sends bytes as client `number`; `waits`: for the end of the connection too, if the gateway itself answers.
    fn send(&self, number: usize, raw: &[u8], waits: bool) -> Outcome {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((client_address(number), 0)).into()).unwrap();
        socket.connect(&self.gateway.http.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(self.patience)).unwrap();
        // The gateway may close before all is written.
        let _ = stream.write_all(raw);
        let (mut bytes, mut chunk, mut closed) = (Vec::new(), [0; 4096], false);
        let is_own = |bytes: &[u8]| first_head(bytes).contains("\r\nsluicegate-reason:");
        let goes_on = |bytes: &[u8]| waits && is_own(bytes);
        while !closed && (answer_length(&bytes, raw.starts_with(b"HEAD ")).is_none() || goes_on(&bytes)) {
            match stream.read(&mut chunk) {
                Ok(0) => closed = true,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => closed = true,
                // The gateway waits for more of the request.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && self.patience < PATIENCE => break,
                Err(error) => panic!("{error} for {:?}", String::from_utf8_lossy(raw)),
            }
        }
        let status = bytes.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok()).unwrap_or(0);
        Outcome { status, own: is_own(&bytes), closed }
    }
}

/// Head of the first answer that is no interim one, in lower case.
fn first_head(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let is_interim = |head: &&str| head.starts_with("http/1.1 1");
    text.split("\r\n\r\n").find(|head| !is_interim(head)).unwrap_or_default().to_owned()
}

/// Length of the first answer that is no interim one; `None`: it is not whole yet.
fn answer_length(bytes: &[u8], head: bool) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let end = text.find("\r\n\r\n")? + 4;
    if text.starts_with("http/1.1 1") {
        return Some(end + answer_length(bytes.get(end..)?, head)?);
    }
    let length =
        text[..end].split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let whole = end + if head { 0 } else { length.unwrap_or(0) };
    (bytes.len() >= whole).then_some(whole)
}

/// What differs between what a backend was sent and what it should be.
fn differences(message: &Message, passes: &Passes) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut compare = |what: &str, said: &str, wanted: &Option<String>| {
        if wanted.as_deref().is_some_and(|wanted| wanted != said) {
            wrong.push(format!("{what} is {said:?} and not {wanted:?}"));
        }
    };
    compare("method", &message.method, &passes.method);
    compare("target", &message.target, &passes.target);
    compare("version", message.version.trim_start_matches("HTTP/"), &passes.version);
    let body: String = message.body.iter().map(|byte| char::from(*byte)).collect();
    compare("body", &body, &passes.body);
    let client = message.client().map(|client| client.to_string()).unwrap_or_default();
    for (name, value) in &passes.fields {
        // Each case has a client of its own.
        let value = if name == "x-forwarded-for" || name == "x-real-ip" { &client } else { value };
        if message.all(name) != [&cases::latin1(value)[..]] {
            wrong.push(format!(
                "{name} is {:?} and not {value:?}",
                message.all(name).iter().map(|v| String::from_utf8_lossy(v)).collect::<Vec<_>>()
            ));
        }
    }
    wrong.extend(
        passes.absent.iter().filter(|name| !message.all(name).is_empty()).map(|name| format!("{name} is there")),
    );
    wrong
}

/// What is wrong with a case's outcome.
fn judge(case: &Case, outcome: &Outcome, forwarded: &[Arc<Message>]) -> Vec<String> {
    let mut wrong = Vec::new();
    match (case.answer, &case.passes) {
        (Some(status), None) => {
            if (outcome.status, outcome.own) != (status, true) {
                wrong.push(format!("answered {} and not {status}", outcome.status));
            }
            if !outcome.closed {
                wrong.push("the connection stays open".to_owned());
            }
            wrong.extend(forwarded.first().map(|message| format!("the backend was sent {message:?}")));
        }
        (None, Some(passes)) => match forwarded.first() {
            None => wrong.push(format!("answered {} and not forwarded", outcome.status)),
            Some(message) => wrong.extend(differences(message, passes)),
        },
        _ => wrong.push("the case says neither or both of `answer` and `passes`".to_owned()),
    }
    wrong
}

#[test]
fn requests_are_refused_or_brought_into_one_form() {
    let scene = Scene::set();
    let cases = cases::all("requests");
    let outcomes: Vec<Outcome> =
        cases.iter().enumerate().map(|(number, case)| scene.send(number, &case.raw(), case.answer.is_some())).collect();
    let mut failed = scene.origin.dirty();
    for (number, (case, outcome)) in cases.iter().zip(&outcomes).enumerate() {
        let wrong = judge(case, outcome, &scene.origin.of(client_address(number)));
        if !wrong.is_empty() {
            failed.push(format!("{}: {}", case.name, wrong.join("; ")));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    println!("{} cases", cases.len());
}

/// Whatever one byte is put somewhere into a request's framing: it is refused, or a strict reader takes what becomes of it as one request.
#[test]
fn no_byte_in_the_framing_makes_a_request_that_two_readers_take_differently() {
    let scene = Scene::set();
    let (mut refused, mut passed, mut wrong) = (0, 0, Vec::new());
    for (number, raw) in mutations::framing().enumerate() {
        let outcome = scene.send(number, &raw, false);
        let forwarded = scene.origin.of(client_address(number));
        refused += usize::from(outcome.own);
        passed += usize::from(!outcome.own);
        if outcome.status == 0 || forwarded.len() != usize::from(!outcome.own) {
            wrong.push(format!("{:?}: {} {forwarded:?}", String::from_utf8_lossy(&raw), outcome.status));
        }
    }
    wrong.extend(scene.origin.dirty());
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{refused} refused, {passed} passed");
    assert!(passed > 50 && refused > 1000, "{refused} refused, {passed} passed");
}

#[test]
fn the_detail_of_a_refusal_is_in_the_access_log() {
    let scene = Scene::set();
    let raw = "GET /x HTTP/1.1\r\nHost: A.test\r\nUser-Agent: old\r\nAuthorization: Basic c2VjcmV0\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(client::raw(scene.gateway.http, raw).status, 400);
    let line = scene.gateway.wait_access(|line| line["status"] == 400);
    assert_eq!(line["detail"], "Transfer-Encoding and Content-Length contradict each other");
    assert_eq!(
        (&line["requestLine"], &line["host"], &line["userAgent"]),
        (&"GET /x HTTP/1.1".into(), &"A.test".into(), &"old".into())
    );
    assert!(!line.to_string().contains("c2VjcmV0"));
    scene.gateway.wait_metric("sluicegate_rejected_total", &["reason=\"MalformedHead\""], 1.0);
}
