//! What is counted and logged of requests that no phase saw.

use std::time::Duration;

use super::client::{ClientInfo, Refusal};
use super::connection::Serve;
use crate::observe::RequestLabels;
use crate::observe::access_log::Line;
use crate::observe::cells::Rejection;
use crate::observe::refused_head::RefusedHead;

impl Serve {
    /// Metrics and log of one that was refused. `status`: of its answer; 0: none was sent. `head`: what is told of it, where it is logged.
    pub(super) fn account_refusal(
        &self,
        info: &ClientInfo,
        refusal: &Refusal,
        why: Rejection,
        status: u16,
        head: impl FnOnce() -> RefusedHead,
    ) {
        let Refusal { refused, request_id } = refusal;
        self.cells.reject(why);
        self.cells.request(RequestLabels::unrouted(status, refused.reason), Duration::ZERO);
        if self.shared.access_log.wants(refused.reason, status) {
            let head = head();
            let line = Line::unparsed(info.connection, refused, request_id, &head);
            self.shared.access_log.write(&Line { status, ..line });
        }
    }
}
