//! How much clients may hold, and what honest ones notice meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::floods::{self, Attackers};
use super::slow::{Kind, Slow};
use super::turns::Turns;
use super::{Limited, MEMORY, Table, memory, peak, scaled, start, start_with};
use crate::client;
use crate::harness::{Gateway, PATIENCE, eventually};
use crate::http2::{DATA, END_STREAM, Raw, request};

/// How it goes without an attack before and after one, and beside it: what the machine does besides comes to both. `attack` makes the turns
/// beside it, and has ended then. `judged`: the times are.
fn around<T>(gateway: &Gateway, judged: bool, attack: impl FnOnce(&mut Turns) -> T) -> (Turns, Turns, T) {
    let (mut alone, mut with) = (Turns::new(judged), Turns::new(judged));
    alone.make_part(gateway, 2);
    let more = attack(&mut with);
    // Whose backend takes nothing is not seen to be gone before that has lasted too long (`timeouts.upstreamRead`), since it took something.
    eventually_within("the end of an attack", Duration::from_secs(180), || {
        gateway.metric("sluicegate_connections", &[]) == 0.0
    });
    alone.make_part(gateway, 2);
    (alone, with, more)
}

/// Does one kind of attack, and adds its rows.
pub type Attack = fn(&Table);

/// All of them, by name.
pub const ATTACKS: [(&str, Attack); 10] = [
    ("floods", floods_end),
    ("beside-floods", beside_floods),
    ("slow", slow_ones),
    ("beside-slow", beside_slow_ones),
    ("beside-uploads", beside_uploads),
    ("beside-streams", beside_streams),
    ("beside-handshakes", beside_handshakes),
    ("bombs", bombs),
    ("connections", too_many_connections),
    ("log", log_lines),
];

/// How honest traffic went beside an attack; `times`: how much longer it may take, where the attack is not more than one can be asked to
/// bear.
fn beside(table: &Table, attack: &str, alone: &Turns, with: &Turns, times: impl Into<Option<u32>>) {
    let all = with.all();
    let again = if all.repeated > 0 { format!(", {} of them asked twice", all.repeated) } else { String::new() };
    let success = format!("{} of {} answered{again}", all.sent - all.failed, all.sent);
    let why = if all.why.is_empty() { String::new() } else { format!(" ({})", all.why.join("; ")) };
    table.row(attack, &format!("{success}{why}"), "≥ 99.9 %", all.success() >= 0.999);
    let figure = format!("{}; alone {}", with.spread(), alone.spread());
    let Some(times) = times.into() else { return table.row(attack, &figure, "none", true) };
    // Built for tests everything takes many times as long: only that it is answered counts.
    let [p99, p99_alone] = [with, alone].map(|turns| turns.judged().0.p99());
    let limit = scaled(Duration::from_secs(5), p99_alone * times);
    table.row(attack, &figure, &format!("≤ {times} times"), p99 <= limit);
}

fn within_memory(table: &Table, attack: &str, gateway: &Limited) {
    let peak = peak(gateway);
    let aim = format!("≤ {} MiB, not killed", MEMORY >> 20);
    let (kills, of) = match &gateway.group {
        Some(group) => (group.kills(), "of a control group"),
        None => (0, "no control group could be made"),
    };
    table.row(attack, &format!("at most {peak} MiB ({of})"), &aim, peak <= MEMORY >> 20 && kills == 0);
}

/// Each kind of flood on a connection of its own.
fn floods_end(table: &Table) {
    let gateway = start(json!({}));
    let before = memory(&gateway, "VmRSS");
    let told = |kind: &str, how: &str, pause, aim: &str, most: u32| {
        let ended = floods::until_ended(&gateway, kind, 20_000, pause);
        let figure = ended.map_or("not in 20,000 frames".to_owned(), |count| format!("after {count} frames"));
        let attack = format!("flood: {kind}{how}, until the connection is told to go");
        table.row(&attack, &figure, aim, ended.is_some_and(|count| count <= most));
    };
    for kind in floods::KINDS {
        // What the gateway takes.
        told(kind, ", 20 a millisecond", Some(Duration::from_millis(1)), "≤ 1,500", 1_500);
        // The sender is ahead of the gateway by what sockets hold; one built for tests is slow.
        told(kind, "", None, "≤ 5,000", scaled(20_000, 5_000));
    }
    let grown = memory(&gateway, "VmRSS").saturating_sub(before) >> 20;
    table.row(
        "all kinds of floods, one after another",
        &format!("{grown} MiB more"),
        "≤ 8 MiB more",
        grown <= scaled(32, 8),
    );
}

