//! Tells apart what the server answers to a try and to an issued call, without understanding more than is needed.

use crate::resp::{ReplyScanner, Request};
use crate::texts::{is_no_permission, is_unknown_command};

/// Tells replies apart, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallAnswer<'a> {
    /// The answer is null: there is nothing.
    Null,
    /// The server refuses, with this error.
    Error(&'a [u8]),
    /// There is something, which is this.
    Element(&'a [u8]),
}

impl<'a> CallAnswer<'a> {
    /// Reads what `frame` says.
    pub(super) fn by(frame: &'a [u8]) -> Self {
        match frame {
            b"*-1\r\n" | b"$-1\r\n" | b"_\r\n" => Self::Null,
            [b'-' | b'!', ..] => Self::Error(frame),
            _ => Self::Element(frame),
        }
    }
}

/// Tells whether `error` speaks of the server's state rather than of the call: the server makes these checks when a call
/// arrives, and nobody whom it has blocked is told of them.
pub(super) fn is_passing(error: &[u8]) -> bool {
    const PASSING: &[&[u8]] = &[
        b"BUSY",
        b"OOM",
        b"MISCONF",
        b"NOREPLICAS",
        b"LOADING",
        b"MASTERDOWN",
        // A primary that has become a replica answers the next call with this; the next primary will serve who has waited.
        b"READONLY",
    ];
    let text = error.strip_prefix(b"-").unwrap_or(error);
    let because = b"EXECABORT Transaction discarded because of: ";
    let text = text.strip_prefix(because).unwrap_or(text);
    if text.starts_with(b"UNBLOCKED ") {
        return is_forced(text);
    }
    let code = text.split(|byte| *byte == b' ' || *byte == b'\r').next();
    code.is_some_and(|code| PASSING.contains(&code))
}

/// Tells whether `error` says that the server's memory is full.
pub(super) fn is_of_memory(error: &[u8]) -> bool {
    error.starts_with(b"-OOM ")
}

/// Tells whether a primary that has become a replica has ended a blocked call with this (6.2 to 9.1). Redis 7.0 uses the same
/// code where the stream of a blocked XREADGROUP is gone, which is what its client waits to hear.
fn is_forced(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"instance state changed").is_some()
}

/// Cuts `bytes` into frames.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Ok(step) = ReplyScanner::default().advance(bytes)
        && step.complete
    {
        let (frame, rest) = bytes.split_at(step.used);
        frames.push(frame);
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    frames
}

/// Says why no call of a transaction has run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TransactionRefusal<'a> {
    /// The server refuses a call with this.
    Call(&'a [u8]),
    /// It refuses EXEC with this.
    Exec(&'a [u8]),
}

impl TransactionRefusal<'_> {
    /// Tells whether it speaks of the server's state rather than of the calls.
    pub(super) fn is_passing(&self) -> bool {
        let (Self::Call(error) | Self::Exec(error)) = self;
        is_passing(error)
    }

    /// Tells whether a user may not use a command, or there is none such.
    pub(super) fn is_of_rights(&self) -> bool {
        let (Self::Call(error) | Self::Exec(error)) = self;
        is_no_permission(error) || is_unknown_command(error)
    }
}

/// Reads what the server answered to MULTI, `count` calls and EXEC: one answer for each call.
pub(super) fn transaction(
    bytes: &[u8],
    count: usize,
) -> Result<Vec<&[u8]>, TransactionRefusal<'_>> {
    let all = frames(bytes);
    let [multi, queued @ .., exec] = all.as_slice() else {
        return Err(TransactionRefusal::Exec(b""));
    };
    if multi.starts_with(b"-") {
        // A user who may not use MULTI: the calls ran by themselves, and waited no longer than a moment.
        return Ok(queued.to_vec());
    }
    if let Some(error) = queued.iter().find(|frame| frame.starts_with(b"-")) {
        return Err(TransactionRefusal::Call(error));
    }
    let body = memchr::memchr(b'\n', exec).map_or(&[][..], |end| &exec[end + 1..]);
    let answers = frames(body);
    if exec.starts_with(b"*") && answers.len() == count {
        Ok(answers)
    } else {
        Err(TransactionRefusal::Exec(exec))
    }
}

