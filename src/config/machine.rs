//! The facts of the machine that a configuration is checked against.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::UnixSeconds;

/// Says what the machine offers; it is passed into the checks, so that they are the same on every machine in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineResources {
    /// This process may use this many cores; at least 1.
    pub cores: usize,
    /// Holds the hard `RLIMIT_NOFILE`; `usize::MAX` when there is none.
    pub file_descriptors: usize,
    /// This process may use this many bytes of memory: the least of what its control groups and the machine have.
    pub memory: usize,
    /// Holds the name of the host.
    pub host_name: String,
    /// Holds the time by its clock.
    pub now: UnixSeconds,
}

impl MachineResources {
    /// Looks at the machine this process runs on.
    pub fn here() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            file_descriptors: limit
                .and_then(|limit| usize::try_from(limit).ok())
                .unwrap_or(usize::MAX),
            memory: memory(),
            host_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            now: UnixSeconds::of(SystemTime::now()),
        }
    }
}

/// Tells what a file means beyond its own text.
pub(super) struct FileSurroundings<'a> {
    /// Relative paths in the file start here.
    pub(super) dir: &'a Path,
    /// The settings are for this machine.
    pub(super) machine: &'a MachineResources,
    /// Returns the value of an environment variable.
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Control groups are found there.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

fn memory() -> usize {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(info.mem_unit.max(1).into());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        // "max": none.
        text.trim().parse::<u64>().ok()
    });
    let least = limits.chain([machine]).min().unwrap_or(machine);
    usize::try_from(least).unwrap_or(usize::MAX)
}

/// Returns the files that limit the memory of a process whose `/proc/self/cgroup` reads `groups`: those of its own group and of all around
/// it, of both versions. In a container the group's path is often that of the host, and only the outermost is there.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => (Path::new(CONTROL_GROUPS).to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                let root = Path::new(CONTROL_GROUPS).join("memory");
                (root, "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|group| group.starts_with(&root));
        files.extend(around.map(|group| group.join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_core_and_room_for_this_test() {
        let machine = MachineResources::here();
        assert!(machine.cores >= 1 && machine.file_descriptors > 3);
        assert!(machine.memory > 1 << 24, "{}", machine.memory);
    }

    #[test]
    fn the_limits_of_all_groups_around_the_process_count() {
        let files = |groups: &str| -> Vec<String> {
            let files = limit_files(groups).into_iter();
            files.map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("5:cpu,memory:/x\n3:cpuset:/\n0::/\nnonsense"),
            [
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
    }
}
