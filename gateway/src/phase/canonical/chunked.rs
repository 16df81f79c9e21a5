//! A chunked body (RFC 9112, 7.1), judged as strictly as a head and written anew: what goes on has no extensions and no trailers, and
//! nothing in its framing that two readers could take differently.

use super::fields;
use super::head::{self, Malformed};

/// Longest line of a chunk's size, with its extensions.
const MAX_SIZE_LINE: usize = 256;

/// Most digits of a size: what 64 bits hold.
const MAX_DIGITS: usize = 16;

/// Largest size of a chunk: more than anybody sends, and far from where adding to it overflows.
const MAX_CHUNK: u64 = 1 << 60;

/// Most bytes of the trailers.
const MAX_TRAILERS: usize = 8 * 1024;

/// Where in the body the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line of a chunk's size.
    Size,
    /// In a chunk's data, of which so many bytes are to come.
    Data(u64),
    /// At the line's end behind a chunk's data.
    DataEnd,
    /// In the trailers.
    Trailers,
    /// Behind the body.
    Done,
}

/// Reads a chunked body and writes it anew.
pub struct Chunked {
    state: State,
    /// What has come of a line.
    line: Vec<u8>,
    /// Bytes of trailers so far.
    trailers: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Chunked { state: State::Size, line: Vec::new(), trailers: 0 }
    }
}

impl Chunked {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that are still to come of the chunk that is being read: they may be passed on as they are, told by [`Chunked::passed`].
    pub fn data_left(&self) -> u64 {
        match self.state {
            State::Data(left) => left,
            _ => 0,
        }
    }

    /// So many bytes of the chunk were passed on.
    pub fn passed(&mut self, count: u64) {
        if let State::Data(left) = self.state {
            self.state = if left <= count { State::DataEnd } else { State::Data(left - count) };
        }
    }

    /// Reads of `input` what belongs to the body; writes it anew to `output`, and returns how much that was. What is left behind is not of
    /// this body. Cost: one pass.
    ///
    /// # Errors
    /// It is not what the grammar says, or longer than it may be.
    pub fn read(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut rest = input;
        while !rest.is_empty() && self.state != State::Done {
            match self.state {
                State::Data(left) => {
                    let count = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    output.extend_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    self.passed(count as u64);
                }
                _ => {
                    let end = rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                    let part = &rest[..end.unwrap_or(rest.len())];
                    self.line.extend_from_slice(part);
                    rest = &rest[part.len()..];
                    self.judge_length()?;
                    if end.is_some() {
                        self.end_line(output)?;
                    }
                }
            }
        }
        Ok(input.len() - rest.len())
    }

    /// A line that cannot end well is not waited for.
    fn judge_length(&self) -> Result<(), Malformed> {
        match self.state {
            State::Size if self.line.len() > MAX_SIZE_LINE => Err(Malformed("a chunk's size line is too long")),
            State::DataEnd if !b"\r\n".starts_with(&self.line) => {
                Err(Malformed("a chunk's data does not end where it should"))
            }
            State::Trailers if self.trailers + self.line.len() > MAX_TRAILERS => {
                Err(Malformed("the trailers are too long"))
            }
            _ => Ok(()),
        }
    }

    fn end_line(&mut self, output: &mut Vec<u8>) -> Result<(), Malformed> {
        let bytes = std::mem::take(&mut self.line);
        let line = bytes.strip_suffix(b"\r\n").ok_or(Malformed("a line of a chunked body ends without CR"))?;
        self.state = match self.state {
            State::Size => match size(line)? {
                0 => State::Trailers,
                size => {
                    output.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                    State::Data(size)
                }
            },
            State::DataEnd => {
                output.extend_from_slice(b"\r\n");
                State::Size
            }
            State::Trailers if line.is_empty() => {
                output.extend_from_slice(b"0\r\n\r\n");
                State::Done
            }
            State::Trailers => {
                self.trailers += bytes.len();
                let trailer = head::field(line)?;
                if fields::is_framing(trailer.name) {
                    return Err(Malformed("a trailer is about framing"));
                }
                State::Trailers
            }
            state @ (State::Data(_) | State::Done) => state,
        };
        Ok(())
    }
}

