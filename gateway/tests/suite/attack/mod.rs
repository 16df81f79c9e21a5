//! Every attack that the gateway promises to withstand, against the built gateway, in one table: attack, figure, aim. `make attack` runs all of
//! it with an optimised gateway, as long and as hard as docs/security-figures.md says; `make test` a short form. `ONLY=bombs make attack` does one
//! part: `deadlines`, or one of [`limits::ATTACKS`].
//!
//! In the world attackers are on other machines; here they share all CPUs but the gateway's with honest clients and the backend, which come
//! first.

mod apart;
mod backend;
mod deadlines;
mod floods;
mod group;
mod honest;
mod limits;
mod slow;
mod turns;
mod watch;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};
use serde_json::{Value, json};

use crate::backends::everything_to;
use crate::harness::{Gateway, Start};
use group::Group;

/// Whether everything is done in full.
pub fn is_full() -> bool {
    std::env::var_os("ATTACK").is_some()
}

/// The one for a short run, or for a full one.
pub fn scaled<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// This thread runs on all CPUs but the gateway's, as if it were on another machine.
fn elsewhere() {
    let mut cpus = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| cpus.is_set(*cpu)).unwrap();
    cpus.unset(first);
    // A machine with one has no other.
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
}

/// This thread runs when no other wants to: fifty with `nice 19` would take as much as an honest client.
pub fn low_priority() {
    schedule(["--idle", "--pid", "0"]);
}

/// Who comes before attackers.
#[derive(Clone, Copy)]
pub enum Priority {
    /// As it does what attackers ask for, too, it would keep honest clients waiting, of which each does little.
    Backend,
    Honest,
}

/// This thread runs when it wants to, but for those above it. Even threads of the class `SCHED_IDLE` keep others from a CPU for milliseconds.
pub fn high_priority(priority: Priority) {
    let priority = match priority {
        Priority::Backend => "1",
        Priority::Honest => "2",
    };
    schedule(["--rr", "--pid", priority]);
}

/// This thread runs on that CPU, before all others; false: it may not.
fn before_all_on(cpu: usize) -> bool {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus).is_ok() && choose(["--fifo", "--pid", "50"])
}

/// Apart from the gateway, in a class of its own.
fn schedule(class: [&str; 3]) {
    elsewhere();
    // Where it is refused attackers weigh more than they should.
    choose(class);
}

/// This thread's class (sched(7)); false: it is refused, since it needs CAP_SYS_NICE.
fn choose(class: [&str; 3]) -> bool {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    std::process::Command::new("chrt").args(class).arg(&thread).status().is_ok_and(|status| status.success())
}

/// A TLS client that verifies nothing, with ALPN in the wire's form. It is cheap to make: a connector reads the system's authorities.
pub fn tls(alpn: &'static [u8]) -> Ssl {
    static CONTEXTS: Mutex<BTreeMap<&[u8], SslContext>> = Mutex::new(BTreeMap::new());
    let mut contexts = CONTEXTS.lock().unwrap();
    let context = contexts.entry(alpn).or_insert_with(|| {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_alpn_protos(alpn).unwrap();
        builder.build()
    });
    let mut ssl = Ssl::new(context).unwrap();
    ssl.set_hostname("a.test").unwrap();
    ssl
}

/// Memory of the gateway in all of it: that of a usual pod.
pub const MEMORY: u64 = 512 << 20;

/// A gateway that has so much, of a control group where one can be made: the kernel ends it where it takes more.
pub struct Limited {
    gateway: Gateway,
    group: Option<Group>,
    _comes_first: ComesFirst,
}

