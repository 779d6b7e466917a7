//! Decides when keys that are left out of calls are looked at again, and for whom.
//!
//! Each key is looked at for one of those who wait for it, its *payer*. The time that all looks take is shared by the addresses of the
//! payers, then by the payers of an address, then by the keys of a payer: whoever waits for many such keys, or for such with long names,
//! has them looked at less often, and nobody else has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::{ClassId, WaiterId};
use super::owners::ClientAddress;
use super::price::{SHARE, look};
use super::{LineKey, MIN_POLL_MICROS, POLL_MICROS};

/// Bounds the keys that are looked at again at once, and the bytes of keys in one look.
pub(super) const MAX_AGAIN: usize = 256;
pub(super) const MAX_LOOK_BYTES: usize = 64 * 1024;

/// Of those who wait for a key, this many may be its payer: those who have waited longest.
const MAX_PAYERS: usize = 16;

/// Keeps when one key is looked at, and for whom.
#[derive(Debug)]
struct LeftOutKey {
    payer: WaiterId,
    address: ClientAddress,
    /// It is looked at then; `None` while it is due, or being looked at.
    at: Option<u64>,
    /// The last look at it was due then.
    was_due: u64,
}

/// Counts those who come from one address and for whom keys are looked at.
#[derive(Debug, Default)]
struct AddressPayers {
    /// Each of them has this number of keys looked at.
    keys: BTreeMap<WaiterId, u64>,
    /// The last of these keys is looked at then.
    last: u64,
}

/// Serves some in turn, each by a number of its own, and knows who was served last.
#[derive(Debug)]
struct ServedInTurn<Number, KeyLine> {
    lines: BTreeMap<Number, KeyLine>,
    served: Option<Number>,
}

/// Keys of one class that are due, by the address and by the payer.
type DueKeys = ServedInTurn<ClientAddress, ServedInTurn<WaiterId, VecDeque<LineKey>>>;

/// Knows every key that is left out, and when it is looked at again.
#[derive(Debug, Default)]
pub(super) struct KindLooks {
    keys: BTreeMap<ClassId, BTreeMap<LineKey, LeftOutKey>>,
    times: BTreeSet<(u64, ClassId, LineKey)>,
    due: BTreeMap<ClassId, DueKeys>,
    payers: BTreeMap<ClientAddress, AddressPayers>,
}

