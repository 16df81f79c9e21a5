//! Lanes drive the phases. The general lane is Pingora's engine: it can do everything.

mod account;
mod attempt;
mod general;
pub mod load;
mod reply;
pub mod room;
mod view;

pub use attempt::MAX_ATTEMPTS;
pub use general::{Ctx, Gateway};