/// Tells whether the server has done what it was asked for in a try with these replies, one that takes something away.
/// Whoever is refused it has not come to where a pause of writes would have put it off.
pub fn has_run(replies: &[u8], is_transaction: bool) -> bool {
    let all = frames(replies);
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if is_transaction => {
            first.starts_with(b"+") && last.starts_with(b"*")
        }
        (_, Some(last)) => !matches!(last.first(), Some(b'-' | b'!')),
        _ => false,
    }
}

/// Returns the key a popped element came from.
pub(super) fn key(element: &[u8]) -> Option<&[u8]> {
    Request::new(element).argument(0)
}

/// Finds the id of a stream's last entry in the reply to XINFO STREAM. It stands before anything a client has written.
pub(super) fn last_entry(reply: &[u8]) -> Option<Vec<u8>> {
    let name = b"last-generated-id\r\n";
    let at = memchr::memmem::find(reply, name)? + name.len();
    let [b'$', rest @ ..] = &reply[at..] else {
        return None;
    };
    let start = memchr::memchr(b'\n', rest)? + 1;
    let end = start + memchr::memchr(b'\r', &rest[start..])?;
    Some(rest[start..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_answers_each_call() {
        let all = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n*-1\r\n";
        let answers = transaction(all, 2).unwrap();
        assert_eq!(answers, [&b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n"[..], b"*-1\r\n"]);
        assert_eq!(key(answers[0]), Some(&b"k"[..]));
        assert_eq!(CallAnswer::by(answers[1]), CallAnswer::Null);
    }

    #[test]
    fn the_first_refusal_is_told() {
        let refused = b"+OK\r\n-NOPERM no\r\n-EXECABORT Transaction discarded\r\n";
        assert_eq!(
            transaction(refused, 1),
            Err(TransactionRefusal::Call(b"-NOPERM no\r\n"))
        );
        let away = b"+OK\r\n+QUEUED\r\n-EXECABORT x\r\n";
        assert_eq!(
            transaction(away, 1),
            Err(TransactionRefusal::Exec(b"-EXECABORT x\r\n"))
        );
        let without = b"-NOPERM multi\r\n*-1\r\n-ERR EXEC without MULTI\r\n";
        assert_eq!(transaction(without, 1), Ok(vec![&b"*-1\r\n"[..]]));
        let inside = b"+OK\r\n+QUEUED\r\n*1\r\n-WRONGTYPE x\r\n";
        assert_eq!(transaction(inside, 1), Ok(vec![&b"-WRONGTYPE x\r\n"[..]]));
    }

    #[test]
    fn what_passes_is_told_from_what_is_wrong_with_the_call() {
        for error in [
            "-LOADING Redis is loading the dataset in memory",
            "-OOM command not allowed when used memory > 'maxmemory'.",
            "-BUSY Redis is busy running a script.",
            "-EXECABORT Transaction discarded because of: MISCONF Redis is configured",
            "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        ] {
            assert!(is_passing(error.as_bytes()), "{error}");
        }
        for error in [
            "-WRONGTYPE no",
            "-UNBLOCKED the stream key no longer exists",
            "-NOPERM LOADING",
            "-BUSYGROUP there is one",
            "-EXECABORT Transaction discarded because of previous errors.",
            "",
        ] {
            assert!(!is_passing(error.as_bytes()), "{error}");
        }
    }

    #[test]
    fn the_last_entry_is_found() {
        let flat =
            b"*4\r\n$6\r\nlength\r\n:2\r\n$17\r\nlast-generated-id\r\n$15\r\n1795262052821-0\r\n";
        assert_eq!(last_entry(flat).unwrap(), b"1795262052821-0");
        assert_eq!(last_entry(b"-ERR no such key\r\n"), None);
    }
}
