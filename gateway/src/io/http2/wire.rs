//! Finds the frames in what goes over a connection, in one direction (RFC 9113, 4.1): those of a client when their header is there, which is when
//! the library may begin with them, and those of a server when they have gone out whole.

/// Bytes of the connection preface.
const PREFACE: usize = 24;

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// Bytes of a payload within which an error code is, where there is one.
const CODE: usize = 8;

/// Types of frames (RFC 9113, 6), and flags.
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// A head, its first part.
    pub const HEADERS: u8 = 1;
    /// The end of a stream before its time.
    pub const RST_STREAM: u8 = 3;
    /// Settings, or that they were taken.
    pub const SETTINGS: u8 = 4;
    /// The end of the connection, and why.
    pub const GOAWAY: u8 = 7;
    /// One more part of a head.
    pub const CONTINUATION: u8 = 9;
    /// The sender's side of the stream ends.
    pub const END_STREAM: u8 = 1;
    /// The head ends.
    pub const END_HEADERS: u8 = 4;
}

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of its payload.
    pub length: usize,
    /// Its type.
    pub kind: u8,
    /// Its flags, whose meaning is the type's.
    pub flags: u8,
    /// Its stream; 0: it is the connection's.
    pub stream: u32,
    /// Why it ends a stream or the connection; 0: it does not, or it is not known yet.
    pub code: u32,
}

impl Frame {
    fn parse([high, middle, low, kind, flags, stream @ ..]: [u8; HEADER]) -> Frame {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        // The highest bit is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Frame { length, kind, flags, stream, code: 0 }
    }

    /// With the error code that its payload, which begins like this, says (RFC 9113, 6.4 and 6.8).
    fn with_code(self, payload: [u8; CODE]) -> Frame {
        let [high @ .., e, f, g, h] = payload;
        let code = match self.kind {
            kind::RST_STREAM => u32::from_be_bytes(high),
            kind::GOAWAY => u32::from_be_bytes([e, f, g, h]),
            _ => 0,
        };
        Frame { code, ..self }
    }

    /// Whether its sender sends no more on the stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & kind::END_STREAM != 0
    }
}

#[derive(Debug)]
enum At {
    Preface(usize),
    Header,
    Payload { left: usize, of: Frame },
}

/// Reads frames' headers as bytes go by.
#[derive(Debug)]
pub struct Reader {
    at: At,
    header: [u8; HEADER],
    have: usize,
    /// A frame is told when its payload has ended, which begins like this.
    tells_ends: bool,
    payload: [u8; CODE],
}

impl Reader {
    /// Of what a client sends, which begins with the preface.
    pub fn of_client() -> Reader {
        Reader { at: At::Preface(PREFACE), tells_ends: false, ..Reader::of_server() }
    }

    /// Of what a server sends.
    pub fn of_server() -> Reader {
        Reader { at: At::Header, header: [0; HEADER], have: 0, tells_ends: true, payload: [0; CODE] }
    }

    /// The next frame that is told within these bytes, of which it takes those it has looked at; `None`: they are at their end.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        while !bytes.is_empty() {
            let count = bytes.len().min(self.rest());
            let (part, rest) = bytes.split_at(count);
            *bytes = rest;
            match &mut self.at {
                At::Preface(left) => {
                    *left -= count;
                    if *left == 0 {
                        self.at = At::Header;
                    }
                }
                At::Payload { left, of } => {
                    let (of, before) = (*of, of.length - *left);
                    for (to, from) in self.payload.iter_mut().skip(before).zip(part) {
                        *to = *from;
                    }
                    *left -= count;
                    if *left == 0 {
                        self.at = At::Header;
                        if self.tells_ends {
                            return Some(of.with_code(self.payload));
                        }
                    }
                }
                At::Header => {
                    self.header[self.have..self.have + count].copy_from_slice(part);
                    self.have += count;
                    if self.have == HEADER {
                        self.have = 0;
                        let frame = Frame::parse(self.header);
                        if frame.length > 0 {
                            self.at = At::Payload { left: frame.length, of: frame };
                        }
                        if frame.length == 0 || !self.tells_ends {
                            return Some(frame);
                        }
                    }
                }
            }
        }
        None
    }

    /// Bytes to the end of what is being read: the preface, a header, or a payload.
    pub fn rest(&self) -> usize {
        match self.at {
            At::Preface(left) | At::Payload { left, .. } => left,
            At::Header => HEADER - self.have,
        }
    }

    /// Whether that is data.
    pub fn is_in_data(&self) -> bool {
        matches!(self.at, At::Payload { of: Frame { kind: kind::DATA, .. }, .. })
    }

    /// Whether nothing of a frame was read that has not ended.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Header) && self.have == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_arrive() {
        let frames = [
            Frame { length: 0, kind: kind::SETTINGS, flags: 0, stream: 0, code: 0 },
            Frame { length: 70_000, kind: kind::DATA, flags: 0, stream: 0x7fff_ffff, code: 0 },
            Frame { length: 5, kind: kind::HEADERS, flags: kind::END_STREAM | kind::END_HEADERS, stream: 3, code: 0 },
            Frame { length: 4, kind: kind::RST_STREAM, flags: kind::END_STREAM, stream: 1, code: 0x0101_0101 },
            Frame { length: 9, kind: kind::GOAWAY, flags: 0, stream: 0, code: 0x0101_0101 },
        ];
        let mut bytes = vec![b'x'; PREFACE];
        for Frame { length, kind, flags, stream, .. } in frames {
            bytes.extend(&(length as u32).to_be_bytes()[1..]);
            bytes.extend([kind, flags]);
            // The reserved bit says nothing.
            bytes.extend((stream | 1 << 31).to_be_bytes());
            bytes.extend(vec![1; length]);
        }
        for step in [1, 2, 7, 9, 100, 4096, bytes.len()] {
            let (mut client, mut server, mut come, mut gone) =
                (Reader::of_client(), Reader::of_server(), Vec::new(), Vec::new());
            for mut piece in bytes.chunks(step) {
                come.extend(std::iter::from_fn(|| client.next(&mut piece)));
            }
            for mut piece in bytes[PREFACE..].chunks(step) {
                gone.extend(std::iter::from_fn(|| server.next(&mut piece)));
            }
            assert_eq!(come, frames.map(|frame| Frame { code: 0, ..frame }), "in pieces of {step}");
            assert_eq!(gone, frames, "in pieces of {step}");
            assert!(client.is_between_frames() && server.is_between_frames());
        }
        assert_eq!(frames.map(|frame| frame.ends_stream()), [false, false, true, false, false]);
    }

    #[test]
    fn it_is_known_how_much_is_left_of_what() {
        for (mut reader, is_told) in
            [(Reader { at: At::Header, ..Reader::of_client() }, true), (Reader::of_server(), false)]
        {
            assert_eq!((reader.rest(), reader.is_between_frames()), (HEADER, true));
            assert_eq!(reader.next(&mut &[0, 0, 7][..]), None);
            assert_eq!((reader.rest(), reader.is_between_frames()), (HEADER - 3, false));
            assert_eq!(reader.next(&mut &[kind::DATA, 0, 0, 0, 0, 1][..]).is_some(), is_told);
            assert_eq!((reader.rest(), reader.is_in_data(), reader.is_between_frames()), (7, true, false));
            assert_eq!(reader.next(&mut &[0; 7][..]).is_some(), !is_told);
        }
    }
}
