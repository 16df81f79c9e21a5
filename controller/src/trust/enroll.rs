//! `sluicegate-controller enroll NAME`: a certificate for a gateway outside of the cluster.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sluicegate_snapshot::key::is_object_name;

use super::{keeper, secret};
use crate::connect;
use crate::settings::{Settings, Trusts};

/// Exit code where the authority cannot be read.
const UNREADABLE: u8 = 2;

/// What is asked for.
#[derive(Debug)]
pub struct Enrolment {
    /// Name of the gateway, as logs and `/gateways` say it.
    pub name: String,
    /// Where the three files go.
    pub directory: PathBuf,
    /// Days that the certificate is valid.
    pub days: u32,
}

/// Writes certificate, key and authority for a gateway, and says what to do with them.
pub fn enroll(settings: &Settings, enrolment: &Enrolment) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let written = match runtime {
        Ok(runtime) => runtime.block_on(write(settings, enrolment)),
        Err(error) => Err((error.to_string(), 1)),
    };
    match written {
        Ok(files) => {
            print(enrolment, &files);
            ExitCode::SUCCESS
        }
        Err((message, code)) => {
            eprintln!("sluicegate-controller: {message}");
            ExitCode::from(code)
        }
    }
}

/// Certificate, key, authority.
struct Files([PathBuf; 3]);

async fn write(settings: &Settings, enrolment: &Enrolment) -> Result<Files, (String, u8)> {
    let usage = |message: String| (message, sluicegate_process::EXIT_USAGE);
    let Enrolment { name, directory, days } = enrolment;
    if !is_object_name(name) {
        return Err(usage(format!("`{name}`: a name has lower-case letters, digits, `-` and `.`")));
    }
    let Trusts::Authority(authority) = settings.trusts() else {
        return Err(usage(
            "the settings name certificates of another authority, or none: enroll signs with the controller's own"
                .to_owned(),
        ));
    };
    let client = connect::client(settings.kubeconfig.as_deref()).await.map_err(usage)?;
    let own = secret::read(&client, &authority.key).await.map_err(|message| (message, UNREADABLE))?;
    let pair = own.gateway(name, *days).map_err(|error| (error.to_string(), 1))?;
    let bundle = keeper::bundle(own.certificates()).map_err(|error| (error, 1))?;
    let file = |suffix: &str| directory.join(format!("{name}{suffix}"));
    let files = Files([file(".crt"), file(".key"), directory.join("ca.crt")]);
    let contents = [(&pair.certificate[..], 0o644), (&pair.key[..], 0o600), (bundle.as_bytes(), 0o644)];
    for (path, (bytes, mode)) in files.0.iter().zip(contents) {
        save(path, bytes, mode).map_err(|error| (format!("{} cannot be written: {error}", path.display()), 1))?;
    }
    Ok(files)
}

/// Beside the file and renamed: the key is never readable by others, not even where a file of that name was.
fn save(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let _ = std::fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[expect(clippy::print_stdout, reason = "it is what the command is for")]
fn print(enrolment: &Enrolment, Files([certificate, key, authority]): &Files) {
    let Enrolment { name, days, .. } = enrolment;
    println!("Gateway {name} is enrolled for {days} days. Written:");
    println!("  {}", certificate.display());
    println!("  {}  (secret: only the gateway's user may read it)", key.display());
    println!("  {}", authority.display());
    println!("Bring them to the machine of the gateway, for example to /etc/sluicegate, and run there:");
    println!(
        "  sluicegate run --controller https://CONTROLLER:10257 --controller-ca /etc/sluicegate/ca.crt --client-cert /etc/sluicegate/{name}.crt --client-key /etc/sluicegate/{name}.key"
    );
    println!("CONTROLLER is a name or address of the controller that its certificate has (setting publishNames).");
    println!("Enroll it again before the time is over; the gateway takes new files without a restart.");
}
