//! What the server's own `COMMAND` says of commands that the table does not know: those of modules and newer servers.
//!
//! Read with a walker of its own: redis-protocol refuses RESP3's sets of maps, in which `COMMAND` tells key positions.

use std::fmt;

use memchr::memchr;

use super::way::{PinReason, Way};
use super::{arity_allows, lookup_full};
use crate::resp::{ReplyScanner, parse_integer};

/// Lists flags and ACL categories of commands that wait, listen, or change the connection they are sent on.
const NEEDS_ITS_OWN: [&[u8]; 6] = [
    b"blocking",
    b"pubsub",
    b"@blocking",
    b"@pubsub",
    b"@connection",
    b"@transaction",
];

/// Lists modules whose commands do not wait for others, by the start of their names: they are asked where the server
/// does not say which do.
const MODULES_THAT_DO_NOT_WAIT: [&[u8]; 10] = [
    b"json.",
    b"ft.",
    b"bf.",
    b"cf.",
    b"cms.",
    b"topk.",
    b"tdigest.",
    b"ts.",
    b"graph.",
    b"ai.",
];

/// Knows, of the commands that the table does not know, those that may not share a connection and those that write.
///
/// What the server does not know either has a connection of its own too. `COMMAND` tells the names that commands were born with
/// (`rename-command MULTI TX` leaves `multi` in it), so that it may be any command: a MULTI that others' requests would end up in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// These may not share a connection; they are in lower case and sorted.
    pinned: Vec<Vec<u8>>,
    /// These are all names but those of the table, in lower case and sorted.
    names: Vec<Vec<u8>>,
    /// Each name stands with its arity, in lower case, a subcommand as `box|put`; they are sorted.
    writes: Vec<(Vec<u8>, i64)>,
    /// Each ACL category stands without its `@` and with a name as above, in lower case; they are sorted.
    categories: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Says that the bytes are no whole reply to `COMMAND`: an error, another reply, cut short, or followed by more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCommands;

impl fmt::Display for NotCommands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server's answer to COMMAND is no list of commands")
    }
}

impl std::error::Error for NotCommands {}

impl Learned {
    /// Reads a whole reply to `COMMAND`, of RESP2 or RESP3. The caller bounds its length; memory is a part of it.
    ///
    /// # Errors
    /// [`NotCommands`] when it is none.
    pub fn from_command_reply(frame: &[u8]) -> Result<Self, NotCommands> {
        let mut reply = ReplyWalker { rest: frame };
        let (mut pinned, mut names) = (Vec::new(), Vec::new());
        let (mut writes, mut categories) = (Vec::new(), Vec::new());
        let mut tells_who_waits = false;
        for _ in 0..reply.aggregate()? {
            let entry = reply.entry(&mut writes, &mut categories)?;
            tells_who_waits |= entry.waits;
            if lookup_full(entry.name).is_some() {
                continue;
            }
            names.push(entry.name.to_ascii_lowercase());
            if entry.needs_its_own {
                pinned.push(entry.name.to_ascii_lowercase());
            }
        }
        if !reply.rest.is_empty() {
            return Err(NotCommands);
        }
        if !tells_who_waits {
            // Before Redis 7.0 not even BLPOP is said to: any command of a module may.
            let may_wait = |name: &&Vec<u8>| {
                !MODULES_THAT_DO_NOT_WAIT
                    .iter()
                    .any(|module| name.starts_with(module))
            };
            pinned.extend(names.iter().filter(may_wait).cloned());
        }
        pinned.sort_unstable();
        pinned.dedup();
        names.sort_unstable();
        names.dedup();
        writes.sort_unstable();
        writes.dedup_by(|one, other| one.0 == other.0);
        categories.sort_unstable();
        categories.dedup();
        Ok(Self {
            pinned,
            names,
            writes,
            categories,
        })
    }

    /// Tells whether a command, by its name and its second word, which may name a subcommand, is in the ACL category of
    /// this name in lower case. Without a second word it tells whether the command is with any.
    pub fn is_in(&self, category: &[u8], name: &[u8], second: Option<&[u8]>) -> bool {
        let from = self
            .categories
            .partition_point(|(known, _)| &known[..] < category);
        let members = self.categories[from..].iter();
        let mut members = members.take_while(|(known, _)| known == category);
        if members.clone().next().is_none() {
            return false;
        }
        let name = name.to_ascii_lowercase();
        let second = second.map(<[u8]>::to_ascii_lowercase);
        members.any(|(_, member)| {
            let sub = member.strip_prefix(&name[..]);
            let sub = sub.and_then(|rest| rest.strip_prefix(b"|"));
            *member == name
                || sub.is_some_and(|sub| second.as_deref().is_none_or(|second| second == sub))
        })
    }

