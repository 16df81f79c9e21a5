//! Work is spread over workers, and one that stalls does not stop the others.

use std::collections::BTreeSet;

use serde_json::json;

use crate::backends::{echo, everything_to};
use crate::client;
use crate::harness::{Start, eventually};

/// CPU time of each worker thread, in clock ticks, from `/proc`.
fn worker_threads(pid: u32) -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut threads = Vec::new();
    for task in tasks {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap().trim().to_owned();
        if name.starts_with("worker-") {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
            threads.push((name, fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()));
        }
    }
    threads.sort();
    threads
}

#[test]
fn connections_land_on_every_worker() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", json!(4)).ready();
    assert_eq!(worker_threads(gateway.pid()).len(), 4);
    // Each worker has a pool of its own: as many upstream connections as workers that took one.
    for _ in 0..200 {
        assert_eq!(gateway.get("a.test", "/").status, 200);
    }
    let upstream = gateway.metric("sluicegate_upstream_connect_duration_seconds_count", &[]);
    assert_eq!(upstream, 4.0, "200 connections on 4 workers");
}

#[test]
fn one_workers_stall_does_not_stop_the_others() {
    let gateway = Start::with(&everything_to(&[echo()])).set("workers", json!(4)).ready();
    // Connections that are known to be alive, on several workers.
    let mut connections: Vec<_> = (0..40).map(|_| client::connect(gateway.http)).collect();
    for connection in &mut connections {
        assert_eq!(connection.request("GET", "a.test", "/", &[]).status, 200);
    }
    let stalled = stall_worker(gateway.pid(), "worker-0");
    let answered: BTreeSet<usize> = connections
        .iter_mut()
        .enumerate()
        .filter_map(|(index, connection)| {
            connection.stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            connection.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let mut byte = [0];
            matches!(connection.stream.peek(&mut byte), Ok(1)).then_some(index)
        })
        .collect();
    assert!(!answered.is_empty() && answered.len() < 40, "{} of 40 answered", answered.len());
    stalled.resume();
    eventually("the stalled worker to go on", || {
        let mut byte = [0];
        connections.iter().all(|connection| matches!(connection.stream.peek(&mut byte), Ok(1))).then_some(())
    });
}

/// One thread of a process, stopped by a debugger's means (`ptrace` stops a single thread; signals stop them all).
struct Stalled(std::process::Child);

impl Stalled {
    fn resume(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stall_worker(pid: u32, name: &str) -> Stalled {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let thread = tasks
        .map(|task| task.unwrap().path())
        .find(|path| std::fs::read_to_string(path.join("comm")).unwrap().trim() == name)
        .unwrap();
    let tid = thread.file_name().unwrap().to_str().unwrap().to_owned();
    // Python is part of the tests' set-up; ptrace by ctypes needs no compiler and no unsafe code here.
    let script = "import ctypes,sys,os,signal\nlibc=ctypes.CDLL(None,use_errno=True)\nSEIZE,INTERRUPT=0x4206,0x4207\nt=int(sys.argv[1])\nassert libc.ptrace(SEIZE,t,0,0)==0,ctypes.get_errno()\nassert libc.ptrace(INTERRUPT,t,0,0)==0\nos.waitpid(t,0x40000000)\nprint('stopped',flush=True)\nsignal.pause()\n";
    let mut tracer = std::process::Command::new("python3")
        .args(["-c", script, &tid])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(tracer.stdout.as_mut().unwrap()), &mut said).unwrap();
    assert_eq!(said.trim(), "stopped");
    Stalled(tracer)
}
