//! The end of a connection: what its client still sends is taken for a moment, since a socket that is closed with unread bytes resets the
//! connection, and the reset overtakes the answer. Where several linger it is taken slowly: those who send without end cost next to
//! nothing.

use std::cell::Cell;
use std::future::Future;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora::protocols::{Shutdown, Stream};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a closing connection is read from, at most.
pub const LINGER: Duration = Duration::from_secs(2);

/// So many of a worker's connections are not slowed down.
const FEW: usize = 4;

/// Bytes that are taken before a pause, in so many reads (TLS gives a record at a time, however small), and how long it is: 6 MiB a second.
const AT_ONCE: usize = 64 * 1024;
const READS: usize = 16;
const PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// Connections of this worker that linger.
    static LINGERING: Cell<usize> = const { Cell::new(0) };
}

/// Takes what a client still sends. See the module.
pub struct Discard {
    over: Pin<Box<Sleep>>,
    pause: Option<Pin<Box<Sleep>>>,
    taken: usize,
    reads: usize,
}

impl Default for Discard {
    fn default() -> Self {
        LINGERING.set(LINGERING.get() + 1);
        Discard { over: Box::pin(sleep(LINGER)), pause: None, taken: 0, reads: 0 }
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        LINGERING.set(LINGERING.get().saturating_sub(1));
    }
}

impl Discard {
    /// Ready at the end of the connection, or when it has had its time.
    pub fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        // On the stack only while something is read.
        let mut scratch = [MaybeUninit::uninit(); 16 * 1024];
        while self.over.as_mut().poll(cx).is_pending() {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                (self.pause, self.taken, self.reads) = (None, 0, 0);
            }
            let mut read = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    self.taken += read.filled().len();
                    self.reads += 1;
                }
                _ => break,
            }
            if self.taken < AT_ONCE && self.reads < READS {
                continue;
            }
            if LINGERING.get() > FEW {
                self.pause = Some(Box::pin(sleep(PAUSE)));
            } else {
                // Others come in between.
                (self.taken, self.reads) = (0, 0);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

/// Ends a connection whose client has been answered.
pub async fn linger(mut stream: Stream) {
    let discard = async {
        Shutdown::shutdown(&mut *stream).await;
        let mut discard = Discard::default();
        std::future::poll_fn(|cx| discard.poll(&mut stream, cx)).await;
    };
    // A client that neither reads nor closes has had its chance.
    let _ = tokio::time::timeout(LINGER, discard).await;
}
