//! Lanes drive the phases. The general lane is Pingora's engine: it can do everything.

mod account;
mod general;
mod reply;
mod view;

pub use general::{Ctx, Gateway};