impl std::ops::Deref for Limited {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

/// A gateway before a backend that takes everything.
pub fn start(limits: Value) -> Limited {
    start_with(limits, json!({}))
}

/// The same, with timeouts.
pub fn start_with(mut limits: Value, timeouts: Value) -> Limited {
    let group = Group::of(MEMORY);
    if group.is_none() {
        limits["memory"] = json!(MEMORY);
    }
    let start = Start::with(&everything_to(&[backend::address()]))
        // The other CPUs are for everybody else.
        .set("workers", json!(1))
        .set("pin", json!(true))
        .set("limits", limits)
        .set("timeouts", timeouts)
        .set("debugHeader", json!(false))
        .set("accessLog", json!({"enabled": true, "path": "/dev/null"}))
        .set("log", json!({"format": "json", "level": "warn,sluicegate=info"}));
    let start = match &group {
        Some(group) => start.in_group(group.processes()),
        None => start,
    };
    let gateway = start.ready();
    let _comes_first = ComesFirst::new(&gateway);
    Limited { gateway, group, _comes_first }
}

/// What else the machine does on the gateway's CPU comes behind it while this lives, as far as that may be: a daemon of `nice -10` kept it from
/// its CPU for fifty milliseconds at a time. Among the gateway's own threads all stays as it is.
struct ComesFirst {
    /// What the niceness of this session was.
    session: Option<String>,
}

/// Where the kernel groups processes by session (sched(7), autogroup), the niceness of a thread counts in its session alone, and this is the
/// session's, which is the gateway's as well. Other kernels have no such file.
const SESSION: &str = "/proc/self/autogroup";

impl ComesFirst {
    /// It takes CAP_SYS_NICE; without, all stays as it is.
    fn new(gateway: &Gateway) -> ComesFirst {
        for thread in std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap() {
            let thread = thread.unwrap();
            // It may have ended meanwhile.
            let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
            // Behind the name, which may have blanks in it, the 17th field (proc(5)).
            let nice = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(16)).unwrap();
            let nice = nice.parse::<i32>().unwrap() - 20;
            let renice = ["-n", &nice.to_string(), "-p"];
            let _ = std::process::Command::new("renice").args(renice).arg(thread.file_name()).output();
        }
        // "/autogroup-27 nice 0"
        let session = std::fs::read_to_string(SESSION).ok();
        let session = session.and_then(|text| Some(text.split_once("nice ")?.1.trim().to_owned()));
        let session = session.filter(|before| before != "-20" && std::fs::write(SESSION, "-20").is_ok());
        ComesFirst { session }
    }
}

impl Drop for ComesFirst {
    fn drop(&mut self) {
        if let Some(before) = &self.session {
            let _ = std::fs::write(SESSION, before);
        }
    }
}

/// A line of `/proc/PID/status`, in bytes.
pub fn memory(gateway: &Gateway, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The most that a gateway has used, in MiB.
pub fn peak(gateway: &Gateway) -> u64 {
    memory(gateway, "VmHWM") >> 20
}

/// What came of the attacks, written as they are made: past the capture of the test's output, which is only shown for those that fail.
#[derive(Default)]
pub struct Table(Mutex<Vec<String>>);

fn write(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

impl Table {
    fn begin() -> Table {
        write("\n| attack | figure | aim |\n|---|---|---|");
        Table::default()
    }

    /// Adds a row. `met`: the figure is what it should be.
    pub fn row(&self, attack: &str, figure: &str, aim: &str, met: bool) {
        write(&format!("| {attack} | {figure} | {aim} |"));
        if !met {
            self.0.lock().unwrap().push(format!("{attack}: {figure} (aim: {aim})"));
        }
    }

    /// A row about a deadline, which nobody may miss and to which everybody has a right.
    pub fn after(&self, attack: &str, took: Duration, aim: Duration) {
        let (figure, limit) = (format!("{:.1} s", took.as_secs_f64()), format!("{:.0} s", aim.as_secs_f64()));
        self.row(attack, &figure, &limit, took.abs_diff(aim) <= Duration::from_millis(800));
    }

    /// A row about a time at most.
    pub fn within(&self, attack: &str, took: Duration, aim: Duration) {
        let (figure, limit) = (format!("{:.1} s", took.as_secs_f64()), format!("≤ {:.0} s", aim.as_secs_f64()));
        // The timers of the gateway, and of whoever looks.
        self.row(attack, &figure, &limit, took <= aim + Duration::from_millis(800));
    }

    fn end(self) {
        let missed = self.0.into_inner().unwrap();
        assert!(missed.is_empty(), "not met:\n{}", missed.join("\n"));
    }
}

/// Apart from the other tests, which it would take the CPUs from.
#[test]
#[ignore = "alone: make attack-short, make attack"]
fn nothing_gets_through() {
    sluicegate_process::resources::raise_open_files();
    let table = Table::begin();
    let only = std::env::var("ONLY").ok();
    let attacks = [("deadlines", deadlines::run as limits::Attack)].into_iter().chain(limits::ATTACKS);
    for (_, attack) in attacks.filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        attack(&table);
    }
    table.end();
}
