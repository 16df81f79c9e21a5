//! How much of an answer is read before the client's side has taken it. The engine alone reads until four pieces wait and four are being
//! written, and holds all of them for as long as the client likes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// See the module. One of a request at a time.
#[derive(Debug, Default)]
pub struct Window {
    /// Bytes of the body that were read since the client's side last took something.
    ahead: AtomicUsize,
    /// The client takes nothing now.
    is_stalled: AtomicBool,
    reader: AtomicWaker,
}

impl Window {
    /// An exchange begins: what another one has read before is gone.
    pub fn begin(&self) {
        self.ahead.store(0, Ordering::Relaxed);
        self.is_stalled.store(false, Ordering::Relaxed);
    }

    /// So many bytes of the body were read.
    pub fn read(&self, bytes: usize) {
        self.ahead.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The client's side has taken something, and so everything that came before it.
    pub fn took(&self) {
        if self.is_stalled.swap(false, Ordering::Relaxed) | (self.ahead.swap(0, Ordering::Relaxed) > 0) {
            self.reader.wake();
        }
    }

    /// The client's side waits for the client: what is read now would wait as well.
    pub fn stalls(&self) {
        self.is_stalled.store(true, Ordering::Relaxed);
    }

    /// Ready when fewer than `most` bytes are ahead, and nothing waits for the client. Costs four loads where that is so.
    pub fn poll_room(&self, most: usize, cx: &mut Context<'_>) -> Poll<()> {
        let has_room = || self.ahead.load(Ordering::Relaxed) < most && !self.is_stalled.load(Ordering::Relaxed);
        if !has_room() {
            self.reader.register(cx.waker());
        }
        // Read and taken on the same thread: nothing changes in between.
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn reading_waits_for_the_client() {
        let window = Window::default();
        let mut cx = Context::from_waker(Waker::noop());
        window.read(9);
        assert!(window.poll_room(10, &mut cx).is_ready());
        window.read(1);
        assert!(window.poll_room(10, &mut cx).is_pending());
        let mut room = pin!(std::future::poll_fn(|cx| window.poll_room(10, cx)));
        tokio::select! {
            biased;
            () = &mut room => panic!("nothing was taken"),
            () = async { window.took() } => {}
        }
        room.await;
        window.read(10);
        window.begin();
        assert!(window.poll_room(10, &mut cx).is_ready());
        window.stalls();
        assert!(window.poll_room(10, &mut cx).is_pending(), "what was read before is not written yet");
        window.took();
        assert!(window.poll_room(10, &mut cx).is_ready());
    }
}