    /// Tells whether there is a command in this category, among those that the table does not know.
    pub fn has_category(&self, category: &[u8]) -> bool {
        let found = self
            .categories
            .binary_search_by(|(known, _)| known.as_slice().cmp(category));
        found.is_ok()
    }

    /// Tells whether a request of `words` words writes, by its name and its second word, which may name a subcommand.
    /// One with too few or too many words does not: the server says so and does nothing else.
    pub fn writes(&self, name: &[u8], second: Option<&[u8]>, words: usize) -> bool {
        if self.writes.is_empty() {
            return false;
        }
        let is_known = |name: Vec<u8>| {
            let found = self.writes.binary_search_by(|(known, _)| known.cmp(&name));
            found.is_ok_and(|at| arity_allows(self.writes[at].1, words))
        };
        let name = name.to_ascii_lowercase();
        let sub = second.map(|second| [&name, &b"|"[..], &second.to_ascii_lowercase()].concat());
        sub.is_some_and(is_known) || is_known(name)
    }

    /// Tells how a command travels that [`super::lookup()`] does not know.
    pub fn way(&self, name: &[u8]) -> Way {
        if memchr(0, name).is_some() {
            // See `NamedCommand::Torn`.
            return Way::Refused;
        }
        let name = name.to_ascii_lowercase();
        if self.pinned.binary_search(&name).is_ok() {
            Way::Pinned(PinReason::Learned)
        } else if self.names.binary_search(&name).is_ok() {
            Way::Fenced
        } else {
            Way::Pinned(PinReason::Unlisted)
        }
    }
}

/// Holds one command of the reply.
struct ListedCommand<'a> {
    name: &'a [u8],
    /// Tells whether the server says that it waits for others.
    waits: bool,
    /// Tells whether the command or one of its subcommands may not share a connection.
    needs_its_own: bool,
}

/// Points at the element of an entry that holds how many words a request has.
const ARITY: u64 = 1;
/// Points at the element that holds flags.
const FLAGS: u64 = 2;
/// Points at the element that holds ACL categories, from Redis 6.0 on.
const CATEGORIES: u64 = 6;
/// Points at the element that holds subcommands, entries themselves, from Redis 7.0 on.
const SUBCOMMANDS: u64 = 9;

/// Reads a reply from its front.
struct ReplyWalker<'a> {
    rest: &'a [u8],
}

impl<'a> ReplyWalker<'a> {
    /// Reads an entry with its subcommands; of those that the table does not know the ones that write are added to
    /// `writes`, and the categories of all to `categories`.
    fn entry(
        &mut self,
        writes: &mut Vec<(Vec<u8>, i64)>,
        categories: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<ListedCommand<'a>, NotCommands> {
        let mut entry = self.entry_alone()?;
        entry.note_write(writes);
        entry.note_categories(categories);
        // Subcommands of subcommands do not exist; should they come, they are passed over.
        for _ in 0..entry.subcommands {
            let sub = self.entry_alone()?;
            entry.needs_its_own |= sub.needs_its_own;
            sub.note_write(writes);
            sub.note_categories(categories);
            for _ in 0..sub.subcommands + sub.remaining {
                self.skip()?;
            }
        }
        for _ in 0..entry.remaining {
            self.skip()?;
        }
        Ok(ListedCommand {
            name: entry.name,
            waits: entry.waits,
            needs_its_own: entry.needs_its_own,
        })
    }

