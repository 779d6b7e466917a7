//! Says whose the classes are, by the address from which their clients come, and when those without a connection are tried.
//!
//! Tries are dealt out by owner: whoever waits for many things waits longer for each of them, and nobody else does. Of one
//! owner those that have just begun to wait have a share of their own, since they are looked for most often.

use std::collections::BTreeMap;

use super::price::SHARE;

/// Says from where a client comes.
pub(super) type ClientAddress = u64;

/// Says whose a class is: whether it is one for waits for different things, which are not to come behind all the others, and
/// an address.
pub(super) type ClassOwner = (bool, ClientAddress);

/// Says how a class is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceLane {
    /// It is tried, and somebody of it has just begun to wait.
    Young,
    /// It is tried, and all of it have waited for a while.
    Old,
    /// It has a connection, on which its call waits.
    Calling,
}

/// Says where a class is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClassAccount {
    pub(super) owner: ClassOwner,
    pub(super) lane: ServiceLane,
}

#[derive(Debug, Default)]
struct OwnedClasses {
    young: u64,
    old: u64,
    calling: u64,
    /// The last of them is tried at these times.
    last_young: u64,
    last_old: u64,
}

impl OwnedClasses {
    fn tried(&self) -> u64 {
        self.young + self.old
    }

    fn all(&self) -> u64 {
        self.tried() + self.calling
    }

    fn of(&mut self, lane: ServiceLane) -> &mut u64 {
        match lane {
            ServiceLane::Young => &mut self.young,
            ServiceLane::Old => &mut self.old,
            ServiceLane::Calling => &mut self.calling,
        }
    }
}

/// Counts the classes of each owner.
#[derive(Debug, Default)]
pub(super) struct ClassOwners {
    by_owner: BTreeMap<ClassOwner, OwnedClasses>,
    /// This number of owners have classes that are tried.
    tried: u64,
}

impl ClassOwners {
    pub(super) fn enter(&mut self, account: ClassAccount) {
        let held = self.by_owner.entry(account.owner).or_default();
        let before = held.tried();
        *held.of(account.lane) += 1;
        self.tried += u64::from(before == 0 && held.tried() > 0);
    }

    pub(super) fn leave(&mut self, account: ClassAccount) {
        let Some(held) = self.by_owner.get_mut(&account.owner) else {
            return;
        };
        let before = held.tried();
        *held.of(account.lane) -= 1;
        self.tried -= u64::from(before > 0 && held.tried() == 0);
        if held.all() == 0 {
            self.by_owner.remove(&account.owner);
        }
    }

    /// Returns how many classes are counted for an owner.
    pub(super) fn classes(&self, owner: ClassOwner) -> u64 {
        self.by_owner.get(&owner).map_or(0, OwnedClasses::all)
    }

    /// Returns how long after a call that costs `price` a class may repeat it.
    pub(super) fn repeated(&self, account: ClassAccount, price: u64) -> u64 {
        let owners = self.by_owner.len().max(1) as u64;
        price * SHARE * owners * self.classes(account.owner).max(1)
    }

    /// Returns when a class is tried next that is to be tried every `wanted` microseconds, where a try costs `price`. The
    /// tries of one owner are spread.
    pub(super) fn next_try(
        &mut self,
        account: ClassAccount,
        price: u64,
        wanted: u64,
        now: u64,
    ) -> u64 {
        let step = price * SHARE * self.tried.max(1);
        let Some(held) = self.by_owner.get_mut(&account.owner) else {
            return now + wanted;
        };
        let (count, last) = match account.lane {
            ServiceLane::Young => (held.young, &mut held.last_young),
            ServiceLane::Old | ServiceLane::Calling => (held.old, &mut held.last_old),
        };
        // Not before its share of the time has passed, and not all at once.
        let round = (step * count.max(1)).max(wanted);
        *last = (*last + step).clamp(now + round, now + 2 * round);
        *last
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.by_owner.is_empty() && self.tried == 0
    }

    /// Returns how often each account is counted.
    #[cfg(any(test, fuzzing))]
    pub(super) fn counts(&self) -> BTreeMap<ClassOwner, [u64; 3]> {
        let each = self.by_owner.iter();
        each.map(|(owner, held)| (*owner, [held.young, held.old, held.calling]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(address: ClientAddress) -> ClassAccount {
        ClassAccount {
            owner: (false, address),
            lane: ServiceLane::Old,
        }
    }

    /// Returns how often each of `classes` is tried within `micros`, each wanted every millisecond, by address and price.
    fn tried(classes: &[(ClientAddress, u64)], micros: u64) -> Vec<u64> {
        let mut owners = ClassOwners::default();
        for (address, _) in classes {
            owners.enter(account(*address));
        }
        let mut due: Vec<u64> = classes
            .iter()
            .map(|(address, price)| owners.next_try(account(*address), *price, 1_000, 0))
            .collect();
        let mut counts = vec![0; classes.len()];
        loop {
            let next = (0..due.len()).min_by_key(|at| due[*at]).expect("some");
            let now = due[next];
            if now > micros {
                return counts;
            }
            counts[next] += 1;
            let (address, price) = classes[next];
            due[next] = owners.next_try(account(address), price, 1_000, now);
        }
    }

    proptest! {
        #[test]
        fn tries_take_no_more_than_their_share(
            classes in prop::collection::vec((0u64..4, 8u64..5_000), 1..60),
        ) {
            let micros = 20_000_000;
            let counts = tried(&classes, micros);
            let spent: u64 = counts.iter().zip(&classes).map(|(count, (_, price))| count * price).sum();
            // One each comes on top: the first.
            let first: u64 = classes.iter().map(|(_, price)| price).sum();
            prop_assert!(spent <= micros / SHARE + first, "{spent} of {micros}");
        }

        #[test]
        fn nobody_is_tried_less_often_for_what_another_address_waits_for(
            price in 8u64..100,
            greedy in prop::collection::vec(8u64..50_000, 1..200),
        ) {
            let micros = 5_000_000;
            let mut classes = vec![(1, price)];
            classes.push((2, 8));
            let beside_one = tried(&classes, micros)[0];
            classes.pop();
            classes.extend(greedy.iter().map(|price| (2, *price)));
            prop_assert_eq!(tried(&classes, micros)[0], beside_one);
        }
    }

    #[test]
    fn what_is_left_is_not_counted() {
        let mut owners = ClassOwners::default();
        for lane in [ServiceLane::Young, ServiceLane::Old, ServiceLane::Calling] {
            owners.enter(ClassAccount {
                owner: (true, 7),
                lane,
            });
        }
        assert_eq!((owners.classes((true, 7)), owners.tried), (3, 1));
        for lane in [ServiceLane::Old, ServiceLane::Calling, ServiceLane::Young] {
            owners.leave(ClassAccount {
                owner: (true, 7),
                lane,
            });
        }
        assert!(owners.is_empty());
    }
}
