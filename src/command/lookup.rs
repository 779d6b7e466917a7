//! From a name's bytes to its place in the table, without regard to case: one hash, one comparison of four words.

use super::CommandId;
use super::table::TABLE;

/// Counts the places of the index: a power of two, about five for each command, so that a search seldom looks twice.
const SLOTS: usize = 2048;
/// Marks a place that holds no command.
const EMPTY: u16 = u16::MAX;
/// Bounds a name that fits a key, in bytes; a subcommand's is counted without its container's.
const MAX_NAME: usize = 24;

/// A name in lower case, padded with zeros. The last word tells its length, so that a name with a NUL at its end is
/// another one, and whose subcommand it is, so that no request's first word names a subcommand.
type NameKey = [u64; 4];

/// Stands for the container of what is no subcommand.
const NO_CONTAINER: u64 = 0;

static KEYS: [NameKey; TABLE.len()] = keys();
static INDEX: [u16; SLOTS] = index();

/// Finds the command of this name, in any case.
#[inline]
pub(super) fn find(name: &[u8]) -> Option<CommandId> {
    search(name, NO_CONTAINER)
}

/// Finds the subcommand of this container that is called `name`, in any case.
#[inline]
pub(super) fn find_sub(container: CommandId, name: &[u8]) -> Option<CommandId> {
    search(name, of_container(container as usize))
}

#[inline]
fn search(name: &[u8], container: u64) -> Option<CommandId> {
    if name.len() > MAX_NAME {
        return None;
    }
    let wanted = key(name, container);
    let mut slot = slot(wanted);
    loop {
        let id = INDEX[slot];
        if id == EMPTY {
            return None;
        }
        if KEYS[id as usize] == wanted {
            return Some(id);
        }
        slot = (slot + 1) % SLOTS;
    }
}

const fn of_container(id: usize) -> u64 {
    id as u64 + 1
}

/// Makes the key of a name of at most [`MAX_NAME`] bytes.
#[inline]
const fn key(name: &[u8], container: u64) -> NameKey {
    let mut key = [0; 4];
    let mut rest = name;
    let mut word = 0;
    while let Some((eight, behind)) = rest.split_first_chunk() {
        key[word] = lower(u64::from_le_bytes(*eight));
        rest = behind;
        word += 1;
    }
    key[word] = lower(few(rest));
    key[3] = (name.len() as u64) << 56 | container;
    key
}

/// Reads up to seven bytes as the low ones of a word. It takes two loads that may overlap, rather than a copy of
/// unknown length: that made a search three times as long (33 ns instead of 11).
#[inline]
const fn few(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = (u32::from_le_bytes(*last) as u64) << (8 * (length - 4));
        return u32::from_le_bytes(*first) as u64 | last;
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = (u16::from_le_bytes(*last) as u64) << (8 * (length - 2));
        return u16::from_le_bytes(*first) as u64 | last;
    }
    match bytes {
        [byte] => *byte as u64,
        _ => 0,
    }
}

/// Lowers eight bytes at once; those outside of `A..=Z` stay as they are, as in the C locale.
const fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let past_z = low + (0x80 - b'Z' as u64 - 1) * EACH;
    let upper = (from_a ^ past_z) & !word & (0x80 * EACH);
    word | (upper >> 2)
}

