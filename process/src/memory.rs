//! How the process uses memory, how much it may use, and how much it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::foreign::give_back_memory;

/// Has the kernel back memory with small pages only. The allocator (mimalloc) asks for transparent huge pages where the machine gives
/// them on request, and a huge page of which a part is used counts whole: at 5,000 routes a gateway took 75 MiB with them and 48 MiB
/// without (docs/benchmarks.md). Call it before anything is allocated.
///
/// A kernel that refuses changes nothing but that.
pub fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// How often memory is given back: oftener than any other thread looks for what is free.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(20);

/// How much less than others the thread that does so is worth: it has time.
const NICE: i32 = 10;

/// Has a thread of its own give memory back to the kernel that has been free for a second. The allocator has it done by the thread that happens to
/// notice: a worker whose clients had gone was kept from all others for 24 ms by one request (docs/adr/0042).
///
/// # Errors
/// The thread cannot be started.
pub fn give_back_on_a_thread() -> std::io::Result<()> {
    std::thread::Builder::new().name("give-back".to_owned()).spawn(|| {
        // As important as the others where that is refused.
        let _ = rustix::process::nice(NICE);
        loop {
            std::thread::park_timeout(GIVE_BACK_EVERY);
            give_back_memory();
        }
    })?;
    Ok(())
}

/// The control group of the process, where it or one above it limits memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// The lowest of the limits.
    limit: u64,
    /// Its own directory: those above it hold others as well, whose use says nothing of this process.
    directory: PathBuf,
    files: &'static Files,
}

/// Names of a version of control groups.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    /// Where its groups are, below the root of all.
    below: &'static str,
    /// How the line of `/proc/self/cgroup` with the process' own group goes on behind its number.
    own: &'static str,
    limit: &'static str,
    used: &'static str,
    /// What is given back when there is need, in `memory.stat`: the cache of files, and that of the kernel.
    cache: &'static [&'static str],
}

const VERSIONS: [Files; 2] = [
    Files {
        below: "",
        own: ":/",
        limit: "memory.max",
        used: "memory.current",
        cache: &["inactive_file", "active_file", "slab_reclaimable"],
    },
    Files {
        below: "memory",
        own: "memory:/",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cache: &["total_inactive_file", "total_active_file"],
    },
];

/// Limits from here on are none: version 1 writes the largest number of pages.
const UNLIMITED: u64 = 1 << 60;

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Group {
    /// Of the version with the lowest limit. `own`: `/proc/self/cgroup`.
    fn lowest(root: &Path, own: &str) -> Option<Group> {
        let of_version = |files: &'static Files| {
            let path = own.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(files.own))?;
            let root = root.join(files.below);
            let directory = root.join(path);
            let groups = directory.ancestors().take_while(|group| group.starts_with(&root));
            let limits = groups.filter_map(|group| read_number(&group.join(files.limit)));
            let limit = limits.min().filter(|limit| *limit < UNLIMITED)?;
            Some(Group { limit, directory, files })
        };
        VERSIONS.iter().filter_map(of_version).min_by_key(|group| group.limit)
    }

    /// What cannot be given back at once.
    fn used(&self) -> Option<u64> {
        let used = read_number(&self.directory.join(self.files.used))?;
        let stat = std::fs::read_to_string(self.directory.join("memory.stat")).unwrap_or_default();
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        let cache = lines.filter(|(name, _)| self.files.cache.contains(name));
        Some(used.saturating_sub(cache.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()))
    }
}

/// What the process may use, and what it uses.
#[derive(Debug)]
pub struct Memory {
    limit: Option<u64>,
    /// The group that counts it, where the limit is a group's.
    group: Option<Group>,
}

impl Memory {
    /// With the limit that is given, else that of the control groups, else what the machine has.
    pub fn new(given: Option<u64>) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let of_machine = memory_of(&machine);
        let group = || Group::lowest(Path::new("/sys/fs/cgroup"), &own);
        // A group may hold others as well, whose use is nothing to a limit that was given.
        let group = if given.is_some() { None } else { group() };
        let group = group.filter(|group| of_machine.is_none_or(|machine| group.limit < machine));
        let of_group = group.as_ref().map(|group| group.limit);
        Memory { limit: given.or(of_group).or(of_machine), group }
    }

    /// Bytes that may be used; `None`: nobody says.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Bytes that are used: what is resident, and at least what the process' own group has in use, which counts more.
    pub fn used(&self) -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let resident = pages * rustix::param::page_size() as u64;
        self.group.as_ref().and_then(Group::used).map_or(resident, |group| group.max(resident))
    }
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
        let lowest = || Group::lowest(root.path(), "0::/kubepods/pod\n").unwrap();
        assert_eq!(lowest().limit, 1 << 30);
        std::fs::write(inner.join("memory.max"), "536870912\n").unwrap();
        assert_eq!((lowest().limit, lowest().directory), (512 << 20, inner.clone()));
        std::fs::write(root.path().join("kubepods/memory.max"), "1048576\n").unwrap();
        assert_eq!((lowest().limit, lowest().directory), (1 << 20, inner.clone()), "use is the process' own");
        assert_eq!(Group::lowest(root.path(), "12:cpu:/kubepods/pod\n"), None);
        std::fs::write(inner.join("memory.current"), "4096\n").unwrap();
        assert_eq!(lowest().used(), Some(4096));
        std::fs::write(inner.join("memory.stat"), "anon 1\ninactive_file 1024\nactive_file 24\n").unwrap();
        assert_eq!(lowest().used(), Some(3048), "the cache of files is nobody's");
    }

    #[test]
    fn groups_of_version_1_count_as_well() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("memory/pod");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(root.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        let own = "5:cpu:/\n4:memory:/pod\n0::/\n";
        assert_eq!(Group::lowest(root.path(), own), None);
        std::fs::write(group.join("memory.limit_in_bytes"), "536870912\n").unwrap();
        std::fs::write(group.join("memory.usage_in_bytes"), "8192\n").unwrap();
        std::fs::write(group.join("memory.stat"), "inactive_file 4096\ntotal_inactive_file 4096\n").unwrap();
        let lowest = Group::lowest(root.path(), own).unwrap();
        assert_eq!((lowest.limit, lowest.used()), (512 << 20, Some(4096)));
    }

    #[test]
    fn memory_is_given_back_by_a_thread_that_is_worth_less() {
        /// A thread's name, and how nice it is (proc_pid_stat(5)).
        fn thread(directory: &Path) -> Option<(String, i32)> {
            let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            Some((name.to_owned(), rest.split(' ').nth(16)?.parse().ok()?))
        }
        let own = || thread(Path::new("/proc/thread-self")).unwrap().1;
        let (before, begun) = (own(), std::time::Instant::now());
        give_back_on_a_thread().unwrap();
        let expected = ("give-back".to_owned(), (before + NICE).min(19));
        let all = || std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| thread(&task.ok()?.path()));
        while !all().any(|thread| thread == expected) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", all().collect::<Vec<_>>());
            std::thread::yield_now();
        }
        assert_eq!(own(), before, "it alone");
    }

    #[test]
    fn the_machine_has_some_and_this_process_uses_some() {
        assert_eq!(memory_of("MemFree: 1 kB\nMemTotal:        2048 kB\n"), Some(2 << 20));
        let memory = Memory::new(None);
        assert!(memory.limit().is_some_and(|bytes| bytes > 64 << 20 && memory.used() < bytes));
        let given = Memory::new(Some(1 << 20));
        assert!(given.limit() == Some(1 << 20) && given.used() > 1 << 20);
    }
}
