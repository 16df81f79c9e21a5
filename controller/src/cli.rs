//! The command line. Names are a contract: scripts and charts rely on them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluicegate_process::cli::{over, over_list, parse};
use sluicegate_process::settings::{self, SettingsFile};
use sluicegate_process::{EXIT_USAGE, SettingsError};
use sluicegate_snapshot::model::Allowed;

use crate::settings::{HostPolicyName, Settings};
use crate::trust::{self, Enrolment};
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
    Run(Box<RunArgs>),
    /// Write a certificate for a gateway outside of the cluster, signed by the controller's own authority, and say what to do with it.
    Enroll(EnrollArgs),
    /// Print class, addresses and diagnostics of each Ingress in the cluster. Exit 0: no errors, 1: errors found, 2: the cluster
    /// cannot be read.
    Status(Box<StatusArgs>),
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
    /// Whose a host is [default: perNamespace, or shared where classes of ingress-nginx are taken over].
    #[arg(long, value_name = "POLICY")]
    host_policy: Option<HostPolicyArg>,
    /// Guarded addresses that backends may have: loopback, linkLocal, metadata, apiServer, otherNamespaces, or a range; may be given
    /// several times.
    #[arg(long, value_name = "WHAT")]
    allow_backend: Vec<Allowed>,
    /// Range that backends may not have; may be given several times.
    #[arg(long, value_name = "RANGE")]
    refuse_backend: Vec<String>,
}

/// The policies that need no list.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum HostPolicyArg {
    #[value(name = "shared")]
    Shared,
    #[value(name = "perNamespace")]
    PerNamespace,
}

impl From<HostPolicyArg> for HostPolicyName {
    fn from(policy: HostPolicyArg) -> Self {
        match policy {
            HostPolicyArg::Shared => HostPolicyName::Shared,
            HostPolicyArg::PerNamespace => HostPolicyName::PerNamespace,
        }
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Where gateways connect [default: 127.0.0.1:10257].
    #[arg(long, value_name = "ADDR")]
    publish: Option<SocketAddr>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Service whose addresses are written to statuses.
    #[arg(long, value_name = "NS/NAME")]
    publish_service: Option<String>,
    /// Address that is written to statuses: an IP address or a host name; may be given several times.
    #[arg(long, value_name = "HOST")]
    publish_address: Vec<String>,
    /// Write to statuses the addresses that gateways report.
    #[arg(long)]
    publish_gateways: bool,
    /// Empty the statuses at the end.
    #[arg(long)]
    clear_status_on_shutdown: bool,
    /// Lease of the controller that writes statuses [default: sluicegate-controller, with the class behind it, where the authority is].
    #[arg(long, value_name = "NS/NAME")]
    lease: Option<String>,
    /// Address of the admin listener [default: 127.0.0.1:10256].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Address of a listener with only /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

/// By what gateways and the controller know each other.
#[derive(Debug, Args)]
struct TrustArgs {
    /// Certificate of the controller, PEM [default: made by its own authority].
    #[arg(long, value_name = "FILE")]
    publish_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    publish_key: Option<PathBuf>,
    /// Authorities that sign gateways' certificates, PEM; with --publish-cert.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Secret of the own authority, and ConfigMap with its certificate [default: sluicegate/sluicegate-ca].
    #[arg(long, value_name = "NS/NAME")]
    authority: Option<String>,
    /// Name or address of the controller, for the certificate that the own authority makes; may be given several times.
    #[arg(long, value_name = "NAME")]
    publish_name: Vec<String>,
    /// Service account of gateways [default: sluicegate:sluicegate-gateway]; may be given several times.
    #[arg(long, value_name = "NS:NAME")]
    gateway_account: Vec<String>,
    /// Serve gateways without encryption and authentication.
    #[arg(long)]
    plaintext: bool,
}

impl TrustArgs {
    fn over(self, settings: &mut Settings) {
        over(&mut settings.publish_cert, self.publish_cert);
        over(&mut settings.publish_key, self.publish_key);
        over(&mut settings.client_ca, self.client_ca);
        settings.authority = self.authority.unwrap_or_else(|| std::mem::take(&mut settings.authority));
        over_list(&mut settings.publish_names, self.publish_name);
        over_list(&mut settings.gateway_accounts, self.gateway_account);
        settings.plaintext |= self.plaintext;
    }
}

#[derive(Debug, Args)]
struct EnrollArgs {
    /// Name of the gateway.
    #[arg(value_name = "NAME")]
    name: String,
    /// Directory for the files [default: the current one].
    #[arg(long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    out: PathBuf,
    /// Days that the certificate is valid.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Configuration file (YAML) of the controller.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the API server is reached [default: KUBECONFIG or ~/.kube/config, else the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Secret of the authority [default: sluicegate/sluicegate-ca].
    #[arg(long, value_name = "NS/NAME")]
    authority: Option<String>,
}

impl EnrollArgs {
    fn settings(&self) -> Result<Settings, SettingsError> {
        let mut settings = match &self.config {
            Some(path) => settings::read(path)?,
            None => Settings::default(),
        };
        over(&mut settings.kubeconfig, self.kubeconfig.clone());
        settings.authority = self.authority.clone().unwrap_or(settings.authority);
        settings.judge()?;
        Ok(settings)
    }
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// One Ingress [default: all].
    #[arg(value_name = "INGRESS", help = "One Ingress, NS/NAME [default: all]")]
    ingress: Option<String>,
    #[command(flatten)]
    meaning: MeaningArgs,
    /// Admin listener of a controller, which knows where an Ingress is in force [default: 127.0.0.1:10256, if it answers].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
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
        over(&mut settings.host_policy, self.host_policy.map(Into::into));
        over_list(&mut settings.allow_backends, self.allow_backend);
        over_list(&mut settings.refuse_backends, self.refuse_backend);
        settings.judge()?;
        Ok(settings)
    }
}

impl RunArgs {
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = self.meaning.settings()?;
        settings.publish = self.publish.unwrap_or(settings.publish);
        self.trust.over(&mut settings);
        settings.admin = self.admin.unwrap_or(settings.admin);
        over(&mut settings.metrics, self.metrics);
        over(&mut settings.publish_service, self.publish_service);
        over_list(&mut settings.publish_addresses, self.publish_address);
        settings.publish_gateways |= self.publish_gateways;
        settings.clear_status_on_shutdown |= self.clear_status_on_shutdown;
        over(&mut settings.lease, self.lease);
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
        Command::Enroll(args) => args.settings().map(|settings| {
            trust::enroll(&settings, &Enrolment { name: args.name, directory: args.out, days: args.days })
        }),
        Command::Status(args) => args.meaning.settings().map(|mut settings| {
            settings.admin = args.admin.unwrap_or(settings.admin);
            report::report(&settings, args.ingress.as_deref(), args.output)
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("sluicegate-controller: {error}");
        ExitCode::from(EXIT_USAGE)
    })
}
