//! What the HTTP/2 library refuses by itself is seen only in the frames that it sends.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use h2::Reason as ErrorCode;

use super::open::Ended;
use super::wire::{Frame, kind};
use crate::observe::Cells;
use crate::observe::cells::Rejection;

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    malformed: AtomicU32,
    too_many: AtomicU32,
    too_large: AtomicU32,
    /// Why it has ended the connection; 0: it has not.
    code: AtomicU32,
    /// The gateway has, and has said so.
    is_told: AtomicBool,
}

impl Refusals {
    /// A frame has gone out, with which a stream may have ended that was never accepted.
    pub fn goes(&self, frame: &Frame, ended: Option<Ended>) {
        if frame.kind == kind::GOAWAY && frame.code != 0 && !self.is_told.load(Ordering::Relaxed) {
            self.code.store(frame.code, Ordering::Relaxed);
        }
        let count = match ended {
            None => return,
            Some(Ended::Answered) => &self.too_large,
            Some(Ended::Reset) if frame.code == u32::from(ErrorCode::REFUSED_STREAM) => &self.too_many,
            Some(Ended::Reset) => &self.malformed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// The gateway ends the connection for what its client did, and has counted that.
    pub fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Counts what was refused since it was last asked; how many were malformed.
    pub fn count(&self, cells: &Cells) -> u32 {
        let take = |count: &AtomicU32, why| {
            let count = count.swap(0, Ordering::Relaxed);
            (0..count).for_each(|_| cells.reject(why));
            count
        };
        take(&self.too_many, Rejection::TooManyStreams);
        take(&self.too_large, Rejection::HeadTooLarge);
        match self.code.swap(0, Ordering::Relaxed) {
            0 => {}
            code if code == u32::from(ErrorCode::ENHANCE_YOUR_CALM) => cells.reject(Rejection::FrameFlood),
            _ => cells.reject(Rejection::MalformedStream),
        }
        take(&self.malformed, Rejection::MalformedStream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, code: ErrorCode) -> Frame {
        Frame { length: 8, kind, flags: 0, stream: 1, code: code.into() }
    }

    #[test]
    fn each_is_counted_once() {
        let (refusals, cells) = (Refusals::default(), Cells::default());
        let reset = |code| frame(kind::RST_STREAM, code);
        refusals.goes(&reset(ErrorCode::PROTOCOL_ERROR), Some(Ended::Reset));
        refusals.goes(&reset(ErrorCode::PROTOCOL_ERROR), Some(Ended::Reset));
        refusals.goes(&reset(ErrorCode::CANCEL), None);
        refusals.goes(&reset(ErrorCode::REFUSED_STREAM), Some(Ended::Reset));
        refusals.goes(&frame(kind::HEADERS, ErrorCode::NO_ERROR), Some(Ended::Answered));
        refusals.goes(&frame(kind::GOAWAY, ErrorCode::NO_ERROR), None);
        assert_eq!((refusals.count(&cells), refusals.count(&cells)), (2, 0));
        refusals.goes(&frame(kind::GOAWAY, ErrorCode::ENHANCE_YOUR_CALM), None);
        refusals.count(&cells);
        refusals.goes(&frame(kind::GOAWAY, ErrorCode::COMPRESSION_ERROR), None);
        refusals.count(&cells);
        refusals.tell();
        refusals.goes(&frame(kind::GOAWAY, ErrorCode::ENHANCE_YOUR_CALM), None);
        refusals.count(&cells);
        for (why, count) in [
            (Rejection::MalformedStream, 3),
            (Rejection::TooManyStreams, 1),
            (Rejection::HeadTooLarge, 1),
            (Rejection::FrameFlood, 1),
        ] {
            assert_eq!(cells.rejected[why as usize].load(Ordering::Relaxed), count, "{why:?}");
        }
    }
}