    /// Reads an entry up to its subcommands.
    fn entry_alone(&mut self) -> Result<OpenedEntry<'a>, NotCommands> {
        let elements = self.aggregate()?;
        if elements <= FLAGS {
            return Err(NotCommands);
        }
        let mut opened = OpenedEntry {
            name: self.text()?,
            arity: 0,
            waits: false,
            needs_its_own: false,
            writes: false,
            categories: Vec::new(),
            subcommands: 0,
            remaining: 0,
        };
        for index in 1..elements {
            match index {
                ARITY => opened.arity = self.integer()?,
                FLAGS | CATEGORIES => {
                    for _ in 0..self.aggregate()? {
                        let word = self.text()?;
                        opened.needs_its_own |= NEEDS_ITS_OWN.contains(&word);
                        opened.waits |= word == b"blocking";
                        opened.writes |= word == b"write";
                        opened.categories.extend(word.strip_prefix(b"@"));
                    }
                }
                SUBCOMMANDS => {
                    opened.subcommands = self.aggregate()?;
                    opened.remaining = elements - index - 1;
                    break;
                }
                _ => self.skip()?,
            }
        }
        Ok(opened)
    }

    /// Reads the number of elements of the array or set that starts here.
    fn aggregate(&mut self) -> Result<u64, NotCommands> {
        match self.line()? {
            (b'*' | b'~', count) => parse_integer(count)
                .and_then(|count| u64::try_from(count).ok())
                .ok_or(NotCommands),
            _ => Err(NotCommands),
        }
    }

    /// Reads the number that starts here.
    fn integer(&mut self) -> Result<i64, NotCommands> {
        match self.line()? {
            (b':', number) => parse_integer(number).ok_or(NotCommands),
            _ => Err(NotCommands),
        }
    }

    /// Reads the simple or bulk string that starts here.
    fn text(&mut self) -> Result<&'a [u8], NotCommands> {
        match self.line()? {
            (b'+', text) => Ok(text),
            (b'$', length) => {
                let length = parse_integer(length)
                    .and_then(|length| usize::try_from(length).ok())
                    .ok_or(NotCommands)?;
                let text = self.rest.get(..length).ok_or(NotCommands)?;
                self.rest = self.rest[length..]
                    .strip_prefix(b"\r\n")
                    .ok_or(NotCommands)?;
                Ok(text)
            }
            _ => Err(NotCommands),
        }
    }

    /// Passes over one element, whatever it is.
    fn skip(&mut self) -> Result<(), NotCommands> {
        match ReplyScanner::default().advance(self.rest) {
            Ok(end) if end.complete => {
                self.rest = &self.rest[end.used..];
                Ok(())
            }
            _ => Err(NotCommands),
        }
    }

    /// Reads the kind byte and the rest of the line that starts here.
    fn line(&mut self) -> Result<(u8, &'a [u8]), NotCommands> {
        let end = memchr(b'\n', self.rest).ok_or(NotCommands)?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        match line {
            [kind, text @ .., b'\r', b'\n'] => Ok((*kind, text)),
            _ => Err(NotCommands),
        }
    }
}

/// Holds an entry of which the subcommands are still to be read.
struct OpenedEntry<'a> {
    name: &'a [u8],
    arity: i64,
    waits: bool,
    needs_its_own: bool,
    writes: bool,
    categories: Vec<&'a [u8]>,
    /// Counts the subcommands that stand next.
    subcommands: u64,
    /// Counts the elements of the entry behind them.
    remaining: u64,
}

