//! Connections to endpoints that wait for their next request. One pool per worker: what is in it never leaves its thread.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

/// Whose connection it is: a backend's, by [`crate::upstream::BoundBackend::pool_group`], to an address. What one backend has opened no
/// other one uses.
pub type PoolKey = (u64, SocketAddr);

/// How often connections that ended, or waited too long, are looked for.
const SWEEP: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    since: Instant,
    until: Instant,
}

impl Waiting {
    fn is_good(&self) -> bool {
        Instant::now() < self.until && is_quiet(&self.stream)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    /// By key; of each the longest waiting first.
    waiting: Mutex<HashMap<PoolKey, Vec<Waiting>>>,
    /// Most connections that wait.
    capacity: usize,
    /// Longest time that one waits.
    limit: Duration,
}

/// Whether nothing has happened on a connection: it has not ended, and nobody has said anything without being asked.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    // Asked of the kernel, and not of the runtime, which hears of an end only when it looks the next time.
    matches!(SockRef::from(stream).peek(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

impl Pool {
    /// An empty pool.
    pub fn new(capacity: usize, limit: Duration) -> Self {
        Pool { waiting: Mutex::default(), capacity, limit }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Vec<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection that has waited shortest, if one is good.
    pub fn take(&self, key: &PoolKey) -> Option<TcpStream> {
        let mut waiting = self.lock();
        let of_key = waiting.get_mut(key)?;
        let found = std::iter::from_fn(|| of_key.pop()).find(Waiting::is_good).map(|one| one.stream);
        if of_key.is_empty() {
            waiting.remove(key);
        }
        found
    }

    /// Has a connection wait, at most for as long as its server says that it keeps it. Where there are too many the one that has waited
    /// longest ends.
    pub fn put(&self, key: PoolKey, stream: TcpStream, kept: Option<Duration>) {
        let mut waiting = self.lock();
        let count: usize = waiting.values().map(Vec::len).sum();
        if count >= self.capacity {
            let oldest = waiting.iter().min_by_key(|(_, of_key)| of_key.first().map(|first| first.since));
            let Some(oldest) = oldest.map(|(key, _)| *key) else { return };
            if let Some(of_key) = waiting.get_mut(&oldest) {
                of_key.remove(0);
                if of_key.is_empty() {
                    waiting.remove(&oldest);
                }
            }
        }
        let (since, limit) = (Instant::now(), kept.map_or(self.limit, |kept| kept.min(self.limit)));
        waiting.entry(key).or_default().push(Waiting { stream, since, until: since + limit });
    }

    /// Ends what has ended, or waited too long.
    fn sweep(&self) {
        self.lock().retain(|_, of_key| {
            of_key.retain(Waiting::is_good);
            !of_key.is_empty()
        });
    }

    /// Sweeps, for ever.
    pub async fn sweep_on(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.sweep();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const KEY: PoolKey = (1, SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn the_last_that_came_goes_first_and_only_to_its_own() {
        let pool = Pool::new(8, Duration::from_secs(60));
        let ((first, _a), (second, _b)) = (pair().await, pair().await);
        let newest = second.local_addr().unwrap();
        pool.put(KEY, first, None);
        pool.put(KEY, second, None);
        assert!(pool.take(&(2, KEY.1)).is_none(), "another backend's");
        assert_eq!(pool.take(&KEY).unwrap().local_addr().unwrap(), newest);
        assert!(pool.take(&KEY).is_some() && pool.take(&KEY).is_none());
        assert!(pool.lock().is_empty());
    }

    #[tokio::test]
    async fn what_has_ended_or_spoken_is_not_used() {
        let pool = Pool::new(8, Duration::from_secs(60));
        let ((ended, far), (spoken, mut other)) = (pair().await, pair().await);
        drop(far);
        other.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").unwrap();
        pool.put(KEY, ended, None);
        pool.put(KEY, spoken, None);
        assert!(pool.take(&KEY).is_none());
        let ((ended, far), (good, _far)) = (pair().await, pair().await);
        pool.put(KEY, ended, None);
        pool.put(KEY, good, None);
        drop(far);
        pool.sweep();
        assert_eq!(pool.lock()[&KEY].len(), 1);
    }

    #[tokio::test]
    async fn the_number_and_the_time_are_bounded() {
        let pool = Pool::new(1, Duration::from_secs(60));
        let ((first, _a), (second, _b)) = (pair().await, pair().await);
        let newest = second.local_addr().unwrap();
        pool.put(KEY, first, None);
        pool.put((2, KEY.1), second, None);
        assert!(pool.take(&KEY).is_none());
        assert_eq!(pool.take(&(2, KEY.1)).unwrap().local_addr().unwrap(), newest);
        let pool = Pool::new(8, Duration::ZERO);
        let (old, _far) = pair().await;
        pool.put(KEY, old, None);
        assert!(pool.take(&KEY).is_none());
        let pool = Pool::new(8, Duration::from_secs(60));
        let (told, _far) = pair().await;
        pool.put(KEY, told, Some(Duration::ZERO));
        assert!(pool.take(&KEY).is_none(), "its server keeps it no longer");
    }
}
