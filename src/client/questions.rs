//! Questions that the server is asked in the place of commands which respool answers itself, or that spoil a transaction.

use crate::command::Local;

/// Asks what every server refuses while it is busy, and what changes nothing.
pub(super) const ECHO: &[&str] = &["ECHO", ""];

/// Asks for what no server has, as a server before Redis 7.0 is asked for it.
pub(super) const UNKNOWN_SUBCOMMAND: &[&str] = &["CLIENT", "-"];

/// A request that no server queues: it makes EXEC fail, as any error while queueing does.
pub(super) const NEVER_QUEUED: &[u8] = b"*1\r\n$3\r\nGET\r\n";

/// Returns what the server is asked in the place of a command of respool's own, which it would refuse while a script does not end; `None`:
/// it answers that all the same, or is asked anyway.
pub(super) fn question_while_busy(local: Local) -> Option<&'static [&'static str]> {
    match local {
        // To Valkey 9.1 it is one of those that are answered.
        Local::Select => Some(&["SELECT", "-"]),
        Local::Readonly | Local::Readwrite | Local::Asking => Some(ECHO),
        Local::Hello | Local::Auth | Local::Reset | Local::Quit => None,
        Local::NumSub | Local::ShardNumSub | Local::Client(_) => None,
    }
}
