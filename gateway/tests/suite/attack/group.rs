//! A control group of its own for a gateway, so that what it uses too much ends it, as in a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module. It is gone with this; what was in it has to be gone before.
pub struct Group {
    directory: PathBuf,
    /// The file that tells of kills.
    events: &'static str,
}

/// The directory in which a group can be made, and the names of its files: version 1, below the group of this process; else version 2.
fn parent() -> Option<(PathBuf, &'static str, &'static str)> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.split_once(":memory:/").map(|(_, path)| path.to_owned()));
    if let Some(own) = own {
        return Some((Path::new("/sys/fs/cgroup/memory").join(own), "memory.limit_in_bytes", "memory.oom_control"));
    }
    let root = Path::new("/sys/fs/cgroup");
    let controls = fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
    controls.split_whitespace().any(|name| name == "memory").then(|| (root.into(), "memory.max", "memory.events"))
}

impl Group {
    /// With so many bytes; `None`: here none can be made, which takes root.
    pub fn of(bytes: u64) -> Option<Group> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let (parent, limit, events) = parent()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("sluicegate-attack-{}-{number}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        let group = Group { directory, events };
        fs::write(group.directory.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }

    /// The file that takes the processes of the group.
    pub fn processes(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Processes that the kernel has killed in it, since there was no memory left.
    pub fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.directory.join(self.events)).unwrap();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|count| count.parse().ok()).expect("the kernel counts them")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel may take a moment to notice that it is empty; one that is left costs nothing.
        let _ = fs::remove_dir(&self.directory);
    }
}
