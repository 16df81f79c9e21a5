//! What the gateway's and the controller's processes do alike: reading a command line and a configuration file, logging, and moving the
//! frames of [`sluicegate_snapshot::wire`] over HTTP/2. Nothing of the product's meaning is here.

pub mod cli;
pub mod foreign;
pub mod frames;
pub mod log;
pub mod memory;
pub mod resources;
pub mod settings;
mod unknown;
pub mod yaml;

pub use log::{LogFormat, LogSettings};
pub use settings::SettingsError;

/// Exit code of a usage error (EX_USAGE of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// Exit code of an address that cannot be listened on (EX_UNAVAILABLE of sysexits).
pub const EXIT_BIND: u8 = 69;
