//! The rest of a body whose request is answered: the engine waits for it without end, and looks no more at the endpoint meanwhile.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::client::ClientInfo;

/// Resolves when the whole answer has been there for so long and the request still is not.
pub async fn is_over(info: &ClientInfo, patience: Duration) {
    let mut since: Option<Instant> = None;
    loop {
        sleep(patience / 4).await;
        if !info.lending.is_answered() {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() >= patience {
            return;
        }
    }
}
