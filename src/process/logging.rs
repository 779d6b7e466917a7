//! The log's way out: a thread of its own writes to standard error, and whoever logs never waits for it.
//!
//! Whoever reads standard error may stop reading or go away: lines are then dropped and counted, and nothing else changes.
//! Invariant: a failed write is counted, never printed, and never panics.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogSettings;
use crate::telemetry::{LogQueue, PROCESS, log};

/// The end of the process, or a word to standard error, waits for this long for whoever reads it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bounds what is written at once after asking whether there is room: a pipe that has room takes it.
const PIECE: usize = 4096;

/// Writes the log while the process runs.
#[derive(Debug)]
pub(super) struct ProcessLog {
    shared: Arc<SharedLog>,
    thread: JoinHandle<()>,
}

impl ProcessLog {
    /// Starts logging for the whole process, once: from here on panics are logged, too.
    ///
    /// # Errors
    /// There is no thread to be had, or logging was started before.
    pub(super) fn start(settings: &LogSettings) -> Result<Self, String> {
        let shared = Arc::new(SharedLog {
            queue: Mutex::new(LogQueue::new(settings.buffer)),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || of_thread.write_all())
            .map_err(|error| format!("no thread for the log: {error}"))?;
        log::init(
            settings,
            LineWriter(Arc::clone(&shared)),
            io::stderr().is_terminal(),
        )?;
        std::panic::set_hook(Box::new(tell_panic));
        Ok(Self { shared, thread })
    }

    /// Tells whether nothing writes the log any more.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all lines are written, but not for long: whoever reads them may have stopped.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut queue = self.shared.queue();
        while !queue.is_empty() && !self.has_ended() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self
                .shared
                .changed
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Holds what whoever logs and the thread that writes have in common.
#[derive(Debug)]
struct SharedLog {
    queue: Mutex<LogQueue>,
    /// Wakes both: a line has come, or one has gone.
    changed: Condvar,
}

impl SharedLog {
    fn queue(&self) -> MutexGuard<'_, LogQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines as they come, for as long as the process runs.
    fn write_all(&self) {
        loop {
            let line = self.next();
            let was_written = write(&line).is_ok();
            if !was_written {
                PROCESS.line_failed();
            }
            let lost = {
                let mut queue = self.queue();
                queue.done(&line, was_written);
                if was_written { queue.lost() } else { None }
            };
            self.changed.notify_all();
            if let Some(lines) = lost {
                tracing::warn!(
                    lines,
                    "lines of the log were lost: standard error did not take them"
                );
            }
        }
    }

    fn next(&self) -> Box<[u8]> {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.hand_out() {
                return line;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Takes each event as one line.
#[derive(Debug, Clone)]
struct LineWriter(Arc<SharedLog>);

impl io::Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.queue().push(bytes) {
            true => self.0.changed.notify_all(),
            false => PROCESS.line_dropped(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LineWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Writes to standard error, as long as that takes; past the lock of [`io::stderr`], which a blocked write would hold against everybody
/// else.
fn write(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Somebody else who has this pipe or terminal may have set it so.
            Err(Errno::AGAIN) => drop(wait_for_room(None)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes one line to standard error before there is a log, or when there is none any more: it takes a second at most, whatever reads it.
pub(super) fn say(text: &str) {
    let deadline = Instant::now() + PATIENCE;
    let line = format!("{text}\n");
    let mut bytes = line.as_bytes();
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if !wait_for_room(Some(left)).unwrap_or(false) {
            return;
        }
        match rustix::io::write(io::stderr(), &bytes[..bytes.len().min(PIECE)]) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR | Errno::AGAIN) if !left.is_zero() => {}
            Err(_) => return,
        }
    }
}

/// Waits until standard error takes something. Returns false where it has not within that time.
fn wait_for_room(limit: Option<Duration>) -> io::Result<bool> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let stderr = io::stderr();
    let mut waiting = [PollFd::new(&stderr, PollFlags::OUT)];
    match poll(&mut waiting, limit.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        // Asked again by whoever still waits.
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Counts and logs a panic, as the one line that everything else is.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    PROCESS.panicked();
    let payload = panic.payload();
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        "a bug of respool: panic at {place}: {text:?}"
    );
}
