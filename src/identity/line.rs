//! One line of `CLIENT LIST`, field by field as the server at hand writes it.

use std::io::{self, Write as _};

use super::{ClientFlag, ClientNames, ClientRecord, NO_COMMAND, shown_user};
use crate::texts::ServerVersion;

/// Says which fields the server writes beside those that Redis has written since 6.2.
struct LineFields {
    /// Redis 7.0 added `ssub`, `multi-mem`, `rbs`, `rbp`, `resp`; and subcommands are commands with a name of their own.
    of_7_0: bool,
    /// Redis 7.2 added `lib-name` and `lib-ver`.
    library: bool,
    /// Valkey 8.0 added it.
    capa: bool,
    /// Redis 7.4 and Valkey 8.0 added it.
    watch: bool,
    /// Redis 8.0 added it.
    io_thread: bool,
    /// Redis 8.2 and Valkey 8.1 were seen to write `tot-net-in`, `tot-net-out` and `tot-cmds`.
    totals: bool,
}

impl LineFields {
    fn of(server: ServerVersion) -> Self {
        let capa = server.is_valkey_from((8, 0));
        Self {
            of_7_0: server.is_from((7, 0)),
            library: server.is_from((7, 2)),
            capa,
            watch: capa || server.is_from((7, 4)),
            io_thread: server.is_from((8, 0)),
            totals: capa || server.is_from((8, 2)),
        }
    }
}

/// Writes the line of `record`, without a newline. `command_name` gives the full name (`client|list`) of an index in the command table.
/// Figures that only a server has (`qbuf-free`, `argv-mem`, `multi-mem`, `rbs`, `rbp`, `obl`, `io-thread`) are 0; all output waits in one
/// buffer, so `oll` is 0 or 1 and `omem` its bytes. How many keys are watched the server alone knows: `watch` is 0 or 1.
pub fn client_line<S: AsRef<str>>(
    record: &ClientRecord,
    now_ms: u64,
    server: ServerVersion,
    command_name: impl Fn(u32) -> S,
) -> Vec<u8> {
    let mut line = Vec::with_capacity(384);
    let result = write_line(
        &mut line,
        record,
        now_ms,
        &LineFields::of(server),
        command_name,
    );
    debug_assert!(result.is_ok(), "a Vec takes every write");
    line
}

fn write_line<S: AsRef<str>>(
    line: &mut Vec<u8>,
    record: &ClientRecord,
    now_ms: u64,
    fields: &LineFields,
    command_name: impl Fn(u32) -> S,
) -> io::Result<()> {
    let names = record.names();
    write!(
        line,
        "id={} addr={} laddr={} fd={} name=",
        record.id(),
        record.peer(),
        record.laddr(),
        record.fd(),
    )?;
    push_shown(line, &names.name);
    write!(
        line,
        " age={} idle={} flags={}",
        now_ms.saturating_sub(record.created_ms()) / 1000,
        record.idle_ms(now_ms) / 1000,
        letters(record)
    )?;
    if fields.capa {
        let capa = if record.has(ClientFlag::Redirects) {
            "r"
        } else {
            ""
        };
        write!(line, " capa={capa}")?;
    }
    write_session(line, record, fields)?;
    write_memory(line, record, fields)?;
    line.extend_from_slice(b" cmd=");
    match record.last_command.get() {
        NO_COMMAND => line.extend_from_slice(b"NULL"),
        index => {
            let name = command_name(index);
            let name = name.as_ref();
            let container = name.split('|').next().unwrap_or_default();
            let name = if fields.of_7_0 { name } else { container };
            line.extend_from_slice(name.as_bytes());
        }
    }
    write_user(line, record, &names, fields)
}

