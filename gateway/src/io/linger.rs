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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    /// Sends as much as is taken, but for a limit far above; how much that was until the other side was gone.
    async fn flood(mut client: impl AsyncWriteExt + Unpin) -> usize {
        let mut sent = 0;
        while sent < 100 << 20 {
            let Ok(count) = client.write(&[b'x'; 4096]).await else { break };
            sent += count;
        }
        sent
    }

    #[tokio::test]
    async fn what_a_client_still_sends_is_taken_until_it_closes() {
        let (mut client, server) = duplex(1024);
        let begun = Instant::now();
        let sends = async {
            client.write_all(&vec![b'x'; 10 * AT_ONCE]).await.unwrap();
            drop(client);
        };
        tokio::join!(sends, linger(Box::new(server)));
        assert!(begun.elapsed() < LINGER);
        assert_eq!(LINGERING.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_neither_sends_nor_closes_is_waited_for_once() {
        let (client, server) = duplex(1024);
        let begun = Instant::now();
        linger(Box::new(server)).await;
        assert_eq!(begun.elapsed(), LINGER);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn where_many_linger_little_is_taken_of_those_who_send_without_end() {
        let times = (LINGER.as_millis() / PAUSE.as_millis() + 2) as usize;
        // Many small pieces, and large ones.
        for (pipe, each_time) in [(512, READS * 512), (16 * 1024, AT_ONCE)] {
            let most = each_time * times;
            let flood = async |_| {
                let (client, server) = duplex(pipe);
                let (sent, ()) = tokio::join!(flood(client), linger(Box::new(server)));
                sent
            };
            let begun = Instant::now();
            let sent = futures_util::future::join_all((0..2 * FEW).map(flood)).await;
            assert!(begun.elapsed() >= LINGER && begun.elapsed() < LINGER + 2 * PAUSE, "{:?}", begun.elapsed());
            assert!(sent.iter().all(|sent| (most / 2..most).contains(sent)), "{sent:?} of {most}");
        }
        assert_eq!(LINGERING.get(), 0);
    }
}
