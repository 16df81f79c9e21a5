//! The command line. Names are a contract: scripts and charts rely on them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluicegate_process::cli::{over, over_list, parse};
use sluicegate_process::settings::{self, SettingsFile};
use sluicegate_process::{EXIT_USAGE, SettingsError};

use crate::settings::Settings;
use crate::{report, run};

/// The Sluicegate controller: Ingress objects from a Kubernetes API server to gateways.
#[derive(Debug, Parser)]
#[command(name = "sluicegate-controller", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the API server, serve gateways, write statuses.
    Run(RunArgs),
    /// Print class, addresses and diagnostics of each Ingress in the cluster. Exit 0: no errors, 1: errors found, 2: the cluster
    /// cannot be read.
    Status(StatusArgs),
}

/// Settings that decide what the objects mean, and which are looked at.
#[derive(Debug, Args)]
struct MeaningArgs {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the API server is reached [default: KUBECONFIG or ~/.kube/config, else the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Serve this IngressClass only.
    #[arg(long, value_name = "NAME")]
    ingress_class: Option<String>,
    /// Accept classes with this spec.controller too; may be given several times.
    #[arg(long, value_name = "NAME")]
    controller_name: Vec<String>,
    /// Serve Ingresses that name no class.
    #[arg(long)]
    watch_without_class: bool,
    /// Namespace to watch [default: all]; may be given several times.
    #[arg(long, value_name = "NS")]
    watch_namespace: Vec<String>,
    /// Label selector of the Ingresses to serve.
    #[arg(long, value_name = "LABELS")]
    selector: Option<String>,
    /// Watch Secrets and ConfigMaps in the whole cluster, instead of where a RoleBinding allows it.
    #[arg(long)]
    watch_secrets_everywhere: bool,
    /// ConfigMap with settings for all classes.
    #[arg(long, value_name = "NS/NAME")]
    configmap: Option<String>,
    /// Secret of the default certificate.
    #[arg(long, value_name = "NS/NAME")]
    default_certificate: Option<String>,
    /// Backend for requests that nothing else takes.
    #[arg(long, value_name = "NS/NAME:PORT")]
    default_backend: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Where gateways connect [default: 127.0.0.1:10257].
    #[arg(long, value_name = "ADDR")]
    publish: Option<SocketAddr>,
    /// Service whose addresses are written to statuses.
    #[arg(long, value_name = "NS/NAME")]
    publish_service: Option<String>,
    /// Address that is written to statuses: an IP address or a host name; may be given several times.
    #[arg(long, value_name = "ADDR")]
    publish_address: Vec<String>,
    /// Address of the admin listener [default: 127.0.0.1:10256].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Address of a listener with only /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// One Ingress [default: all].
    #[arg(value_name = "INGRESS", help = "One Ingress, NS/NAME [default: all]")]
    ingress: Option<String>,
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Form of the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl MeaningArgs {
    /// Flags over the file, the file over the defaults.
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = match &self.config {
            Some(path) => settings::read(path)?,
            None => Settings::default(),
        };
        over(&mut settings.kubeconfig, self.kubeconfig);
        over(&mut settings.ingress_class, self.ingress_class);
        over_list(&mut settings.controller_names, self.controller_name);
        settings.watch_without_class |= self.watch_without_class;
        over_list(&mut settings.watch_namespaces, self.watch_namespace);
        over(&mut settings.selector, self.selector);
        settings.watch_secrets_everywhere |= self.watch_secrets_everywhere;
        over(&mut settings.configmap, self.configmap);
        over(&mut settings.default_certificate, self.default_certificate);
        over(&mut settings.default_backend, self.default_backend);
        settings.judge()?;
        Ok(settings)
    }
}

impl RunArgs {
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = self.meaning.settings()?;
        settings.publish = self.publish.unwrap_or(settings.publish);
        settings.admin = self.admin.unwrap_or(settings.admin);
        over(&mut settings.metrics, self.metrics);
        over(&mut settings.publish_service, self.publish_service);
        over_list(&mut settings.publish_addresses, self.publish_address);
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
    let result = match cli.command {
        Command::Run(args) => args.settings().map(|settings| run::run(&settings)),
        Command::Status(args) => {
            args.meaning.settings().map(|settings| report::report(&settings, args.ingress.as_deref(), args.output))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("sluicegate-controller: {error}");
        ExitCode::from(EXIT_USAGE)
    })
}
