//! The command line. Names are a contract: scripts and charts rely on them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluicegate_process::cli::{over, over_list, parse};
use sluicegate_snapshot::Mode;

use crate::settings::{Settings, SettingsError, SettingsFile};
use crate::{check, echo, explain, run, settings};

pub use sluicegate_process::EXIT_USAGE as USAGE;

/// An edge gateway for Kubernetes Ingress objects.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve traffic.
    Run(Box<RunArgs>),
    /// Say what is wrong with manifests. Exit 0: nothing, 1: errors, 2: input that cannot be read.
    Check(CheckArgs),
    /// Say which Ingress, rule, path, policy and endpoints a request gets, and why.
    Explain(ExplainArgs),
    /// A small backend that answers with what it was asked.
    Echo(EchoArgs),
}

/// Settings that decide what manifests mean.
#[derive(Debug, Args)]
struct MeaningArgs {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve this IngressClass only.
    #[arg(long, value_name = "NAME")]
    ingress_class: Option<String>,
    /// ConfigMap with settings for all classes.
    #[arg(long, value_name = "NS/NAME")]
    configmap: Option<String>,
    /// Default certificate: a Secret, or PEM files of chain and key.
    #[arg(long, value_name = "NS/NAME|CHAIN.pem,KEY.pem")]
    default_certificate: Option<String>,
    /// Backend for requests that nothing else takes.
    #[arg(long, value_name = "NS/NAME:PORT")]
    default_backend: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Directory (or file) with manifests; may be given several times.
    #[arg(long, value_name = "DIR")]
    manifests: Vec<PathBuf>,
    /// Controller to follow instead of manifests, as https://HOST:PORT; may be given several times.
    #[arg(long, value_name = "URL")]
    controller: Vec<String>,
    /// Address at which clients reach this gateway, for statuses of Ingresses; may be given several times.
    #[arg(long, value_name = "HOST")]
    report_address: Vec<String>,
    /// Authorities that sign controllers' certificates, PEM.
    #[arg(long, value_name = "FILE")]
    controller_ca: Option<PathBuf>,
    /// Certificate that this gateway shows controllers, PEM.
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// A service account's token that this gateway shows controllers.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Address for plain HTTP [default: 0.0.0.0:8080]; may be given several times.
    #[arg(long, value_name = "ADDR")]
    http: Vec<SocketAddr>,
    /// Address for HTTPS [default: 0.0.0.0:8443]; may be given several times.
    #[arg(long, value_name = "ADDR")]
    https: Vec<SocketAddr>,
    /// Address of the admin listener [default: 127.0.0.1:10254].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Address of a listener with only /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Worker threads [default: the CPUs that the process may use].
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Pin each worker to a CPU.
    #[arg(long)]
    pin: bool,
    /// Where the last good snapshot is kept.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// File with the key that private keys in the state file are encrypted with; without it they are not in it.
    #[arg(long, value_name = "FILE")]
    state_key: Option<PathBuf>,
    /// DNS server for ExternalName Services [default: the system's].
    #[arg(long, value_name = "ADDR")]
    dns: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Standalone,
    Cluster,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Standalone => Mode::Standalone,
            ModeArg::Cluster => Mode::Cluster,
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Directories or files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Judge as a controller in a cluster would, or as a gateway with files.
    #[arg(long, value_enum, default_value = "standalone")]
    mode: ModeArg,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// Directory (or file) with manifests; may be given several times.
    #[arg(long, value_name = "DIR", required = true)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Judge as a controller in a cluster would, or as a gateway with files.
    #[arg(long, value_enum, default_value = "standalone")]
    mode: ModeArg,
    /// Header field of the request; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "Name: value")]
    headers: Vec<String>,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Method of the request.
    method: String,
    /// URL of the request.
    url: String,
}

#[derive(Debug, Args)]
struct EchoArgs {
    /// Address to listen on.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Name in the answers [default: the address].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl MeaningArgs {
    fn settings(&self) -> Result<Settings, SettingsError> {
        let mut settings = match &self.config {
            Some(path) => settings::read(path)?,
            None => Settings::default(),
        };
        over(&mut settings.ingress_class, self.ingress_class.clone());
        over(&mut settings.configmap, self.configmap.clone());
        over(&mut settings.default_certificate, self.default_certificate.clone());
        over(&mut settings.default_backend, self.default_backend.clone());
        Ok(settings)
    }
}

impl RunArgs {
    /// Flags over the file, the file over the defaults.
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = self.meaning.settings()?;
        over_list(&mut settings.manifests, self.manifests);
        over_list(&mut settings.controllers, self.controller);
        over_list(&mut settings.report_addresses, self.report_address.into_iter().map(Into::into).collect());
        over(&mut settings.controller_ca, self.controller_ca);
        over(&mut settings.client_cert, self.client_cert);
        over(&mut settings.client_key, self.client_key);
        over(&mut settings.token_file, self.token_file);
        over_list(&mut settings.http, self.http);
        over_list(&mut settings.https, self.https);
        settings.admin = self.admin.unwrap_or(settings.admin);
        settings.metrics = self.metrics.or(settings.metrics);
        settings.workers = self.workers.or(settings.workers);
        settings.pin |= self.pin;
        settings.state_dir = self.state_dir.or(settings.state_dir);
        over(&mut settings.state_key, self.state_key);
        settings.dns = self.dns.or(settings.dns);
        settings.judge()?;
        Ok(settings)
    }
}

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    let cli: Cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let usage = |error: SettingsError| {
        eprintln!("sluicegate: {error}");
        ExitCode::from(USAGE)
    };
    match cli.command {
        Command::Run(args) => match args.settings() {
            Ok(settings) => run::run(settings),
            Err(error) => usage(error),
        },
        Command::Check(args) => match args.meaning.settings() {
            Ok(settings) => check::check(&args.paths, &settings, args.mode.into(), args.output),
            Err(error) => usage(error),
        },
        Command::Explain(args) => match args.meaning.settings() {
            Ok(settings) => explain::explain(
                &args.manifests,
                &settings,
                args.mode.into(),
                &args.method,
                &args.url,
                &args.headers,
                args.output,
            ),
            Err(error) => usage(error),
        },
        Command::Echo(args) => echo::run(args.listen, args.name),
    }
}
