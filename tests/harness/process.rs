//! Child processes: one that ends with its owner, respool's own program, and commands that are run to their end.

use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, eventually_some, has_stopped, lock};

/// Holds at most one child, and ends it by its own id at the latest when it is dropped.
#[derive(Default)]
pub(crate) struct ChildProcess {
    child: Mutex<Option<Child>>,
}

impl ChildProcess {
    /// Starts a child; the one before must have ended.
    #[track_caller]
    pub(crate) fn start(&self, command: &mut Command) {
        let mut child = lock(&self.child);
        assert!(child.is_none(), "it runs already");
        let started = command.stdin(Stdio::null()).spawn();
        *child = Some(started.unwrap_or_else(|e| panic!("start {:?}: {e}", command.get_program())));
    }

    /// Tells the process id; panics when there is no child, or its end was awaited.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).as_ref().expect("it runs").id()
    }

    /// Tells how the child has ended, if it has.
    #[track_caller]
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        let mut child = lock(&self.child);
        let child = child.as_mut().expect("it was started");
        child.try_wait().expect("a child can be asked")
    }

    /// Sends a signal to the child.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let child = lock(&self.child);
        let pid = Pid::from_child(child.as_ref().expect("it runs"));
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Stops it for a while, and waits until all its threads have stopped.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        eventually(|| has_stopped(pid), "it has stopped");
    }

    /// Awaits its end, after which there is no child any more.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str) -> ExitStatus {
        let status = eventually_some(|| self.status(), what);
        lock(&self.child).take();
        status
    }

    /// Ends it by SIGKILL; false where there is none.
    pub(crate) fn kill(&self) -> bool {
        let Some(mut child) = lock(&self.child).take() else {
            return false;
        };
        let _ended_already = child.kill();
        let _reaped = child.wait();
        true
    }

    /// Ends it by SIGTERM, and by SIGKILL where that is not enough within `grace`.
    pub(crate) fn end_within(&self, grace: Duration) {
        let Some(mut child) = lock(&self.child).take() else {
            return;
        };
        let _ended_already = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline && !matches!(child.try_wait(), Ok(Some(_))) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ended_already = child.kill();
        let _reaped = child.wait();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Names respool's program: `$RESPOOL_BIN`, or the one that cargo has built with this.
pub(crate) fn respool_program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        if let Ok(path) = std::env::var("RESPOOL_BIN") {
            return path;
        }
        // Cargo tells tests and benchmarks; an example stands in a folder beside the program.
        if let Some(path) = option_env!("CARGO_BIN_EXE_respool") {
            return path.to_owned();
        }
        let own = std::env::current_exe().expect("a process has a program");
        let folder = own.ancestors().nth(2).expect("cargo builds into folders");
        let program = folder.join("respool");
        assert!(
            program.exists(),
            "respool is not built; build it or say where it is by RESPOOL_BIN"
        );
        program.display().to_string()
    });
    &PROGRAM
}

/// Runs respool until it ends, and tells its exit code and all that it writes.
#[track_caller]
pub(crate) fn run_respool(arguments: &[&str]) -> (Option<i32>, String) {
    run_to_end(Command::new(respool_program()).args(arguments))
}

/// Runs a command until it ends, and tells its exit code and all that it writes, to the standard error too.
#[track_caller]
pub(crate) fn run_to_end(command: &mut Command) -> (Option<i32>, String) {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let append = || {
        File::options()
            .append(true)
            .open(log.path())
            .expect("it opens")
    };
    let process = ChildProcess::default();
    process.start(command.stdout(append()).stderr(append()));
    let status = process.wait("the command ends");
    let text = std::fs::read_to_string(log.path()).expect("text");
    (status.code(), text)
}