impl KindLooks {
    /// Returns when the next key is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.times.first().map(|(at, ..)| *at)
    }

    fn looked(&mut self, class: ClassId, key: &LineKey) -> Option<&mut LeftOutKey> {
        self.keys.get_mut(&class)?.get_mut(key)
    }

    /// Returns who pays for a key.
    pub(super) fn payer(&self, class: ClassId, key: &LineKey) -> Option<WaiterId> {
        let looked = self.keys.get(&class)?.get(key)?;
        Some(looked.payer)
    }

    /// Makes whoever of `line`, who wait for a key, has the fewest to share with the payer of the key. When it is looked at
    /// does not change.
    pub(super) fn pay(
        &mut self,
        class: ClassId,
        key: &LineKey,
        line: impl Iterator<Item = (WaiterId, ClientAddress)>,
    ) {
        self.leave_payer(class, key);
        let crowd = |(waiter, address): &(WaiterId, ClientAddress)| {
            let payers = self.payers.get(address).map(|payers| &payers.keys);
            let keys = payers.and_then(|payers| payers.get(waiter));
            let others = payers.map_or(0, BTreeMap::len) as u64 + u64::from(keys.is_none());
            others * (keys.copied().unwrap_or_default() + 1)
        };
        let Some((payer, address)) = line.take(MAX_PAYERS).min_by_key(crowd) else {
            return self.leave(class, key);
        };
        let payers = self.payers.entry(address).or_default();
        *payers.keys.entry(payer).or_default() += 1;
        let of_class = self.keys.entry(class).or_default();
        let looked = of_class.entry(LineKey::clone(key)).or_insert(LeftOutKey {
            payer,
            address,
            at: None,
            was_due: 0,
        });
        (looked.payer, looked.address) = (payer, address);
    }

    fn leave_payer(&mut self, class: ClassId, key: &LineKey) {
        let Some(looked) = self.looked(class, key) else {
            return;
        };
        let (payer, address) = (looked.payer, looked.address);
        if let Some(payers) = self.payers.get_mut(&address) {
            if let Some(keys) = payers.keys.get_mut(&payer) {
                *keys -= 1;
                if *keys == 0 {
                    payers.keys.remove(&payer);
                }
            }
            if payers.keys.is_empty() {
                self.payers.remove(&address);
            }
        }
    }

    /// Forgets a key that is not left out any more.
    pub(super) fn leave(&mut self, class: ClassId, key: &LineKey) {
        self.leave_payer(class, key);
        let Some(of_class) = self.keys.get_mut(&class) else {
            return;
        };
        if let Some(at) = of_class.remove(key).and_then(|looked| looked.at) {
            self.times.remove(&(at, class, LineKey::clone(key)));
        }
        if of_class.is_empty() {
            self.keys.remove(&class);
            self.due.remove(&class);
        }
    }

    /// Has a key looked at again, in one go with so many others as make `together`.
    pub(super) fn look_later(&mut self, class: ClassId, key: &LineKey, together: usize, now: u64) {
        let addresses = self.payers.len() as u64;
        let Some(looked_at) = self.keys.get_mut(&class).and_then(|keys| keys.get_mut(key)) else {
            return;
        };
        let Some(payers) = self.payers.get_mut(&looked_at.address) else {
            return;
        };
        let keys = payers.keys.get(&looked_at.payer).copied().unwrap_or(1);
        let step = look(key.len(), together) * SHARE * addresses;
        let round = step * payers.keys.len() as u64 * keys;
        // What was looked at a little early, with others, is not looked at more often for that.
        let from = now.max(looked_at.was_due);
        let at = match round <= POLL_MICROS {
            true => from + POLL_MICROS,
            // Those of one address are spread.
            false => (payers.last + step).clamp(from + round, from + 2 * round),
        };
        payers.last = payers.last.max(at);
        if let Some(old) = looked_at.at.replace(at) {
            self.times.remove(&(old, class, LineKey::clone(key)));
        }
        self.times.insert((at, class, LineKey::clone(key)));
    }

    /// Returns the classes of which keys are due. When one is, those are that would be a little later.
    pub(super) fn fall_due(&mut self, now: u64) -> BTreeSet<ClassId> {
        let mut classes = BTreeSet::new();
        if self.next_at().is_none_or(|at| at > now) {
            return classes;
        }
        while let Some((at, ..)) = self.times.first()
            && *at <= now + MIN_POLL_MICROS
            && let Some((at, class, key)) = self.times.pop_first()
        {
            if let Some(looked) = self.looked(class, &key) {
                (looked.at, looked.was_due) = (None, at);
                let (payer, address) = (looked.payer, looked.address);
                let due = self.due.entry(class).or_default();
                let payers = due.lines.entry(address).or_default();
                payers.lines.entry(payer).or_default().push_back(key);
                classes.insert(class);
            }
        }
        classes
    }

    /// Tells whether keys of a class are due.
    pub(super) fn is_due(&self, class: ClassId) -> bool {
        self.due.contains_key(&class)
    }

    /// Takes keys of a class that are due, as many as one look takes: addresses take turns, and the payers of an address.
    pub(super) fn take(&mut self, class: ClassId) -> Vec<LineKey> {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        let Some(due) = self.due.get_mut(&class) else {
            return keys;
        };
        while let Some(address) = due.next()
            && let Some(payers) = due.lines.get_mut(&address)
            && let Some(payer) = payers.next()
            && let Some(line) = payers.lines.get_mut(&payer)
        {
            bytes += line.front().map_or(0, |key| key.len() + 1);
            if keys.len() >= MAX_AGAIN || (!keys.is_empty() && bytes > MAX_LOOK_BYTES) {
                return keys;
            }
            keys.extend(line.pop_front());
            let (is_payer_done, is_address_done) = (line.is_empty(), payers.lines.len() == 1);
            payers.serve(payer, is_payer_done);
            due.serve(address, is_payer_done && is_address_done);
        }
        self.due.remove(&class);
        keys
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            keys,
            times,
            due,
            payers,
        } = self;
        keys.is_empty() && times.is_empty() && due.is_empty() && payers.is_empty()
    }

    /// Returns how many keys each pays for, by address.
    #[cfg(any(test, fuzzing))]
    pub(super) fn counts(&self) -> BTreeMap<ClientAddress, BTreeMap<WaiterId, u64>> {
        let each = self.payers.iter();
        each.map(|(address, payers)| (*address, payers.keys.clone()))
            .collect()
    }

    /// Returns how many keys of a class are left out.
    pub(super) fn count(&self, class: ClassId) -> usize {
        self.keys.get(&class).map_or(0, BTreeMap::len)
    }
}

