//! The facts of the machine that a configuration is checked against.

use std::time::SystemTime;

use super::UnixSeconds;

/// What the machine offers; passed into the checks, so that they are the same on every machine in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use; at least 1.
    pub cores: usize,
    /// The hard `RLIMIT_NOFILE`; `usize::MAX` when there is none.
    pub file_descriptors: usize,
    /// The host's name.
    pub host_name: String,
    /// The time by its clock.
    pub now: UnixSeconds,
}

impl Machine {
    /// The machine this process runs on.
    pub fn here() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            file_descriptors: limit
                .and_then(|limit| usize::try_from(limit).ok())
                .unwrap_or(usize::MAX),
            host_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            now: UnixSeconds::of(SystemTime::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_core_and_room_for_this_test() {
        let machine = Machine::here();
        assert!(machine.cores >= 1 && machine.file_descriptors > 3);
    }
}