const fn slot(key: NameKey) -> usize {
    let mixed = key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ key[1].wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ key[2].wrapping_mul(0x1656_67b1_9e37_79f9)
        ^ key[3].wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

const fn keys() -> [NameKey; TABLE.len()] {
    let mut keys = [[0; 4]; TABLE.len()];
    let mut id = 0;
    while id < TABLE.len() {
        let name = TABLE[id].name.as_bytes();
        let mut bar = 0;
        while bar < name.len() && name[bar] != b'|' {
            bar += 1;
        }
        keys[id] = if bar == name.len() {
            assert!(
                name.len() <= MAX_NAME,
                "a command's name is too long for its key"
            );
            key(name, NO_CONTAINER)
        } else {
            let (container, sub) = name.split_at(bar);
            let (_, sub) = sub.split_at(1);
            assert!(
                sub.len() <= MAX_NAME,
                "a subcommand's name is too long for its key"
            );
            key(sub, of_container(position(container, id)))
        };
        id += 1;
    }
    keys
}

/// Finds the place of the command `name`, which stands before `below`.
const fn position(name: &[u8], below: usize) -> usize {
    let mut id = below;
    loop {
        assert!(id > 0, "a subcommand has no container");
        id -= 1;
        let other = TABLE[id].name.as_bytes();
        let mut at = 0;
        while at < name.len() && at < other.len() && name[at] == other[at] {
            at += 1;
        }
        if at == name.len() && at == other.len() {
            return id;
        }
    }
}

const fn index() -> [u16; SLOTS] {
    assert!(
        TABLE.len() < SLOTS / 2,
        "the index is too small for the table"
    );
    let keys = keys();
    let mut index = [EMPTY; SLOTS];
    let mut id = 0;
    while id < keys.len() {
        let mut at = slot(keys[id]);
        while index[at] != EMPTY {
            at = (at + 1) % SLOTS;
        }
        index[at] = id as u16;
        id += 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn searches_are_short() {
        let longest = KEYS
            .iter()
            .enumerate()
            .map(|(id, &key)| {
                let mut at = slot(key);
                let mut looked = 1;
                while INDEX[at] != id as u16 {
                    at = (at + 1) % SLOTS;
                    looked += 1;
                }
                looked
            })
            .max();
        assert!(longest <= Some(6), "{longest:?}");
    }

    /// Returns what `find` should answer, without index or keys.
    fn expected(name: &[u8]) -> Option<CommandId> {
        let place = TABLE
            .iter()
            .position(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name));
        place
            .filter(|_| !name.contains(&b'|'))
            .map(|place| place as CommandId)
    }

    /// The name with those letters upper case whose bit is set.
    fn mixed(name: &str, upper: u32) -> Vec<u8> {
        let case = |(at, byte): (usize, u8)| match upper >> at & 1 {
            1 => byte.to_ascii_uppercase(),
            _ => byte,
        };
        name.bytes().enumerate().map(case).collect()
    }

    proptest! {
        #[test]
        fn lower_is_ascii_lower(bytes: [u8; 8]) {
            let mut expected = bytes;
            expected.make_ascii_lowercase();
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), expected);
        }

        #[test]
        fn few_are_the_low_bytes_of_a_word(bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(&bytes);
            prop_assert_eq!(few(&bytes), u64::from_le_bytes(word));
        }

        #[test]
        fn every_name_is_found_in_any_case(id in 0..TABLE.len(), upper: u32) {
            let found = match TABLE[id].name.split_once('|') {
                None => find(&mixed(TABLE[id].name, upper)),
                Some((container, name)) => find_sub(find(container.as_bytes()).unwrap(), &mixed(name, upper)),
            };
            prop_assert_eq!(found, Some(id as CommandId));
        }

        #[test]
        fn nothing_else_is_found(name in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "[a-zA-Z|_-]{1,33}".prop_map(String::into_bytes),
        ]) {
            prop_assert_eq!(find(&name), expected(&name));
        }

        #[test]
        fn a_name_with_one_byte_changed_is_another(id in 0..TABLE.len(), at in 0..31usize, byte: u8) {
            let mut name = TABLE[id].name.as_bytes().to_vec();
            if at < name.len() { name[at] = byte } else { name.push(byte) }
            prop_assert_eq!(find(&name), expected(&name));
        }
    }

    #[test]
    fn all_names_are_found_and_none_behind_another_container() {
        let containers: Vec<_> = (0..TABLE.len())
            .filter(|&id| !TABLE[id].name.contains('|'))
            .collect();
        for spec in TABLE {
            assert_eq!(find(spec.name.as_bytes()), expected(spec.name.as_bytes()));
            let (container, name) = spec.name.split_once('|').unwrap_or(("", spec.name));
            for &id in &containers {
                let found =
                    find_sub(id as CommandId, name.as_bytes()).map(|id| TABLE[id as usize].name);
                let wanted = format!("{}|{name}", TABLE[id].name);
                assert_eq!(found == Some(wanted.as_str()), found.is_some());
                if TABLE[id].name == container {
                    assert_eq!(found, Some(spec.name));
                }
            }
        }
    }
}