fn beside_floods(table: &Table) {
    let gateway = start(json!({}));
    let count = scaled(12, 50);
    let (mut alone, mut with, mut ended) = (Turns::new(true), Turns::new(true), 0);
    while !alone.are_enough() || !with.are_enough() {
        alone.make(&gateway);
        let flood = Attackers::flooding(&gateway, count);
        with.make(&gateway);
        ended += flood.count();
        drop(flood);
        gateway.wait_metric("sluicegate_connections", &["https"], 0.0);
    }
    let attack = format!("{count} connections that flood, made anew {ended} times");
    beside(table, &attack, &alone, &with, 2);
    within_memory(table, &attack, &gateway);
}

/// What the gateway uses when that changes no more.
fn settled(gateway: &Gateway) -> u64 {
    let mut before = 0;
    for _ in 0..20 {
        let now = memory(gateway, "VmRSS");
        if now.abs_diff(before) < 256 * 1024 {
            break;
        }
        before = now;
        std::thread::park_timeout(Duration::from_millis(500));
    }
    before
}

/// What a connection of each kind holds.
fn slow_ones(table: &Table) {
    for kind in Kind::CHEAP.iter().chain(&Kind::SENDING) {
        let count = scaled(100, 2_000);
        let gateway = start(json!({"connections": count + 1000}));
        let kinds = std::slice::from_ref(kind);
        // What the first ones bring along is everybody's.
        drop(Slow::on(&gateway, 100, kinds));
        let before = settled(&gateway);
        let slow = Slow::on(&gateway, count, kinds);
        let each = settled(&gateway).saturating_sub(before) / slow.open() as u64 / 1024;
        // Of a body up to 64 KiB are kept, to be sent once more.
        let most = if Kind::SENDING.contains(kind) { 150 } else { 100 };
        table.row(
            &format!("slow: {}", kind.name()),
            &format!("{each} KiB a connection"),
            &format!("≤ {most} KiB"),
            each <= scaled(300, most),
        );
        drop(slow);
    }
}

fn beside_slow_ones(table: &Table) {
    let count = scaled(500, 10_000);
    let gateway = start(json!({"connections": count + 1000}));
    let (alone, with, attack) = around(&gateway, true, |with| {
        let slow = Slow::on(&gateway, count, &Kind::CHEAP);
        with.make_part(&gateway, 1);
        let (open, out) = (slow.open(), slow.thrown_out());
        format!("{open} slow connections of five kinds, {out} thrown out meanwhile")
    });
    beside(table, &attack, &alone, &with, 2);
    within_memory(table, &attack, &gateway);
}

/// More of them than there is memory for: what they hold is needed for others, and who sends nothing more has to go.
fn beside_uploads(table: &Table) {
    let count = scaled(300, 6_000);
    let gateway = start(json!({"connections": count + 1000}));
    let (alone, with, attack) = around(&gateway, false, |with| {
        let slow = Slow::on(&gateway, count, &Kind::SENDING);
        with.make_part(&gateway, 1);
        let (open, out) = (slow.open(), slow.thrown_out());
        format!("{open} uploads that do not end, {out} thrown out meanwhile")
    });
    beside(table, &attack, &alone, &with, None);
    within_memory(table, &attack, &gateway);
}

/// The same over HTTP/2, a hundred to a connection.
fn beside_streams(table: &Table) {
    beside_as_many_as_can_be(table, "connections of 100 HTTP/2 streams, whose bodies nobody takes", |gateway, _| {
        uploads(gateway)
    });
}

