//! One line of `CLIENT LIST`, field by field as Redis 7.0 writes it, with `lib-name` and `lib-ver` as 7.2 appends them.

use std::fmt::Write as _;

use super::{Card, Flag, NO_COMMAND, shown_user};

/// The line of `card`, without a newline. `command_name` gives the full name (`client|list`) of an index in the command
/// table. Figures that only a server has (`qbuf-free`, `argv-mem`, `multi-mem`, `rbs`, `rbp`, `obl`) are 0; all output
/// waits in one buffer, so `oll` is 0 or 1 and `omem` its bytes.
pub fn client_line<S: AsRef<str>>(
    card: &Card,
    now_ms: u64,
    command_name: impl Fn(u32) -> S,
) -> String {
    let mut line = String::with_capacity(320);
    let age = now_ms.saturating_sub(card.created_ms()) / 1000;
    let idle = card.idle_ms(now_ms) / 1000;
    let multi = if card.has(Flag::Multi) {
        i64::from(card.multi.get())
    } else {
        -1
    };
    let redirection = if card.has(Flag::Tracking) {
        card.redirect.get() as i64
    } else {
        -1
    };
    let query = card.query_bytes.get();
    let output = card.output_bytes.get();
    let total = query + output + size_of::<Card>() as u64;
    let (pieces, events) = if output > 0 { (1, "rw") } else { (0, "r") };
    let names = card.names();
    let result = (|| {
        write!(
            line,
            "id={} addr={} laddr={} fd={}",
            card.id(),
            card.peer(),
            card.laddr(),
            card.fd()
        )?;
        write!(
            line,
            " name={} age={age} idle={idle} flags={}",
            shown(&names.name),
            letters(card)
        )?;
        write!(line, " db={} sub={}", card.db.get(), card.channels.get())?;
        write!(
            line,
            " psub={} ssub={}",
            card.patterns.get(),
            card.shard_channels.get()
        )?;
        write!(
            line,
            " multi={multi} qbuf={query} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0"
        )?;
        write!(
            line,
            " obl=0 oll={pieces} omem={output} tot-mem={total} events={events} cmd="
        )?;
        match card.last_command.get() {
            NO_COMMAND => line.push_str("NULL"),
            index => line.push_str(command_name(index).as_ref()),
        }
        write!(
            line,
            " user={} redir={redirection} resp={}",
            shown(shown_user(&names.user)),
            card.resp.get()
        )?;
        write!(
            line,
            " lib-name={} lib-ver={}",
            shown(&names.lib_name),
            shown(&names.lib_ver)
        )
    })();
    debug_assert_eq!(result, Ok(()), "a String takes every write");
    line
}

/// The letters of `flags=`, in Redis' order.
fn letters(card: &Card) -> String {
    const LETTERS: [(Flag, char); 10] = [
        (Flag::Monitor, 'O'),
        (Flag::Pubsub, 'P'),
        (Flag::Multi, 'x'),
        (Flag::Blocked, 'b'),
        (Flag::Tracking, 't'),
        (Flag::Broadcast, 'B'),
        // Redis: to be closed after its reply. A rejected client is told and then closed.
        (Flag::Rejected, 'c'),
        (Flag::Killed, 'A'),
        (Flag::NoEvict, 'e'),
        (Flag::NoTouch, 'T'),
    ];
    let mut letters = String::new();
    for (flag, letter) in LETTERS {
        if flag == Flag::NoEvict && matches!(card.peer(), super::Peer::Unix(_)) {
            letters.push('U');
        }
        if card.has(flag) {
            letters.push(letter);
        }
    }
    if letters.is_empty() {
        letters.push('N');
    }
    letters
}

/// A name as text that can neither end the field nor the line, whatever bytes it has.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .map(|c| {
            if c.is_control() || c.is_whitespace() {
                '?'
            } else {
                c
            }
        })
        .collect()
}
