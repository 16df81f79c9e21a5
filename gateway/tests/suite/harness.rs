//! Starts the built gateway, waits for what it says, and ends it by its process id.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{self, Response};

/// How long anything is waited for: generous, since it only matters when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lines that a process wrote, and a way to wait for one.
#[derive(Default)]
struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn follow(self: &Arc<Self>, from: impl std::io::Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                lines.lines.lock().unwrap().0.push(line);
                lines.changed.notify_all();
            }
            lines.lines.lock().unwrap().1 = true;
            lines.changed.notify_all();
        });
    }

    /// Waits until `find` finds something in the lines.
    fn wait<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(found) = find(&lines.0) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !lines.1, "waited for {what}; the process said:\n{}", lines.0.join("\n"));
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn all(&self) -> Vec<String> {
        self.lines.lock().unwrap().0.clone()
    }
}

/// The gateway: as the tests have it, or in the directory that `PROGRAMS` names (`make attack` has an optimised one).
fn program() -> PathBuf {
    match std::env::var_os("PROGRAMS") {
        Some(directory) => PathBuf::from(directory).join("sluicegate"),
        None => PathBuf::from(env!("CARGO_BIN_EXE_sluicegate")),
    }
}

/// Builder of a gateway.
pub struct Start {
    config: Value,
    args: Vec<String>,
    own_directory: bool,
    group: Option<PathBuf>,
    directory: TempDir,
}

/// A running gateway with manifests of its own.
pub struct Gateway {
    child: Child,
    log: Arc<Lines>,
    access: Arc<Lines>,
    /// Temporary directory with `manifests`, `state` and the configuration.
    pub directory: TempDir,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
}

impl Start {
    /// A gateway with these manifests, on ports that the kernel chooses.
    pub fn with(manifests: &str) -> Start {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("manifests")).unwrap();
        std::fs::write(directory.path().join("manifests/main.yaml"), manifests).unwrap();
        let config = json!({
            "http": ["127.0.0.1:0"], "https": ["127.0.0.1:0"], "admin": "127.0.0.1:0",
            "manifests": [directory.path().join("manifests")],
            "workers": 2, "lameDuckSeconds": 0, "debugHeader": true,
            "log": {"format": "json", "level": "debug"},
        });
        Start { config, args: Vec::new(), own_directory: false, group: None, directory }
    }

    /// Sets a key of the configuration file.
    pub fn set(mut self, key: &str, value: Value) -> Start {
        self.config[key] = value;
        self
    }

    /// Uses a directory that outlives the gateway for its state.
    pub fn state(self, directory: &Path) -> Start {
        self.set("stateDir", json!(directory))
    }

    /// Writes another file beside the manifests.
    pub fn file(self, name: &str, text: &str) -> Start {
        std::fs::write(self.directory.path().join("manifests").join(name), text).unwrap();
        self
    }

    /// Adds a command-line argument.
    pub fn arg(mut self, arg: &str) -> Start {
        self.args.push(arg.to_owned());
        self
    }

    /// Runs it in its temporary directory, so that paths may be relative.
    pub fn in_own_directory(self) -> Start {
        Start { own_directory: true, ..self }
    }

    /// Starts it in a control group, by the file that takes the group's processes.
    pub fn in_group(self, processes: PathBuf) -> Start {
        Start { group: Some(processes), ..self }
    }

    /// Directory of the manifests.
    pub fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// Starts it and waits until it listens; not necessarily until it is ready.
    pub fn listening(self) -> Gateway {
        let config = self.directory.path().join("config.yaml");
        std::fs::write(&config, self.config.to_string()).unwrap();
        let mut command = match &self.group {
            None => Command::new(program()),
            Some(processes) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(processes).arg(program());
                shell
            }
        };
        if self.own_directory {
            command.current_dir(self.directory.path());
        }
        let mut child = command
            .arg("run")
            .arg("--config")
            .arg(config)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, access) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        log.follow(child.stderr.take().unwrap());
        access.follow(child.stdout.take().unwrap());
        let address = |purpose: &'static str| {
            log.wait(purpose, |lines| lines.iter().find_map(|line| listening_address(line, purpose)))
        };
        let (http, https, admin) = (address("http"), address("https"), address("admin"));
        Gateway { child, log, access, directory: self.directory, http, https, admin }
    }

    /// Starts it and waits until it is ready.
    pub fn ready(self) -> Gateway {
        let gateway = self.listening();
        gateway.wait_ready();
        gateway
    }
}

fn fields(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().map(|line| line["fields"].clone())
}

fn listening_address(line: &str, purpose: &str) -> Option<SocketAddr> {
    let fields = fields(line)?;
    (fields["message"] == "listening" && fields["purpose"] == purpose)
        .then(|| fields["address"].as_str()?.parse().ok())?
}

/// Asks again and again until an answer is there; yields between the tries.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

impl Gateway {
    /// Waits for `/readyz` to say 200.
    pub fn wait_ready(&self) {
        eventually("readiness", || (self.admin_page("/readyz").status == 200).then_some(()));
    }

    /// A page of the admin listener.
    pub fn admin_page(&self, path: &str) -> Response {
        client::get(self.admin, "admin", path)
    }

    /// The table.
    pub fn table(&self) -> Value {
        self.admin_page("/table").json()
    }

    /// A plain request.
    pub fn get(&self, host: &str, target: &str) -> Response {
        client::get(self.http, host, target)
    }

    /// Sum of a metric's samples whose line holds all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.admin_page("/metrics").text();
        let of_name = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric has a value: requests are counted after their answer is sent.
    pub fn wait_metric(&self, name: &str, labels: &[&str], value: f64) {
        let what = format!("{name} {labels:?} to be {value}");
        eventually(&what, || (self.metric(name, labels) == value).then_some(()));
    }

    /// Waits until the gateway has ended so many connections for that reason.
    pub fn wait_closed(&self, reason: &str, count: u32) {
        self.wait_metric("sluicegate_connections_closed_total", &[&format!("\"{reason}\"")], count.into());
    }

    /// Replaces the manifests and waits until they are in force.
    pub fn apply(&self, manifests: &str) {
        let before = self.table()["version"]["digest"].clone();
        self.write("main.yaml", manifests);
        eventually("the new manifests", || (self.table()["version"]["digest"] != before).then_some(()));
    }

    /// Writes a manifest file as editors and deployment tools do: beside it, then renamed.
    pub fn write(&self, name: &str, text: &str) {
        let directory = self.directory.path().join("manifests");
        let temporary = directory.join(format!(".{name}.new"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, directory.join(name)).unwrap();
    }

    /// Waits for a log line that holds `text`.
    pub fn wait_log(&self, text: &str) -> String {
        self.log.wait(text, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// Waits for an access log line that satisfies `find`.
    pub fn wait_access(&self, find: impl Fn(&Value) -> bool) -> Value {
        self.access.wait("an access log line", |lines| {
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|line| find(line))
        })
    }

    /// The access log so far.
    pub fn access_log(&self) -> Vec<String> {
        self.access.all()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end.
    pub fn wait_exit(mut self) -> ExitStatus {
        eventually("the gateway's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already gone is fine too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
