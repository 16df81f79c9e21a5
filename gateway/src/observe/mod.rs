//! What can be seen from outside: metrics and the access log.

pub mod access_log;
pub mod cells;
pub mod closing;
pub mod collect;
pub mod refused_head;

pub use access_log::AccessLog;
pub use cells::{Cells, RequestLabels};
pub use closing::Closing;
