//! The admin listener: health, readiness, metrics, the table, explanations. On a thread of its own, so that a busy
//! worker cannot make the gateway look dead, nor a slow scrape a worker slow.

mod explain;
mod server;
mod table;

pub use explain::{Explanation, Question, explain};
pub use server::{Scope, serve};
