//! What the machine lets this process have: open files, and memory.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and returns it. Programs are started with a low soft limit for the sake of
/// those that use `select(2)`; this one does not.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where that is refused, what was there before stays.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

/// Whether an error says that the machine, or this process, has no more descriptors or memory for sockets: nobody else's fault.
pub fn are_exhausted(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Bytes of memory that the process may use: what its control group and those above it allow, at most what the machine has.
/// `None`: nobody says.
pub fn memory_limit() -> Option<u64> {
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of_groups = limit_of_groups(Path::new("/sys/fs/cgroup"), &group);
    of_groups.into_iter().chain(memory_of(&machine)).min()
}

/// Limits of the control group (version 2) that `/proc/self/cgroup` names, and of those above it.
fn limit_of_groups(root: &Path, own: &str) -> Option<u64> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let read = |directory: &Path| std::fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok();
    root.join(path).ancestors().take_while(|directory| directory.starts_with(root)).filter_map(read).min()
}

fn memory_of(meminfo: &str) -> Option<u64> {
    let kibibytes = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_the_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("kubepods/pod");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(root.path().join("kubepods/memory.max"), "1073741824\n").unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit_of_groups(root.path(), "0::/kubepods/pod\n"), Some(1 << 30));
        std::fs::write(inner.join("memory.max"), "536870912\n").unwrap();
        assert_eq!(limit_of_groups(root.path(), "0::/kubepods/pod\n"), Some(512 << 20));
        assert_eq!(limit_of_groups(root.path(), "12:memory:/old\n"), None);
    }

    #[test]
    fn the_machine_has_some() {
        assert_eq!(memory_of("MemFree: 1 kB\nMemTotal:        2048 kB\n"), Some(2 << 20));
        assert!(memory_limit().is_some_and(|bytes| bytes > 64 << 20));
        assert!(raise_open_files() >= 64);
    }
}
