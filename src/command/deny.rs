//! The commands that a group may not use: `deny_commands` of the configuration, as one bit for each command.

use std::fmt;

use super::{AclCategories, COUNT, CommandFlags, CommandId, Learned, lookup_full, spec};

const WORDS: usize = COUNT.div_ceil(64);

/// Holds what a group may not use. One bit tells, so that it costs nothing to ask of every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenySet {
    known: [u64; WORDS],
    unknown: DeniedNames,
    /// Names the denied categories, in lower case: of the commands that only the server knows, it says which are in
    /// them.
    categories: Vec<Vec<u8>>,
}

/// Says which of the commands that the table does not know are denied.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DeniedNames {
    /// These names are denied; they are in lower case and sorted.
    Names(Vec<Vec<u8>>),
    /// Every one is denied: `@all` was written.
    All,
}

impl Default for DeniedNames {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

/// Tells why an entry of `deny_commands` means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyError {
    /// It means an ACL category of Redis, and misspells it.
    UnknownCategory(String),
    /// It is empty, or no word: it holds a space or a control character.
    NotAName(String),
}

impl fmt::Display for DenyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCategory(entry) => {
                write!(f, "\"{entry}\" is no ACL category of Redis")?;
                match meant(entry.trim_start_matches('@')) {
                    Some(name) => write!(f, "; did you mean \"@{name}\"?"),
                    None => write!(f, "; ACL CAT lists them"),
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

/// Finds the category of Redis that somebody who wrote `name` most likely meant. The categories of modules (`@json`,
/// `@search`) resemble none.
fn meant(name: &str) -> Option<&'static str> {
    let nearest = AclCategories::ALL.iter().map(|&(known, _)| {
        let distance = strsim::damerau_levenshtein(known, name);
        (distance, known)
    });
    nearest
        .min()
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .map(|(_, known)| known)
}

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
        if let DeniedNames::Names(names) = &mut set.unknown {
            names.sort_unstable();
            names.dedup();
        }
        Ok(set)
    }

    /// Tells whether a command of the table is denied. Ask with the most exact id there is ([`super::identify`]).
    #[inline]
    pub fn denies(&self, id: CommandId) -> bool {
        self.known[usize::from(id) / 64] >> (id % 64) & 1 == 1
    }

    /// Tells whether a command that the table does not know is denied, by its name in any case and its second word,
    /// which may name a subcommand (`None`: whichever); of its categories the server has told, if it was heard.
    pub fn denies_unknown(
        &self,
        name: &[u8],
        second: Option<&[u8]>,
        learned: Option<&Learned>,
    ) -> bool {
        let is_named = match &self.unknown {
            DeniedNames::All => true,
            DeniedNames::Names(names) if names.is_empty() => false,
            DeniedNames::Names(names) => names.binary_search(&name.to_ascii_lowercase()).is_ok(),
        };
        let is_in = |learned: &Learned| {
            let mut denied = self.categories.iter();
            denied.any(|category| learned.is_in(category, name, second))
        };
        is_named || (!self.categories.is_empty() && learned.is_some_and(is_in))
    }

    /// Tells whether nothing is denied.
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
                self.unknown = DeniedNames::All;
            }
            Some(name) => {
                match (
                    AclCategories::named(name),
                    meant(&name.to_ascii_lowercase()),
                ) {
                    (Some(category), _) => self.deny_category(category),
                    (None, Some(_)) => return Err(DenyError::UnknownCategory(entry.to_owned())),
                    (None, None) => {}
                }
                self.categories.push(name.to_ascii_lowercase().into_bytes());
            }
            None => self.deny_name(entry),
        }
        Ok(())
    }

    fn deny(&mut self, id: CommandId) {
        self.known[usize::from(id) / 64] |= 1 << (id % 64);
    }

    fn deny_category(&mut self, category: AclCategories) {
        (0..COUNT as CommandId)
            .filter(|&id| spec(id).categories.intersects(category))
            .for_each(|id| self.deny(id));
    }

    fn deny_name(&mut self, name: &str) {
        let Some(id) = lookup_full(name.as_bytes()) else {
            if let DeniedNames::Names(names) = &mut self.unknown {
                names.push(name.to_ascii_lowercase().into_bytes());
            }
            return;
        };
        self.deny(id);
        if spec(id).flags.contains(CommandFlags::CONTAINER) {
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
        assert!(!set.denies_unknown(b"ft.search", None, None));
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
            let dangerous = spec(command)
                .categories
                .intersects(AclCategories::DANGEROUS);
            assert_eq!(set.denies(command), dangerous, "{}", spec(command).name);
        }
        assert!(set.denies(id("keys")) && set.denies(id("config|set")) && !set.denies(id("get")));
        assert!(!set.denies_unknown(b"ft.search", None, None));
    }

    #[test]
    fn all_denies_what_nobody_knows_too() {
        let set = DenySet::build(&["ft.search", "@all", "ft.create"]).unwrap();
        assert!((0..COUNT as CommandId).all(|id| set.denies(id)));
        assert!(set.denies_unknown(b"anything", None, None));
    }

    #[test]
    fn unknown_names_are_kept() {
        let set = DenySet::build(&["FT.Search", "bf.add", "ft.search"]).unwrap();
        assert!(
            set.denies_unknown(b"ft.SEARCH", None, None)
                && set.denies_unknown(b"BF.ADD", None, None)
        );
        assert!(!set.denies_unknown(b"ft.create", None, None));
        assert!(!set.is_empty());
    }

    #[test]
    fn categories_reach_what_only_the_server_knows() {
        let learned = Learned::from_command_reply(
            b"*2\r\n*7\r\n$9\r\nft.search\r\n:-3\r\n*1\r\n+readonly\r\n:0\r\n:0\r\n:0\r\n*2\r\n+@read\r\n+@search\r\n\
              *7\r\n$8\r\njson.set\r\n:-3\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n*2\r\n+@write\r\n+@json\r\n",
        )
        .unwrap();
        let denies = |entry: &str, name: &str| {
            let set = DenySet::build(&[entry]).unwrap();
            assert!(!set.is_empty());
            assert!(
                !set.denies_unknown(name.as_bytes(), None, None),
                "not heard yet"
            );
            set.denies_unknown(name.as_bytes(), None, Some(&learned))
        };
        assert!(denies("@search", "FT.SEARCH") && denies("@Json", "json.set"));
        assert!(
            denies("@write", "json.set"),
            "those of Redis reach modules, too"
        );
        assert!(!denies("@write", "ft.search") && !denies("@json", "ft.search"));
        assert!(learned.has_category(b"search") && !learned.has_category(b"bloom"));
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
            ]
        );
    }
}