/// Writes the fields from `db` to `watch`.
fn write_session(line: &mut Vec<u8>, record: &ClientRecord, fields: &LineFields) -> io::Result<()> {
    let (channels, patterns) = (record.channels.get(), record.patterns.get());
    write!(
        line,
        " db={} sub={channels} psub={patterns}",
        record.db.get()
    )?;
    if fields.of_7_0 {
        write!(line, " ssub={}", record.shard_channels.get())?;
    }
    let multi = if record.has(ClientFlag::Multi) {
        i64::from(record.multi.get())
    } else {
        -1
    };
    write!(line, " multi={multi}")?;
    if fields.watch {
        write!(
            line,
            " watch={}",
            u8::from(record.has(ClientFlag::Watching))
        )?;
    }
    Ok(())
}

/// Writes the fields from `user` to `tot-cmds`.
fn write_user(
    line: &mut Vec<u8>,
    record: &ClientRecord,
    names: &ClientNames,
    fields: &LineFields,
) -> io::Result<()> {
    let redirection = if record.has(ClientFlag::Tracking) {
        record.redirect.get() as i64
    } else {
        -1
    };
    line.extend_from_slice(b" user=");
    push_shown(line, shown_user(&names.user));
    write!(line, " redir={redirection}")?;
    if fields.of_7_0 {
        write!(line, " resp={}", record.resp.get())?;
    }
    if fields.library {
        line.extend_from_slice(b" lib-name=");
        push_shown(line, &names.lib_name);
        line.extend_from_slice(b" lib-ver=");
        push_shown(line, &names.lib_ver);
    }
    if fields.io_thread {
        line.extend_from_slice(b" io-thread=0");
    }
    if fields.totals {
        write!(
            line,
            " tot-net-in={} tot-net-out={} tot-cmds={}",
            record.bytes_in.get(),
            record.bytes_out.get(),
            record.commands.get()
        )?;
    }
    Ok(())
}

/// Writes the fields from `qbuf` to `events`.
fn write_memory(line: &mut Vec<u8>, record: &ClientRecord, fields: &LineFields) -> io::Result<()> {
    let query = record.query_bytes.get();
    let output = record.output_bytes.get();
    let total = query + output + size_of::<ClientRecord>() as u64;
    let (pieces, events) = if output > 0 { (1, "rw") } else { (0, "r") };
    write!(line, " qbuf={query} qbuf-free=0 argv-mem=0")?;
    if fields.of_7_0 {
        line.extend_from_slice(b" multi-mem=0 rbs=0 rbp=0");
    }
    write!(
        line,
        " obl=0 oll={pieces} omem={output} tot-mem={total} events={events}"
    )
}

/// Returns the letters of `flags=`, in Redis' order.
pub(super) fn letters(record: &ClientRecord) -> String {
    const LETTERS: [(ClientFlag, char); 11] = [
        (ClientFlag::Monitor, 'O'),
        (ClientFlag::Pubsub, 'P'),
        (ClientFlag::Multi, 'x'),
        (ClientFlag::Blocked, 'b'),
        (ClientFlag::Tracking, 't'),
        (ClientFlag::BrokenRedirection, 'R'),
        (ClientFlag::Broadcast, 'B'),
        // Redis: to be closed after its reply. A rejected client is told and then closed.
        (ClientFlag::Rejected, 'c'),
        (ClientFlag::Killed, 'A'),
        (ClientFlag::ReadsReplica, 'r'),
        (ClientFlag::NoEvict, 'e'),
    ];
    let mut letters = String::new();
    for (flag, letter) in LETTERS {
        if flag == ClientFlag::ReadsReplica && matches!(record.peer(), super::PeerAddress::Unix(_))
        {
            letters.push('U');
        }
        if record.has(flag) {
            letters.push(letter);
        }
    }
    if letters.is_empty() {
        letters.push('N');
    }
    letters
}

/// Appends a name as it is, but for what would end the field or the line.
fn push_shown(line: &mut Vec<u8>, name: &[u8]) {
    line.extend(name.iter().map(|byte| match byte {
        b' ' | b'\t'..=b'\r' | 0 => b'?',
        other => *other,
    }));
}