/// Reads a size line without its end.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (number, extension) = line.split_at(digits);
    if number.is_empty() || number.len() > MAX_DIGITS {
        return Err(Malformed("a chunk's size is no number"));
    }
    let is_extension = extension.first().is_none_or(|byte| *byte == b';');
    if !is_extension || extension.iter().any(u8::is_ascii_control) {
        return Err(Malformed("a chunk's size is followed by something else than an extension"));
    }
    let text = std::str::from_utf8(number).map_err(|_| Malformed("a chunk's size is no number"))?;
    let size = u64::from_str_radix(text, 16).ok().filter(|size| *size <= MAX_CHUNK);
    size.ok_or(Malformed("a chunk's size is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body in pieces of `step` bytes: what is written, and what is left behind it.
    fn read(body: &[u8], step: usize) -> Result<(Vec<u8>, usize), Malformed> {
        let (mut chunked, mut output, mut used) = (Chunked::default(), Vec::new(), 0);
        for piece in body.chunks(step) {
            let count = chunked.read(piece, &mut output)?;
            used += count;
            if chunked.is_done() {
                return Ok((output, body.len() - used));
            }
            assert_eq!(count, piece.len());
        }
        panic!("the body has no end")
    }

    #[test]
    fn a_body_is_written_anew_however_it_arrives() {
        let body = b"004;a=b\r\nwiki\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\nGET /";
        for step in 1..body.len() {
            let (output, left) = read(body, step).unwrap();
            assert_eq!(String::from_utf8(output).unwrap(), "4\r\nwiki\r\na\r\n0123456789\r\n0\r\n\r\n");
            assert!(left >= 5 || step > 1, "what follows is not of the body");
        }
        assert_eq!(read(body, body.len()).unwrap().1, 5);
    }

    #[test]
    fn framing_that_readers_could_take_differently_is_refused() {
        for body in [
            &b"\r\n"[..],
            b"0x4\r\nwiki\r\n",
            b"+4\r\nwiki\r\n",
            b"4 \r\nwiki\r\n",
            b"4 ;a\r\nwiki\r\n",
            b"4;a\x00\r\nwiki\r\n",
            b"4\nwiki\r\n",
            b"4\r\nwiki\n",
            b"4\r\nwikix",
            b"4\r\nwiki\r\r",
            b"00000000000000004\r\nwiki\r\n",
            b"fffffffffffffffff\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nX T: 1\r\n",
            b"0\r\nX: 1\n",
            b"0\r\n X: 1\r\n",
            b"0\r\nContent-Length: 1\r\n",
            b"0\r\ntransfer_encoding: chunked\r\n",
        ] {
            let judged = Chunked::default().read(body, &mut Vec::new());
            assert!(judged.is_err(), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded_before_they_end() {
        let mut long = b"4;".to_vec();
        long.resize(MAX_SIZE_LINE + 1, b'a');
        assert!(Chunked::default().read(&long, &mut Vec::new()).is_err());
        let mut trailers = b"0\r\n".to_vec();
        (0..1000).for_each(|_| trailers.extend_from_slice(b"X-T: 123\r\n"));
        assert!(Chunked::default().read(&trailers, &mut Vec::new()).is_err());
    }

    #[test]
    fn data_may_be_passed_on_as_it_is() {
        let (mut chunked, mut output) = (Chunked::default(), Vec::new());
        assert_eq!(chunked.read(b"5\r\nab", &mut output), Ok(5));
        assert_eq!(chunked.data_left(), 3);
        chunked.passed(3);
        assert_eq!(chunked.read(b"\r\n0\r\n\r\n", &mut output), Ok(7));
        assert!(chunked.is_done());
        assert_eq!(output, b"5\r\nab\r\n0\r\n\r\n");
    }
}
