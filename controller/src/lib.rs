//! The Sluicegate controller: watches of a Kubernetes API server in, snapshots for gateways out, statuses written back.
//!
//! What it compiles with is [`sluicegate_snapshot`], the same crate that the gateway reads files with. The watches are not
//! there yet: this crate holds the controller's place in the workspace, with the dependencies it will stand on, so that
//! their versions and the ban on a second TLS stack are settled from the start. The binary answers `--help` and
//! `--version` only; nobody can start it by mistake and believe that it watches.

use clap::Parser;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "sluicegate-controller", version, about, long_about = None, arg_required_else_help = true)]
#[command(
    after_help = "Not usable yet: this release serves Ingress objects from files (sluicegate run --manifests DIR)."
)]
pub struct Cli {}