/// As many as a connection may have, with all that its windows let through.
fn uploads(gateway: &Gateway) -> Option<Raw> {
    let mut raw = Raw::try_connect(gateway.https, &[])?;
    for stream in (0..100).map(|number| 2 * number + 1) {
        raw.head(stream, 0, &request(b"POST", b"/stuck", &[(b"content-length", b"65536")]));
        raw.send(DATA, 0, stream, &[b'x'; 10_000]);
    }
    Some(raw)
}

fn beside_handshakes(table: &Table) {
    let gateway = start(json!({}));
    let (alone, with, made) = around(&gateway, true, |with| {
        let handshakes = Attackers::shaking_hands(&gateway, scaled(4, 64));
        with.make_part(&gateway, 1);
        handshakes.count()
    });
    let shed = gateway.metric("sluicegate_rejected_total", &["TooManyHandshakes"]);
    let attack = format!("handshakes without end: {made} computed, {shed} shed");
    beside(table, &attack, &alone, &with, 3);
}

/// What a hundred requests of a connection are that takes no answer.
struct Bomb {
    name: &'static str,
    target: &'static [u8],
    /// Bytes of two more fields each.
    fields: usize,
    /// There is a window for everything, and the socket is not read; else there is none.
    unread: bool,
}

const BOMBS: [Bomb; 5] = [
    Bomb { name: "requests of 30 KiB, a window of zero", target: b"/honest", fields: 15_000, unread: false },
    Bomb { name: "answers of 1 MiB, a window of zero", target: b"/large", fields: 0, unread: false },
    Bomb {
        name: "requests of 3 KiB, answers of 1 MiB, a window of zero",
        target: b"/large",
        fields: 1_500,
        unread: false,
    },
    Bomb { name: "answers of 1 MiB, never read", target: b"/large", fields: 0, unread: true },
    Bomb { name: "answers of 16 KiB, never read", target: b"/medium", fields: 0, unread: true },
];

impl Bomb {
    fn on(&self, gateway: &Gateway) -> Option<Raw> {
        let value = vec![b'x'; self.fields];
        let both: [(&[u8], &[u8]); 2] = [(b"x-a", &value), (b"x-b", &value)];
        let fields = if self.fields > 0 { &both[..] } else { &[] };
        let mut raw = if self.unread { Raw::taking_all(gateway)? } else { Raw::try_connect(gateway.https, &[(4, 0)])? };
        for stream in 0..100 {
            raw.head(2 * stream + 1, END_STREAM, &request(b"GET", self.target, fields));
        }
        Some(raw)
    }
}

fn bombs(table: &Table) {
    for bomb in BOMBS {
        let gateway = start_with(json!({}), scaled(json!({"clientWrite": 8}), json!({})));
        let limit = Duration::from_secs(scaled(8, 30));
        // What the first one brings along is everybody's.
        drop(bomb.on(&gateway).unwrap());
        gateway.wait_metric("sluicegate_connections", &["https"], 0.0);
        let count = scaled(10, 100);
        let before = memory(&gateway, "VmRSS");
        let begun = Instant::now();
        let held: Vec<_> = (0..count).map(|_| bomb.on(&gateway).unwrap()).collect();
        // Not all begin at once.
        let pinned = settled(&gateway).saturating_sub(before) / count / 1000;
        let attack = format!("100 HTTP/2 streams, {}", bomb.name);
        // Built for tests futures are larger.
        table.row(&attack, &format!("{pinned} kB a connection"), "≤ 1,500 kB", pinned <= scaled(2_500, 1_500));
        let is_none = |name: &str, labels: &[&str]| gateway.metric(name, labels) == 0.0;
        eventually_within("the end of the streams", 3 * limit, || {
            // Where all have ended before, what is left of them is the connection's.
            is_none("sluicegate_upstream_inflight", &[])
                && (!bomb.unread || is_none("sluicegate_connections", &["https"]))
        });
        table.within(
            &format!("{attack}: until all are reset"),
            begun.elapsed(),
            limit + scaled(Duration::from_secs(2), Duration::from_secs(5)),
        );
        drop(held);
    }
    beside_as_many_as_can_be(table, "such connections", |gateway, number| BOMBS[number % BOMBS.len()].on(gateway));
}

