//! Cases that others have published. Of each only this is asked: it is refused, or what the backend is sent is in the one form.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::cases::latin1;
use super::{Outcome, Scene, client_address, te_mutations};

/// How long the rest of an answer is waited for: some cases leave the gateway waiting for more of a body.
const PATIENCE: Duration = Duration::from_secs(2);

/// A corpus at work.
struct Run {
    scene: Scene,
    sent: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Run {
    fn new() -> Run {
        Run { scene: Scene { patience: PATIENCE, ..Scene::set() }, sent: 0, refused: 0, wrong: Vec::new() }
    }

    /// Sends a case; true: it was refused before anything of it was forwarded.
    fn send(&mut self, name: &str, raw: &[u8]) -> bool {
        let outcome: Outcome = self.scene.send(self.sent, raw, true);
        let forwarded = !self.scene.origin.of(client_address(self.sent)).is_empty();
        let refused = outcome.own && !forwarded;
        self.sent += 1;
        self.refused += usize::from(refused);
        if refused && !outcome.closed {
            self.wrong.push(format!("{name}: {} and the connection stays open", outcome.status));
        }
        refused
    }

    /// How many were sent, and how many refused. Nothing else may have come to the backend than what a strict reader takes.
    fn end(mut self) -> (usize, usize) {
        self.wrong.extend(self.scene.origin.dirty());
        assert!(self.wrong.is_empty(), "{}:\n{}", self.wrong.len(), self.wrong.join("\n"));
        (self.sent, self.refused)
    }
}

/// A request with lines about framing before its Host, as Smuggler sends it.
fn smuggled(lines: &[u8], length: Option<usize>, body: &str) -> Vec<u8> {
    let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    let rest = format!("Host: a.test\r\nContent-type: application/x-www-form-urlencoded\r\n{length}\r\n{body}");
    [b"POST /?cb=1 HTTP/1.1\r\n", lines, rest.as_bytes()].concat()
}

/// The 668 disguises of Smuggler, each with a body that is one thing by its length and another by its chunks, and with chunks alone.
#[test]
fn disguises_of_transfer_encoding() {
    let mutations = te_mutations::all();
    assert_eq!(mutations.len(), 668);
    let forms = [(Some(6), "0\r\n\r\nX"), (Some(4), "1\r\nZ\r\n0\r\n\r\n"), (None, "0\r\n\r\n")];
    for (length, body) in forms {
        let mut run = Run::new();
        for (name, lines) in &mutations {
            run.send(name, &smuggled(lines, length, body));
        }
        let (sent, refused) = run.end();
        println!("{sent} sent, {refused} refused");
        // The name of another field, and where no length contradicts them the forms that every reader takes for `chunked`.
        assert_eq!(refused, if length.is_some() { 667 } else { 660 });
    }
}

#[derive(Deserialize)]
struct Payload {
    name: String,
    raw: String,
}

/// What HTTP Garden found bugs with, as published, and with a Host where it was left out.
#[test]
fn payloads_of_http_garden() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora/http-garden-trophies.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let payloads: Vec<Payload> = sluicegate_process::yaml::parse(&text).unwrap().unwrap();
    let mut run = Run::new();
    for Payload { name, raw } in &payloads {
        run.send(name, &latin1(raw));
        if !raw.to_ascii_lowercase().contains("host:")
            && let Some((line, rest)) = raw.split_once("\r\n")
        {
            run.send(&format!("{name} with a Host"), &latin1(&format!("{line}\r\nHost: a.test\r\n{rest}")));
        }
    }
    let (sent, refused) = run.end();
    println!("{sent} sent, {refused} refused");
    assert!(payloads.len() == 76 && sent >= 95 && refused >= 80, "{sent} sent, {refused} refused");
}

/// A case of http-desync-guardian.
#[derive(Deserialize)]
struct Guarded {
    name: String,
    uri: String,
    method: String,
    version: String,
    headers: Option<Vec<GuardedField>>,
    expected: Expected,
}

#[derive(Deserialize)]
struct GuardedField {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Expected {
    tier: String,
}

/// Where cargo has unpacked the crate, whose cases are used where they are.
fn guardian() -> PathBuf {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", &target];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_guardian = |package: &&serde_json::Value| package["name"] == "http_desync_guardian";
    let package = metadata["packages"].as_array().unwrap().iter().find(is_guardian).unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("tests")
}

fn guarded() -> Vec<Guarded> {
    let files = std::fs::read_dir(guardian()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let cases: Option<Vec<Guarded>> = sluicegate_process::yaml::parse(&text).unwrap();
        cases.unwrap_or_default()
    };
    files.into_iter().flat_map(read).collect()
}

/// Their texts have escapes of their own.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('x') => {
                let digits: String = characters.by_ref().take(2).collect();
                out.push(char::from(u8::from_str_radix(&digits, 16).unwrap()));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out.into_bytes()
}

impl Guarded {
    /// None of the cases has a body, and all but one no Host.
    fn raw(&self) -> Vec<u8> {
        let mut raw = [&unescaped(&self.method)[..], &unescaped(&self.uri), &unescaped(&self.version)].join(&b' ');
        raw.extend_from_slice(b"\r\n");
        let fields = self.headers.iter().flatten();
        let (mut has_host, mut length, mut chunked) = (false, 0, false);
        for GuardedField { name, value } in fields {
            let (name, value) = (unescaped(name), unescaped(value));
            let plain = String::from_utf8_lossy(&name).to_ascii_lowercase();
            has_host |= plain == "host";
            chunked |= plain.contains("transfer") && plain.contains("encod");
            if plain == "content-length" {
                length = std::str::from_utf8(&value).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            }
            raw.extend_from_slice(&[&name[..], &value].join(&b": "[..]));
            raw.extend_from_slice(b"\r\n");
        }
        if !has_host {
            raw.extend_from_slice(b"Host: a.test\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        let body = if chunked { b"0\r\n\r\n".to_vec() } else { vec![b'x'; length.min(8 << 20)] };
        [raw, body].concat()
    }
}

/// Cases that http-desync-guardian calls compliant, and that are refused: Transfer-Encoding other than one `chunked`, without parameters
/// (RFC 9112, 6.1: a server may refuse codings; 7.1: parameters of chunked are an error), a fragment in the target, and no target (ADR 0038).
const REFUSED_COMPLIANT: [&str; 9] = [
    "Compliant URL",
    "Correct TE OK",
    "Different Transfer-Encoding headers",
    "Different Transfer-Encoding headers combined",
    "Empty URI",
    "Multiple transfer encoding headers in a single request OK",
    "TE with custom parameters OK",
    "Transfer-Encoding with a param: chunked;custom_param",
    "Transfer-Encoding: identity and chunked OK",
];

#[test]
fn cases_of_http_desync_guardian() {
    let cases = guarded();
    let mut run = Run::new();
    let (mut compliant, mut severe_passed) = (Vec::new(), Vec::new());
    for case in &cases {
        let refused = run.send(&case.name, &case.raw());
        match &*case.expected.tier {
            "Compliant" if refused => compliant.push(&*case.name),
            "Severe" if !refused => severe_passed.push(&*case.name),
            _ => {}
        }
    }
    let (sent, refused) = run.end();
    println!("{sent} sent, {refused} refused");
    compliant.sort_unstable();
    assert_eq!((cases.len(), severe_passed), (159, Vec::new()));
    assert_eq!(compliant, REFUSED_COMPLIANT);
}
