//! Honest clients and the backend are processes of their own. As threads beside the attackers' they would wait for locks (those of the
//! allocator, of the process's memory) that are held by threads which hardly ever run.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{backend, honest};

/// Which part a process is, and with what.
const PART: &str = "ATTACK_PART";
const ARGUMENTS: &str = "ATTACK_ARGUMENTS";

/// Begins a line that is said, and not the test runner's.
const SAYS: &str = "says: ";

/// A part that runs, until this is dropped or its own process has ended.
pub struct Apart {
    process: Child,
    says: BufReader<ChildStdout>,
    /// Is closed with the process that holds it.
    _open: ChildStdin,
}

impl Apart {
    /// Starts one.
    pub fn start(part: &str, arguments: &str) -> Apart {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "attack::apart::part"])
            .env(PART, part)
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (open, says) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Apart { process, says, _open: open }
    }

    /// What it says next.
    pub fn says(&mut self) -> String {
        let mut lines = self.says.by_ref().lines();
        let line = lines.find_map(|line| line.unwrap().split_once(SAYS).map(|(_, said)| said.to_owned()));
        line.expect("it says what it found before it ends")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says something to the process that has started this one.
fn say(text: &str) {
    // Past the runner, which captures what is printed.
    std::io::stdout().write_all(format!("\n{SAYS}{text}\n").as_bytes()).unwrap();
}

#[test]
#[ignore = "a process that the attack starts"]
fn part() {
    let Ok(part) = std::env::var(PART) else { return };
    let arguments = std::env::var(ARGUMENTS).unwrap();
    match &part[..] {
        "backend" => {
            say(&backend::run().to_string());
            // Until nobody is there who needs it.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            // Here, and not in the test runner, which would complain that nobody reads any more what it prints.
            let _ = Command::new("kill").arg(std::process::id().to_string()).status();
        }
        _ => say(&honest::run(&arguments)),
    }
}