impl OpenedEntry<'_> {
    fn note_write(&self, writes: &mut Vec<(Vec<u8>, i64)>) {
        if self.writes && lookup_full(self.name).is_none() {
            writes.push((self.name.to_ascii_lowercase(), self.arity));
        }
    }

    fn note_categories(&self, categories: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        if lookup_full(self.name).is_none() {
            let name = self.name.to_ascii_lowercase();
            let of_category = |category: &&[u8]| (category.to_ascii_lowercase(), name.clone());
            categories.extend(self.categories.iter().map(of_category));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESP2: &[u8] = b"*5\r\n\
        *10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@read\r\n+@string\r\n+@fast\r\n*0\r\n*0\r\n*0\r\n\
        *10\r\n$6\r\nBM.POP\r\n:-2\r\n*2\r\n+write\r\n+blocking\r\n:1\r\n:1\r\n:1\r\n*0\r\n*0\r\n*1\r\n*2\r\n+flags\r\n*0\r\n*0\r\n\
        *7\r\n$7\r\nmod.sub\r\n:-2\r\n*1\r\n+pubsub\r\n:0\r\n:0\r\n:0\r\n*0\r\n\
        *10\r\n$9\r\nft.search\r\n:-3\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@read\r\n*0\r\n*0\r\n*0\r\n\
        *10\r\n$3\r\nbox\r\n:-2\r\n*0\r\n:0\r\n:0\r\n:0\r\n*0\r\n*0\r\n*0\r\n*1\r\n\
          *10\r\n$8\r\nbox|hold\r\n:3\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@connection\r\n*0\r\n*0\r\n*0\r\n";

    #[test]
    fn commands_that_wait_listen_or_change_their_connection_are_pinned() {
        let learned = Learned::from_command_reply(RESP2).unwrap();
        for name in ["bm.pop", "BM.POP", "mod.sub", "box"] {
            assert_eq!(
                learned.way(name.as_bytes()),
                Way::Pinned(PinReason::Learned),
                "{name}"
            );
        }
        assert_eq!(learned.way(b"FT.Search"), Way::Fenced);
    }

    #[test]
    fn what_nobody_lists_may_be_any_command() {
        let learned = Learned::from_command_reply(RESP2).unwrap();
        for name in ["nobody.knows.it", "", "tx"] {
            let way = learned.way(name.as_bytes());
            assert_eq!(way, Way::Pinned(PinReason::Unlisted), "{name}");
        }
    }

    #[test]
    fn writes_are_known_with_their_words() {
        let learned = Learned::from_command_reply(RESP2).unwrap();
        assert!(learned.writes(b"bm.pop", None, 2) && learned.writes(b"BM.Pop", Some(b"x"), 9));
        assert!(
            !learned.writes(b"bm.pop", None, 1),
            "the server says that words are missing"
        );
        assert!(learned.writes(b"Box", Some(b"HOLD"), 3));
        assert!(
            !learned.writes(b"box", Some(b"hold"), 2) && !learned.writes(b"box", Some(b"x"), 3)
        );
        for name in ["get", "ft.search", "mod.sub", "box", "nobody.knows.it", ""] {
            assert!(!learned.writes(name.as_bytes(), Some(b"x"), 3), "{name}");
        }
    }

    #[test]
    fn categories_are_known_with_their_commands() {
        let learned = Learned::from_command_reply(RESP2).unwrap();
        assert!(learned.is_in(b"read", b"FT.Search", None));
        assert!(learned.is_in(b"read", b"ft.search", Some(b"index")));
        assert!(learned.is_in(b"connection", b"box", Some(b"HOLD")));
        assert!(learned.is_in(b"connection", b"box", None), "with some word");
        assert!(!learned.is_in(b"connection", b"box", Some(b"put")));
        assert!(!learned.is_in(b"rea", b"ft.search", None) && !learned.is_in(b"read", b"ft", None));
        // Commands of the table have the categories of the table.
        assert!(!learned.is_in(b"read", b"get", None));
        assert!(learned.has_category(b"read") && !learned.has_category(b"string"));
    }

    #[test]
    fn resp3_says_the_same_in_sets_and_maps() {
        let frame = b"*2\r\n\
            *10\r\n$6\r\nbm.pop\r\n:-2\r\n~2\r\n+write\r\n+blocking\r\n:1\r\n:1\r\n:1\r\n~0\r\n~0\r\n~1\r\n%1\r\n$5\r\nflags\r\n~1\r\n+RO\r\n*0\r\n\
            *10\r\n$6\r\nbm.set\r\n:-2\r\n~1\r\n+write\r\n:1\r\n:1\r\n:1\r\n~0\r\n~0\r\n~0\r\n*0\r\n";
        let learned = Learned::from_command_reply(frame).unwrap();
        assert_eq!(learned.way(b"bm.pop"), Way::Pinned(PinReason::Learned));
        assert_eq!(learned.way(b"bm.set"), Way::Fenced);
        assert!(learned.writes(b"bm.set", None, 2) && learned.writes(b"bm.pop", None, 2));
    }

    #[test]
    fn a_server_that_does_not_say_who_waits_is_trusted_with_known_modules_only() {
        let frame = b"*3\r\n\
            *6\r\n$5\r\nblpop\r\n:-3\r\n*2\r\n+write\r\n+noscript\r\n:1\r\n:-2\r\n:1\r\n\
            *6\r\n$6\r\nbm.pop\r\n:-2\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n\
            *6\r\n$8\r\nJSON.GET\r\n:-2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n";
        let learned = Learned::from_command_reply(frame).unwrap();
        assert_eq!(learned.way(b"bm.pop"), Way::Pinned(PinReason::Learned));
        assert_eq!(learned.way(b"json.get"), Way::Fenced);
    }

    #[test]
    fn a_name_with_a_nul_is_never_forwarded() {
        assert_eq!(Learned::default().way(b"multi\0x"), Way::Refused);
        assert_eq!(Learned::default().way(b"\0"), Way::Refused);
    }

    #[test]
    fn other_replies_are_refused() {
        for cut in 0..RESP2.len() {
            assert_eq!(
                Learned::from_command_reply(&RESP2[..cut]),
                Err(NotCommands),
                "{cut}"
            );
        }
        let followed = [RESP2, b"+OK\r\n"].concat();
        assert_eq!(Learned::from_command_reply(&followed), Err(NotCommands));
        for frame in [
            &b"-ERR unknown command 'COMMAND'\r\n"[..],
            b"*1\r\n+QUEUED\r\n",
            b"*-1\r\n",
            b"*1\r\n*0\r\n",
            b"*1\r\n*3\r\n$-1\r\n:1\r\n*0\r\n",
            b"*9223372036854775807\r\n",
        ] {
            assert_eq!(Learned::from_command_reply(frame), Err(NotCommands));
        }
        assert_eq!(
            Learned::from_command_reply(b"*0\r\n"),
            Ok(Learned::default())
        );
    }
}