impl<Number, KeyLine> Default for ServedInTurn<Number, KeyLine> {
    fn default() -> Self {
        Self {
            lines: BTreeMap::new(),
            served: None,
        }
    }
}

impl<Number: Copy + Ord, KeyLine> ServedInTurn<Number, KeyLine> {
    /// Returns who is behind the one that was served last.
    fn next(&self) -> Option<Number> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = self.served.and_then(|served| {
            let mut behind = self.lines.range((Excluded(served), Unbounded));
            behind.next()
        });
        let next = behind.or_else(|| self.lines.first_key_value());
        next.map(|(number, _)| *number)
    }

    /// Notes that one has had its turn; it leaves where nothing more is due to it.
    fn serve(&mut self, number: Number, is_done: bool) {
        self.served = Some(number);
        if is_done {
            self.lines.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key that stays one of another kind has a name of so many bytes.
    #[derive(Debug, Clone)]
    struct Bad {
        bytes: usize,
        class: u64,
        waiter: u64,
        address: ClientAddress,
    }

    /// Returns when each of `bad` is looked at within `micros`, and what the server spends on it.
    fn looks(bad: &[Bad], micros: u64) -> (Vec<Vec<u64>>, u64) {
        let name = |at: usize| {
            let mut name = at.to_be_bytes().to_vec();
            name.resize(bad[at].bytes, b'k');
            LineKey::from(name)
        };
        let of = |bad: &Bad| (WaiterId(bad.waiter), bad.address);
        let mut looks = KindLooks::default();
        for (at, bad) in bad.iter().enumerate() {
            looks.pay(ClassId(bad.class), &name(at), std::iter::once(of(bad)));
        }
        for (at, bad) in bad.iter().enumerate() {
            looks.look_later(ClassId(bad.class), &name(at), 1, 0);
        }
        let (mut times, mut spent) = (vec![Vec::new(); bad.len()], 0);
        while let Some(now) = looks.next_at().filter(|now| *now <= micros) {
            for class in looks.fall_due(now) {
                while looks.is_due(class) {
                    let keys = looks.take(class);
                    spent += keys
                        .iter()
                        .map(|key| look(key.len(), keys.len()))
                        .sum::<u64>();
                    for key in &keys {
                        let at = usize::from_be_bytes(key[..8].try_into().expect("a number"));
                        times[at].push(now);
                        looks.pay(class, key, std::iter::once(of(&bad[at])));
                        looks.look_later(class, key, keys.len(), now);
                    }
                }
            }
        }
        (times, spent)
    }

    fn some() -> impl Strategy<Value = Vec<Bad>> {
        let bytes = prop_oneof![9 => 8usize..100, 1 => 8usize..40_000];
        let one = (0u64..5, 0u64..40, 1usize..60, bytes);
        let clients = prop::collection::vec(one, 1..40);
        clients.prop_map(|clients| {
            let mut all = Vec::new();
            for (class, waiter, keys, bytes) in clients {
                let bad = Bad {
                    bytes,
                    class,
                    waiter,
                    // Each comes from one address.
                    address: waiter % 4,
                };
                all.extend(std::iter::repeat_n(bad, keys));
            }
            all
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn looks_take_no_more_than_their_share(bad in some()) {
            let micros = 10_000_000;
            let (times, spent) = looks(&bad, micros);
            // One each comes on top: the first.
            let first: u64 = bad.iter().map(|bad| look(bad.bytes, 1)).sum();
            prop_assert!(spent <= (micros + MIN_POLL_MICROS) / SHARE + first, "{spent} of {micros}");
            let are_short = bad.iter().all(|bad| bad.bytes < 100);
            let is_looked_at = |times: &Vec<u64>| !times.is_empty();
            prop_assert!(!are_short || times.iter().all(is_looked_at));
        }

        #[test]
        fn nobody_is_looked_for_less_often_for_what_another_address_waits_for(
            mut bad in some(), class in 0u64..6,
        ) {
            bad.push(Bad { bytes: 8, class, waiter: 1_000, address: 4 });
            let (times, _) = looks(&bad, 2_000_000);
            let mine = times.last().expect("there is one");
            let gaps = mine.windows(2).map(|pair| pair[1] - pair[0]);
            let longest = gaps.max().expect("it is looked at again");
            prop_assert!(longest <= POLL_MICROS + MIN_POLL_MICROS, "{longest}");
        }
    }

    #[test]
    fn keys_with_long_names_are_looked_at_seldom() {
        let bytes = 700_000;
        let one = |waiter| Bad {
            bytes,
            class: 1,
            waiter,
            address: 1,
        };
        let bad: Vec<Bad> = (0..10).map(one).collect();
        let (times, _) = looks(&bad, 60_000_000);
        let looks: usize = times.iter().map(Vec::len).sum();
        // Half a gigabyte in a second is all that the server reads.
        let most = 500_000_000 / SHARE as usize * 60 / bytes;
        assert!((most / 4..=most + bad.len()).contains(&looks), "{looks}");
    }

    #[test]
    fn whoever_has_keys_that_are_due_takes_turns_in_a_look() {
        for mine in [(WaiterId(2), 2), (WaiterId(2), 1)] {
            turns_are_taken(mine);
        }
    }

    fn turns_are_taken(payer: (WaiterId, ClientAddress)) {
        let mut looks = KindLooks::default();
        let (class, mine) = (ClassId(1), LineKey::from(&b"mine"[..]));
        for at in 0..10 * MAX_AGAIN {
            let key = LineKey::from(at.to_string().as_bytes());
            looks.pay(class, &key, std::iter::once((WaiterId(1), 1)));
            looks.look_later(class, &key, 1, 0);
        }
        looks.pay(class, &mine, std::iter::once(payer));
        looks.look_later(class, &mine, 1, u64::from(u32::MAX));
        looks.fall_due(u64::MAX - MIN_POLL_MICROS);
        assert!(looks.take(class).contains(&mine), "though it is due last");
        assert_eq!(looks.take(class).len(), MAX_AGAIN);
    }

    #[test]
    fn a_key_is_looked_at_for_who_waits_for_few() {
        let mut looks = KindLooks::default();
        let (class, greedy, modest) = (ClassId(1), (WaiterId(1), 1), (WaiterId(2), 1));
        let key = |name: &str| LineKey::from(name.as_bytes());
        for name in ["a", "b", "c"] {
            looks.pay(class, &key(name), std::iter::once(greedy));
        }
        looks.pay(class, &key("d"), [greedy, modest].into_iter());
        assert_eq!(looks.payer(class, &key("d")), Some(modest.0));
        looks.pay(class, &key("d"), std::iter::empty());
        assert_eq!(looks.payer(class, &key("d")), None);
        for name in ["a", "b", "c"] {
            looks.leave(class, &key(name));
        }
        assert!(looks.is_empty());
    }
}
