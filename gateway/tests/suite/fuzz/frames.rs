//! The watch over HTTP/2 frames sees the same in whatever pieces they arrive.

use std::time::Instant;

use rand::rngs::StdRng;
use sluicegate::io::http2::frames::{FrameWatch, Watched};
use sluicegate::io::http2::open::Open;
use sluicegate::io::http2::wire::Reader;

use super::{Taken, feed, pieces};
use crate::http2::request;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn check(bytes: &[u8], random: &mut StdRng) -> Taken {
    let now = Instant::now();
    let seen = |pieces: &[&[u8]]| {
        let (mut reader, mut sent, mut open) = (Reader::of_client(), Reader::of_server(), Open::new(100));
        let (mut watch, watched) = (FrameWatch::new(now, 1000, false), Watched::default());
        let (mut are_few, mut ended) = (true, Vec::new());
        for piece in pieces {
            let (mut rest, mut going) = (*piece, *piece);
            while let Some(frame) = reader.next(&mut rest) {
                watch.frame(&frame, now, &watched);
                are_few &= open.came(&frame);
                if frame.length % 2 == 0 && frame.stream > 0 {
                    open.serves(frame.stream);
                }
                open.passes(frame.stream, frame.length);
            }
            assert!(rest.is_empty() && reader.rest() > 0, "reading nothing looks like the end");
            while let Some(frame) = sent.next(&mut going) {
                ended.push((frame, open.goes(&frame)));
                open.leaves(frame.stream);
            }
            assert!((open.unsent() == 0 && open.waiting() == 0) || open.streams() > 0);
        }
        let turns = watch.takes_turns_until(now);
        let frames: Vec<_> = ended.iter().map(|(frame, _)| *frame).collect();
        let watched = (watched.is_spent(), watched.is_in_head(), turns);
        ((reader.is_between_frames(), reader.rest(), are_few), watched, frames)
    };
    assert_eq!(seen(&[bytes]), seen(&pieces(bytes, random)), "pieces matter");
    Taken::Yes
}

#[test]
fn frames_are_the_same_in_whatever_pieces_they_arrive() {
    let head = request(b"GET", b"/", &[]);
    let frames = [
        frame(4, 0, &[0, 4, 0, 0, 0, 0]),
        frame(1, 0, &head),
        frame(9, 4, b"x"),
        frame(0, 1, &[0; 100]),
        frame(6, 0, &[0; 8]),
        frame(3, 0, &[0; 4]),
        frame(8, 0, &[0, 0, 0, 1]),
    ];
    let many = [PREFACE, &frame(6, 0, &[0; 8]).repeat(1100)[..]].concat();
    println!("{}", feed("frames", vec![[PREFACE, &frames.concat()[..]].concat(), many], 1, check));
}
