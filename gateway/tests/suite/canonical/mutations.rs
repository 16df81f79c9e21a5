//! Requests with one thing wrong in their framing, in every way that one byte can be wrong.

/// A body that is one thing by its length and another by its chunks. Longer than any length with one more digit.
const BODY: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Positions of a byte in the lines about framing.
const TEMPLATES: [&str; 15] = [
    "Transfer-Encoding@: chunked",
    "@Transfer-Encoding: chunked",
    "Transfer@Encoding: chunked",
    "Transfer-Encoding:@chunked",
    "Transfer-Encoding: @chunked",
    "Transfer-Encoding: chunked@",
    "Transfer-Encoding: chun@ked",
    "Transfer-Encoding: chunked@, identity",
    "X: 1@Transfer-Encoding: chunked",
    "X: 1\r@Transfer-Encoding: chunked",
    "Transfer-Encoding: x@\r\n chunked",
    "Content-Length@: 3",
    "Content-Length: @3",
    "Content-Length: 3@",
    "Content@Length: 3",
];

/// Every request.
pub fn framing() -> impl Iterator<Item = Vec<u8>> {
    let of_template = |template: &'static str| (0..=u8::MAX).map(move |byte| with(template, &[byte]));
    let encodings = [
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity\r\nTransfer-Encoding: chunked",
        "chunked;a=b",
        "\"chunked\"",
        "gzip, chunked",
        "CHUNKED",
        "chunked,",
        ",chunked",
        "",
    ];
    let of_encoding = encodings.into_iter().map(|value| request(format!("Transfer-Encoding: {value}").as_bytes()));
    TEMPLATES.into_iter().flat_map(of_template).chain(of_encoding)
}

fn with(template: &str, byte: &[u8]) -> Vec<u8> {
    let (before, after) = template.split_once('@').unwrap();
    request(&[before.as_bytes(), byte, after.as_bytes()].concat())
}

/// A request with this line beside a Content-Length that covers all of the body.
fn request(line: &[u8]) -> Vec<u8> {
    let length = if line.to_ascii_lowercase().starts_with(b"content") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", BODY.len())
    };
    let head = format!("POST /first HTTP/1.1\r\nHost: a.test\r\n{length}");
    [head.as_bytes(), line, b"\r\n\r\n", BODY.as_bytes()].concat()
}