/// More connections than there is memory for.
fn beside_as_many_as_can_be(table: &Table, what: &str, connect: impl Fn(&Gateway, usize) -> Option<Raw> + Sync) {
    let gateway = start(json!({"connections": 4_000}));
    let count = scaled(30, 1_000);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let attack = |with: &mut Turns| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                super::low_priority();
                let mut held = Vec::new();
                for number in 0..count {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    held.push(connect(&gateway, number));
                }
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
            with.make_part(&gateway, 1);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    };
    let (alone, with, ()) = around(&gateway, false, attack);
    let attack = format!("{count} {what}, made as fast as can be");
    beside(table, &attack, &alone, &with, None);
    within_memory(table, &attack, &gateway);
}

/// Waits longer than tests usually do.
fn eventually_within(what: &str, limit: Duration, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit.max(PATIENCE), "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// More connections than there may be: those that are over are closed before TLS, and whoever is there stays.
fn too_many_connections(table: &Table) {
    let most = scaled(50, 2_000);
    let gateway = start(json!({"connections": most}));
    // All of them in the middle of a request, so that none can go for another.
    let ask = |stream: &mut TcpStream| stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let mut there: Vec<TcpStream> = (0..most - 1).map(|_| client::connect(gateway.http).stream).collect();
    there.iter_mut().for_each(ask);
    gateway.wait_metric("sluicegate_upstream_inflight", &[], (most - 1) as f64);
    let mut known = client::connect(gateway.http);
    assert_eq!(known.request("GET", "a.test", "/", &[]).status, 200);
    known.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    gateway.wait_metric("sluicegate_upstream_inflight", &[], most as f64);
    let mut times: Vec<Duration> = (0..scaled(200, 5_000))
        .map(|_| {
            let begun = Instant::now();
            let mut over = TcpStream::connect(gateway.https).unwrap();
            assert!(!matches!(over.read(&mut [0; 16]), Ok(1..)), "it is not served");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2].as_secs_f64() * 1e3;
    let attack = format!("{} connections more than there may be", times.len());
    table.row(&attack, &format!("closed after {median:.2} ms (median), before TLS"), "≤ 5 ms", median <= 5.0);
    let failed = gateway.metric("sluicegate_rejected_total", &["AcceptFailed"]);
    table.row(&attack, &format!("{failed} times no descriptor was left"), "0", failed == 0.0);
    drop(there);
    eventually("room", || {
        let connections = ["http", "https"].map(|scheme| gateway.metric("sluicegate_connections", &[scheme]));
        (connections.iter().sum::<f64>() < most as f64).then_some(())
    });
    assert_eq!(client::get(gateway.http, "a.test", "/").status, 200);
}

/// Requests that are refused, as fast as they can be sent: the log stays small, the counters exact.
fn log_lines(table: &Table) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let gateway = crate::harness::Start::with(&crate::backends::everything_to(&[super::backend::address()]))
        .set("accessLog", json!({"path": path}))
        .ready();
    let count = scaled(500, 20_000);
    let begun = Instant::now();
    for _ in 0..count {
        assert_eq!(client::raw(gateway.http, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n").status, 400);
    }
    let seconds = begun.elapsed().as_secs_f64();
    gateway.wait_metric("sluicegate_rejected_total", &["MalformedHead"], f64::from(count));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count() as f64;
    let attack = format!("{count} malformed requests in {seconds:.1} s");
    // A second that has begun counts whole.
    let most = 100.0 * (seconds.ceil() + 1.0);
    table.row(
        &attack,
        &format!("{lines} lines in the access log, {count} counted"),
        "≤ 100 lines a second, all counted",
        lines <= most,
    );
}
