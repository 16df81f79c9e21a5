//! Manifests in files: reading them, following them, and keeping the last good meaning of what breaks.

pub mod list;
pub mod placed;
pub mod read;
pub mod source;
pub mod watch;

pub use placed::Placed;
pub use read::{Document, Problem};
pub use source::Source;
