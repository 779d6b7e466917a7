//! The commands that a group may not use: `deny_commands` of the configuration, as one bit for each command.

use std::fmt;

use super::{COUNT, Categories, CommandId, Flags, lookup_full, spec};

const WORDS: usize = COUNT.div_ceil(64);

/// What a group may not use. One bit tells, so that it costs nothing to ask of every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenySet {
    known: [u64; WORDS],
    unknown: Unknown,
}

/// What is denied of the commands that the table does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unknown {
    /// These names, in lower case and sorted.
    Names(Vec<Vec<u8>>),
    /// Every one: `@all` was denied.
    All,
}

impl Default for Unknown {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

/// An entry of `deny_commands` that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyError {
    /// No ACL category of Redis has this name.
    UnknownCategory(String),
    /// Empty, or no word: it holds a space or a control character.
    NotAName(String),
}

impl fmt::Display for DenyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCategory(entry) => {
                write!(f, "\"{entry}\" is no ACL category of Redis")?;
                let nearest = Categories::ALL
                    .iter()
                    .map(|&(name, _)| {
                        (
                            strsim::damerau_levenshtein(name, entry.trim_start_matches('@')),
                            name,
                        )
                    })
                    .min();
                match nearest {
                    Some((distance @ 0..=3, name)) if distance < name.len() => {
                        write!(f, "; did you mean \"@{name}\"?")
                    }
                    _ => write!(f, "; ACL CAT lists them"),
                }
            }
            Self::NotAName(entry) => {
                write!(
                    f,
                    "{entry:?} names no command; write \"name\", \"name|subcommand\" or \"@category\""
                )
            }
        }
    }
}

impl std::error::Error for DenyError {}

impl DenySet {
    /// Reads `deny_commands`: names, `name|subcommand`, `@category` and `@all`, in any case. A container's name denies
    /// all its subcommands; a name that the table does not know is kept for modules and newer servers.
    ///
    /// # Errors
    /// Every entry that means nothing, all at once.
    pub fn build<S: AsRef<str>>(entries: &[S]) -> Result<Self, Vec<DenyError>> {
        let mut set = Self::default();
        let mut errors = Vec::new();
        for entry in entries {
            if let Err(error) = set.add(entry.as_ref()) {
                errors.push(error);
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        if let Unknown::Names(names) = &mut set.unknown {
            names.sort_unstable();
            names.dedup();
        }
        Ok(set)
    }

    /// Whether a command of the table is denied. Ask with the most exact id there is ([`super::identify`]).
    #[inline]
    pub fn denies(&self, id: CommandId) -> bool {
        self.known[usize::from(id) / 64] >> (id % 64) & 1 == 1
    }

    /// Whether a command that the table does not know is denied, by its name in any case.
    pub fn denies_unknown(&self, name: &[u8]) -> bool {
        match &self.unknown {
            Unknown::All => true,
            Unknown::Names(names) if names.is_empty() => false,
            Unknown::Names(names) => names.binary_search(&name.to_ascii_lowercase()).is_ok(),
        }
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, entry: &str) -> Result<(), DenyError> {
        let is_word =
            !entry.is_empty() && !entry.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_word {
            return Err(DenyError::NotAName(entry.to_owned()));
        }
        match entry.strip_prefix('@') {
            Some(name) if name.eq_ignore_ascii_case("all") => {
                (0..COUNT as CommandId).for_each(|id| self.deny(id));
                self.unknown = Unknown::All;
            }
            Some(name) => match Categories::named(name) {
                Some(category) => self.deny_category(category),
                None => return Err(DenyError::UnknownCategory(entry.to_owned())),
            },
            None => self.deny_name(entry),
        }
        Ok(())
    }

    fn deny(&mut self, id: CommandId) {
        self.known[usize::from(id) / 64] |= 1 << (id % 64);
    }

    fn deny_category(&mut self, category: Categories) {
        (0..COUNT as CommandId)
            .filter(|&id| spec(id).categories.intersects(category))
            .for_each(|id| self.deny(id));
    }

    fn deny_name(&mut self, name: &str) {
        let Some(id) = lookup_full(name.as_bytes()) else {
            if let Unknown::Names(names) = &mut self.unknown {
                names.push(name.to_ascii_lowercase().into_bytes());
            }
            return;
        };
        self.deny(id);
        if spec(id).flags.contains(Flags::CONTAINER) {
            let prefix = format!("{}|", spec(id).name);
            (0..COUNT as CommandId)
                .filter(|&other| spec(other).name.starts_with(&prefix))
                .for_each(|other| self.deny(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> CommandId {
        lookup_full(name.as_bytes()).unwrap()
    }

    #[test]
    fn nothing_is_denied_by_default() {
        let set = DenySet::build::<&str>(&[]).unwrap();
        assert!(set.is_empty());
        assert!((0..COUNT as CommandId).all(|id| !set.denies(id)));
        assert!(!set.denies_unknown(b"ft.search"));
    }

    #[test]
    fn names_deny_commands_containers_and_subcommands() {
        let set = DenySet::build(&["FlushAll", "CONFIG", "client|KILL"]).unwrap();
        assert!(!set.is_empty());
        for name in [
            "flushall",
            "config",
            "config|get",
            "config|resetstat",
            "client|kill",
        ] {
            assert!(set.denies(id(name)), "{name}");
        }
        for name in ["flushdb", "client", "client|list", "command", "get"] {
            assert!(!set.denies(id(name)), "{name}");
        }
    }

    #[test]
    fn categories_deny_exactly_their_commands() {
        let set = DenySet::build(&["@Dangerous"]).unwrap();
        for command in 0..COUNT as CommandId {
            let dangerous = spec(command).categories.intersects(Categories::DANGEROUS);
            assert_eq!(set.denies(command), dangerous, "{}", spec(command).name);
        }
        assert!(set.denies(id("keys")) && set.denies(id("config|set")) && !set.denies(id("get")));
        assert!(!set.denies_unknown(b"ft.search"));
    }

    #[test]
    fn all_denies_what_nobody_knows_too() {
        let set = DenySet::build(&["ft.search", "@all", "ft.create"]).unwrap();
        assert!((0..COUNT as CommandId).all(|id| set.denies(id)));
        assert!(set.denies_unknown(b"anything"));
    }

    #[test]
    fn unknown_names_are_kept() {
        let set = DenySet::build(&["FT.Search", "bf.add", "ft.search"]).unwrap();
        assert!(set.denies_unknown(b"ft.SEARCH") && set.denies_unknown(b"BF.ADD"));
        assert!(!set.denies_unknown(b"ft.create"));
        assert!(!set.is_empty());
    }

    #[test]
    fn all_meaningless_entries_are_told_at_once() {
        let errors = DenySet::build(&["get", "@dangerus", "", "config get", "@nothing-like-it"])
            .unwrap_err();
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "\"@dangerus\" is no ACL category of Redis; did you mean \"@dangerous\"?",
                "\"\" names no command; write \"name\", \"name|subcommand\" or \"@category\"",
                "\"config get\" names no command; write \"name\", \"name|subcommand\" or \"@category\"",
                "\"@nothing-like-it\" is no ACL category of Redis; ACL CAT lists them",
            ]
        );
    }
}
