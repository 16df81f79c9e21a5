//! A strict reader of HTTP/1 requests, written apart from the gateway's: what a backend may be sent, and nothing else.

use std::net::IpAddr;

/// A request as the strict reader sees it.
#[derive(Debug)]
pub struct Message {
    pub method: String,
    pub target: String,
    pub version: String,
    /// Lower-case names and values, in their order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Decoded.
    pub body: Vec<u8>,
}

impl Message {
    /// Address of the client that it is from.
    pub fn client(&self) -> Option<IpAddr> {
        let [address] = self.all("x-forwarded-for")[..] else { return None };
        std::str::from_utf8(address).ok()?.parse().ok()
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| &value[..]).collect()
    }
}

/// What bytes are.
#[derive(Debug)]
pub enum Judged {
    /// A request of so many bytes.
    Whole(Box<Message>, usize),
    /// The beginning of one.
    Partial,
    /// None, for this reason.
    Dirty(String),
}

type Strict<T> = Result<Option<T>, String>;

/// Judges what a backend was sent.
pub fn judge(bytes: &[u8]) -> Judged {
    match judge_form(bytes) {
        Judged::Whole(message, length) => match judge_client(&message) {
            Ok(()) => Judged::Whole(message, length),
            Err(why) => Judged::Dirty(why),
        },
        other => other,
    }
}

/// Judges a request, whoever it is from.
pub fn judge_form(bytes: &[u8]) -> Judged {
    match read(bytes) {
        Ok(Some((message, length))) => Judged::Whole(Box::new(message), length),
        Ok(None) => Judged::Partial,
        Err(why) => Judged::Dirty(why),
    }
}

fn read(bytes: &[u8]) -> Strict<(Message, usize)> {
    let mut at = 0;
    let Some(line) = line(bytes, &mut at)? else { return Ok(None) };
    let text = std::str::from_utf8(line).map_err(|_| "the request line is no ASCII".to_owned())?;
    let parts: Vec<&str> = text.split(' ').collect();
    let [method, target, version] = parts[..] else { return Err(format!("request line {text:?}")) };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(format!("method {method:?}"));
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(format!("target {target:?}"));
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(format!("version {version:?}"));
    }
    let mut fields = Vec::new();
    loop {
        let Some(line) = self::line(bytes, &mut at)? else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        fields.push(field(line)?);
    }
    let mut message = Message {
        method: method.to_owned(),
        target: target.to_owned(),
        version: version.to_owned(),
        fields,
        body: Vec::new(),
    };
    judge_fields(&message)?;
    let Some(body) = body(&message, bytes, &mut at)? else { return Ok(None) };
    message.body = body;
    Ok(Some((message, at)))
}

/// A line that ends with CRLF, and has neither of them inside.
fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Strict<&'a [u8]> {
    let rest = &bytes[*at..];
    match rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        None => Ok(None),
        Some(end) if rest.get(end) == Some(&b'\r') => match rest.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => {
                *at += end + 2;
                Ok(Some(&rest[..end]))
            }
            Some(_) => Err("a bare CR".to_owned()),
        },
        Some(_) => Err("a bare LF".to_owned()),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| format!("no colon in {shown:?}"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(format!("name of {shown:?}"));
    }
    if value.iter().any(|byte| (byte.is_ascii_control() && *byte != b'\t') || *byte == 0x7f) {
        return Err(format!("a control byte in {shown:?}"));
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii().to_vec()))
}

/// Exactly one Host, at most one field about framing, none of one hop, and none that only looks like one of those.
fn judge_fields(message: &Message) -> Result<(), String> {
    let hosts = message.all("host");
    // RFC 3986, 3.2.2, but for the mark of a joined list.
    let is_host = |host: &[u8]| {
        !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(byte))
    };
    if hosts.len() > 1 || (hosts.is_empty() && message.version == "HTTP/1.1") || !hosts.iter().all(|host| is_host(host))
    {
        return Err(format!("Host is {hosts:?}"));
    }
    let (lengths, encodings) = (message.all("content-length"), message.all("transfer-encoding"));
    if lengths.len() + encodings.len() > 1 {
        return Err(format!("framing: {lengths:?} {encodings:?}"));
    }
    if lengths.iter().any(|length| length.is_empty() || !length.iter().all(u8::is_ascii_digit)) {
        return Err(format!("Content-Length {lengths:?}"));
    }
    if encodings.iter().any(|encoding| *encoding != b"chunked")
        || (!encodings.is_empty() && message.version == "HTTP/1.0")
    {
        return Err(format!("Transfer-Encoding {encodings:?}"));
    }
    let upgrade = message.all("upgrade");
    for (name, value) in &message.fields {
        let framing = ["transfer-encoding", "content-length", "host", "connection", "upgrade", "expect"];
        let letters = |text: &str| text.replace(|sign: char| !sign.is_ascii_alphanumeric(), "");
        let looks_alike = framing.iter().any(|known| letters(known) == letters(name) && known != name);
        let is_one_hop =
            matches!(name.as_str(), "keep-alive" | "proxy-connection" | "te" | "trailer" | "http2-settings");
        let is_own = match name.as_str() {
            "connection" if upgrade.is_empty() => value == b"keep-alive" || value == b"close",
            "connection" => value.eq_ignore_ascii_case(b"upgrade"),
            "upgrade" => value == b"websocket",
            "expect" => value.eq_ignore_ascii_case(b"100-continue"),
            _ => true,
        };
        if looks_alike || is_one_hop || !is_own {
            return Err(format!("{name}: {:?}", String::from_utf8_lossy(value)));
        }
    }
    Ok(())
}

fn judge_client(message: &Message) -> Result<(), String> {
    // Clients are known by addresses of loopback, and by nothing that they say.
    let client = message.client().ok_or_else(|| format!("forwarding fields {:?}", message.all("x-forwarded-for")))?;
    if !client.is_loopback() || message.all("x-real-ip") != message.all("x-forwarded-for") {
        return Err(format!("forwarding fields {client} {:?}", message.all("x-real-ip")));
    }
    Ok(())
}

fn body(message: &Message, bytes: &[u8], at: &mut usize) -> Strict<Vec<u8>> {
    let take = |at: &mut usize, length: usize| {
        let part = bytes.get(*at..at.checked_add(length)?)?;
        *at += length;
        Some(part.to_vec())
    };
    if let Some(length) = message.all("content-length").first() {
        let length = std::str::from_utf8(length).ok().and_then(|text| text.parse::<usize>().ok());
        return Ok(take(at, length.ok_or("Content-Length is too large")?));
    }
    if message.all("transfer-encoding").is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut body = Vec::new();
    loop {
        let Some(size) = line(bytes, at)? else { return Ok(None) };
        let text = std::str::from_utf8(size).unwrap_or_default();
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a chunk of size {text:?}"));
        }
        let size = usize::from_str_radix(text, 16).unwrap();
        if size == 0 {
            return match line(bytes, at)? {
                None => Ok(None),
                Some(b"") => Ok(Some(body)),
                Some(trailer) => Err(format!("a trailer {:?}", String::from_utf8_lossy(trailer))),
            };
        }
        let Some(data) = take(at, size) else { return Ok(None) };
        body.extend(data);
        match line(bytes, at)? {
            None => return Ok(None),
            Some(b"") => {}
            Some(_) => return Err("a chunk that does not end".to_owned()),
        }
    }
}
