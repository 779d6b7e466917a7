//! Who has a connection to the endpoint, and who must go when there are too many: a decision without sockets.
//!
//! Whoever comes gets a place, so that nobody who merely holds connections keeps a probe out: a probe asks as it connects,
//! and is answered at once. Only a flood of newcomers, above all from the probe's own address, may displace it before that.

use std::net::IpAddr;

/// One peer may have this part of the places.
const SHARE_OF_A_PEER: usize = 4;

/// Says who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionOrigin {
    /// It is an IP address; of IPv6 its first 64 bits, since one host can have all addresses that begin with them.
    Address(IpAddr),
    /// It is somebody on this machine, by the unix socket.
    Unix,
}

impl ConnectionOrigin {
    /// Returns the peer that has this address.
    pub(super) fn address(ip: IpAddr) -> Self {
        Self::Address(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            ip => ip,
        })
    }
}

#[derive(Debug)]
struct ConnectionPlace {
    id: u64,
    from: ConnectionOrigin,
    /// Is true once the head of its request has come.
    has_asked: bool,
}

/// Holds the connections there are, oldest first.
#[derive(Debug)]
pub(super) struct EndpointPlaces {
    most: usize,
    taken: Vec<ConnectionPlace>,
    next: u64,
}

impl EndpointPlaces {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Vec::new(),
            next: 0,
        }
    }

    /// Takes in a connection. Returns its number, and that of the one that must go for it.
    ///
    /// Of a peer that has a quarter of all places one of its own goes; else, when there is none left, one of the peer that has the most:
    /// first one that has not said what it wants, and of those the oldest.
    pub(super) fn take(&mut self, from: ConnectionOrigin) -> (u64, Option<u64>) {
        let of = |peer: ConnectionOrigin| {
            self.taken
                .iter()
                .filter(move |place| place.from == peer)
                .count()
        };
        let share = (self.most / SHARE_OF_A_PEER).max(1);
        let candidates = self.taken.iter().filter(|place| match of(from) >= share {
            true => place.from == from,
            false => self.taken.len() >= self.most,
        });
        let gone = candidates
            .min_by_key(|place| (std::cmp::Reverse(of(place.from)), place.has_asked, place.id))
            .map(|place| place.id);
        if let Some(gone) = gone {
            self.leave(gone);
        }
        let id = self.next;
        self.next += 1;
        self.taken.push(ConnectionPlace {
            id,
            from,
            has_asked: false,
        });
        (id, gone)
    }

    /// Notes that the head of a connection's request has come.
    pub(super) fn asked(&mut self, id: u64) {
        if let Some(place) = self.taken.iter_mut().find(|place| place.id == id) {
            place.has_asked = true;
        }
    }

    /// Forgets a connection that has ended.
    pub(super) fn leave(&mut self, id: u64) {
        self.taken.retain(|place| place.id != id);
    }

    /// Sets how many there may be.
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(last: u8) -> ConnectionOrigin {
        ConnectionOrigin::address(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn whoever_comes_gets_a_place_and_the_oldest_of_its_own_goes() {
        let mut places = EndpointPlaces::new(8);
        let (first, gone) = places.take(peer(1));
        assert_eq!(gone, None);
        let (second, gone) = places.take(peer(1));
        assert_eq!(gone, None, "a quarter of eight");
        assert_eq!(places.take(peer(1)).1, Some(first));
        places.asked(second);
        // The one that has asked stays for as long as another has not.
        assert_eq!(places.take(peer(1)).1, Some(first + 2));
        assert_eq!(places.take(peer(2)).1, None);
    }

    #[test]
    fn when_all_is_taken_whoever_has_the_most_gives() {
        let mut places = EndpointPlaces::new(4);
        let first = places.take(peer(1)).0;
        let rest: Vec<u64> = (2..=4).map(|last| places.take(peer(last)).0).collect();
        assert_eq!(places.take(peer(5)).1, Some(first));
        places.leave(rest[0]);
        assert_eq!(places.take(peer(6)).1, None);
    }

    #[test]
    fn a_host_is_one_peer_whatever_addresses_it_has() {
        let same = |one: &str, other: &str| {
            let [one, other] =
                [one, other].map(|text| ConnectionOrigin::address(text.parse().expect("an IP")));
            one == other
        };
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1") && !same("10.0.0.1", "10.0.0.2"));
    }

    proptest! {
        /// The newcomer always has a place, no bound is ever passed, and nobody goes while there is room.
        #[test]
        fn bounds_hold_and_the_newcomer_stays(
            most in 1_usize..40,
            steps in prop::collection::vec((0_u8..3, 0_u8..6), 0..300),
        ) {
            let mut places = EndpointPlaces::new(most);
            for (step, last) in steps {
                let of = |places: &EndpointPlaces| places.taken.iter().filter(|place| place.from == peer(last)).count();
                match step {
                    0 | 1 => {
                        let (before, own) = (places.taken.len(), of(&places));
                        let (id, gone) = places.take(peer(last));
                        prop_assert!(places.taken.iter().any(|place| place.id == id));
                        prop_assert_eq!(gone.is_some(), before >= most || own >= (most / 4).max(1));
                        prop_assert!(of(&places) <= (most / 4).max(1));
                    }
                    _ => {
                        if let Some(id) = places.taken.first().map(|place| place.id) {
                            places.asked(id);
                            places.leave(id);
                        }
                    }
                }
                prop_assert!(places.taken.len() <= most);
            }
        }
    }
}
