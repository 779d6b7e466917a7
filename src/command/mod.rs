//! Redis commands: one line for each, how it travels.
//!
//! Pure tables. What a session makes of them (transactions, denied commands, authentication) is decided there.

mod delays;
mod deny;
mod introduction;
mod learned;
mod lookup;
mod rereading;
mod spec;
mod table;
#[cfg(test)]
mod tests;
mod way;

pub use delays::Delays;
pub use deny::DenySet;
pub use introduction::keeps_arriving;
pub use learned::Learned;
pub use rereading::CommandRereading;
pub use spec::AclCategories;
use spec::{CommandFlags, CommandSpec};
pub use way::{ClientSub, Local, PinReason, TransactionCommand, Way};

use memchr::memchr;

/// Identifies a command by its place in the static table.
pub type CommandId = u16;

/// Counts the commands of the table; ids are below it.
pub const COUNT: usize = table::TABLE.len();

/// Tells what the first words of a request name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedCommand {
    /// They name a command of the table: the subcommand where it is known, else the container.
    Known(CommandId),
    /// They name no command of the table; [`Learned`] may know it.
    Unknown,
    /// They hold a name with a NUL in it, never to be forwarded. Redis compares names only up to the NUL, but hashes
    /// all of it, so that one such name in a few is taken for `MULTI`, `MONITOR` or a denied command, and nobody can
    /// tell which.
    Torn,
}

/// Tells what a request asks, by its name and its second word.
///
/// This is the question to ask of a request; [`lookup()`] and [`sub`] are its halves.
#[inline]
pub fn identify(name: &[u8], second: Option<&[u8]>) -> NamedCommand {
    let Some(id) = lookup(name) else {
        return match memchr(0, name) {
            None => NamedCommand::Unknown,
            Some(_) => NamedCommand::Torn,
        };
    };
    match second {
        Some(word) if is_container(id) => match sub(id, word) {
            Some(known) => NamedCommand::Known(known),
            None if memchr(0, word).is_some() => NamedCommand::Torn,
            None => NamedCommand::Known(id),
        },
        _ => NamedCommand::Known(id),
    }
}

/// Finds the command of this name, in any case; never a subcommand: a request named `client|list` is unknown to Redis
/// too.
#[inline]
pub fn lookup(name: &[u8]) -> Option<CommandId> {
    lookup::find(name)
}

/// Finds the command or, written as `client|list`, subcommand of this name, in any case.
fn lookup_full(name: &[u8]) -> Option<CommandId> {
    match memchr(b'|', name) {
        None => lookup(name),
        Some(bar) => sub(lookup(&name[..bar])?, &name[bar + 1..]),
    }
}

/// Returns the table's line for a command.
#[inline]
pub fn spec(id: CommandId) -> &'static CommandSpec {
    &table::TABLE[usize::from(id)]
}

/// Finds the subcommand of container `id` that a request's second word names, in any case.
///
/// `None` for an unknown subcommand, which then travels as its container does, and for what is no container.
#[inline]
pub fn sub(id: CommandId, second_arg: &[u8]) -> Option<CommandId> {
    lookup::find_sub(id, second_arg)
}

/// Tells whether a command has subcommands.
#[inline]
pub fn is_container(id: CommandId) -> bool {
    spec(id).flags.contains(CommandFlags::CONTAINER)
}

/// Tells whether Redis counts a command among the writes, all of which a replica refuses: `SORT` and `XREADGROUP` are,
/// `PUBLISH` and scripts are not.
#[inline]
pub fn writes(id: CommandId) -> bool {
    spec(id).flags.contains(CommandFlags::WRITE)
}

/// Tells whether a command makes the server load a module or let go of one, so that it has other commands afterwards.
pub fn changes_modules(id: CommandId) -> bool {
    matches!(
        spec(id).name,
        "module|load" | "module|loadex" | "module|unload"
    )
}

/// Tells whether a command that may be any, having another name than it was born with, may leave something on its
/// connection that `RESET` does not undo, by its second word: `CLIENT NO-EVICT` (7.0), `CLIENT SETINFO`, `CLIENT CAPA`
/// and `SCRIPT DEBUG` do.
pub fn outlasts_reset(second: &[u8]) -> bool {
    ["client", "script"]
        .into_iter()
        .any(|container| lookup(container.as_bytes()).is_some_and(|id| sub(id, second).is_some()))
}

/// Tells whether a command runs a script that may write or not, as it likes.
pub fn runs_script(id: CommandId) -> bool {
    matches!(spec(id).name, "eval" | "evalsha" | "fcall")
}

/// Tells whether a request of `words` words, its name included, has as many as the command takes. Redis looks at this
/// before anything else.
pub fn takes_words(id: CommandId, words: usize) -> bool {
    arity_allows(i64::from(spec(id).arity), words)
}

fn arity_allows(arity: i64, words: usize) -> bool {
    let words = i64::try_from(words).unwrap_or(i64::MAX);
    words == arity || (arity < 0 && words >= -arity)
}

/// Tells which of the transaction commands this is, if one.
#[inline]
pub fn transaction(id: CommandId) -> Option<TransactionCommand> {
    let spec = spec(id);
    if !spec.flags.contains(CommandFlags::TRANSACTION) {
        return None;
    }
    match spec.name {
        "multi" => Some(TransactionCommand::Multi),
        "exec" => Some(TransactionCommand::Exec),
        "discard" => Some(TransactionCommand::Discard),
        "watch" => Some(TransactionCommand::Watch),
        "unwatch" => Some(TransactionCommand::Unwatch),
        _ => None,
    }
}

/// Tells whether a `BLOCK` is among the arguments of an `XREAD` or `XREADGROUP`.
///
/// A key or group of that name counts too: to lend a connection without need is only dear, to share one wrongly stops
/// everybody on it.
pub fn asks_to_block<'a>(arguments: impl IntoIterator<Item = &'a [u8]>) -> bool {
    arguments.into_iter().any(|word| same_word(word, b"block"))
}

/// Tells whether Redis takes `argument` for the option `word`, given in lower case: it ignores case and, its comparison
/// being C's, whatever follows a NUL.
pub fn same_word(argument: &[u8], word: &[u8]) -> bool {
    match argument.get(..word.len()) {
        Some(start) if start.eq_ignore_ascii_case(word) => {
            matches!(argument.get(word.len()), None | Some(0))
        }
        _ => false,
    }
}
