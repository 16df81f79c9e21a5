//! TLS towards clients: which certificate a handshake gets, and the context they all share.

mod acceptor;
mod certificate;
pub mod client_hello;
mod default_certificate;
mod self_signed;

pub use acceptor::{Acceptor, CertificateChoice};
pub use certificate::ServerCertificate;
pub use default_certificate::{DefaultCertificateFiles, made_now};
pub use self_signed::self_signed;
