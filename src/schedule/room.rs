//! Keeps who waits until a connection's write buffer has room: in order of arrival, as many at a time as there is room for.
//!
//! Pure: it is told the bytes. Waking everybody at each write made one write cost the more the more there were who waited:
//! 26 microseconds with 50 clients, 154 with 6,000.

use std::collections::VecDeque;

/// Identifies a place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomTicket {
    number: u64,
    bytes: usize,
}

/// Keeps who waits for room, in order of arrival.
#[derive(Debug)]
pub struct RoomQueue<T> {
    /// The first place that is still in `places` has this number.
    first: u64,
    /// A place is empty where somebody has left.
    places: VecDeque<Option<(T, usize)>>,
    waiting: usize,
    /// Those whose turn it is and who have not come yet want this many bytes.
    promised: usize,
}

impl<T> Default for RoomQueue<T> {
    fn default() -> Self {
        Self {
            first: 0,
            places: VecDeque::new(),
            waiting: 0,
            promised: 0,
        }
    }
}

impl<T> RoomQueue<T> {
    /// Tells whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns the bytes of those whose turn it is and who have not come yet.
    #[inline]
    pub fn promised(&self) -> usize {
        self.promised
    }

    /// Has `who` wait to append about so many bytes.
    pub fn wait(&mut self, who: T, bytes: usize) -> RoomTicket {
        let number = self.first + self.places.len() as u64;
        self.places.push_back(Some((who, bytes)));
        self.waiting += 1;
        RoomTicket { number, bytes }
    }

    /// Returns whoever waits with this ticket, as long as its turn has not come.
    pub fn waiter(&mut self, ticket: RoomTicket) -> Option<&mut T> {
        let at = usize::try_from(ticket.number.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at)?.as_mut().map(|(who, _)| who)
    }

    /// Notes that one who waited has come, or has left. True: its turn had come, and what was promised to it is free again.
    pub fn settle(&mut self, ticket: RoomTicket) -> bool {
        let Some(at) = ticket.number.checked_sub(self.first) else {
            self.promised = self.promised.saturating_sub(ticket.bytes);
            return true;
        };
        if let Some(place) = usize::try_from(at)
            .ok()
            .and_then(|at| self.places.get_mut(at))
            && place.take().is_some()
        {
            self.waiting -= 1;
        }
        if self.waiting == 0 {
            self.first += self.places.len() as u64;
            self.places.clear();
        }
        false
    }

    /// Returns the next whose turn it is, with `room` bytes free; somebody always has a turn, whatever it wants to append.
    pub fn next(&mut self, room: usize) -> Option<T> {
        loop {
            let wanted = match self.places.front()? {
                Some((_, bytes)) => *bytes,
                None => 0,
            };
            if self.promised > 0 && self.promised + wanted > room {
                return None;
            }
            let place = self.places.pop_front()?;
            self.first += 1;
            let Some((who, bytes)) = place else { continue };
            self.waiting -= 1;
            self.promised += bytes;
            return Some(who);
        }
    }

    /// Returns everybody who waits, whose connection is lost.
    pub fn into_all(self) -> impl Iterator<Item = T> {
        self.places.into_iter().flatten().map(|(who, _)| who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_many_have_their_turn_as_there_is_room_for() {
        let mut queue = RoomQueue::default();
        let tickets: Vec<_> = (0..5).map(|who| queue.wait(who, 40)).collect();
        assert_eq!(queue.next(100), Some(0));
        assert_eq!(queue.next(100), Some(1));
        assert_eq!(queue.next(100), None);
        assert!(queue.settle(tickets[0]), "it has come");
        assert_eq!(queue.next(60), None, "its bytes are in the buffer now");
        assert!(!queue.settle(tickets[2]), "it leaves before its turn");
        assert!(queue.settle(tickets[1]), "it leaves in its turn");
        assert_eq!(queue.next(60), Some(3));
        assert!(queue.waiter(tickets[3]).is_none() && queue.waiter(tickets[4]).is_some());
    }

    #[test]
    fn one_that_wants_more_than_there_ever_is_has_its_turn_too() {
        let mut queue = RoomQueue::default();
        queue.wait('a', 1_000);
        assert_eq!(queue.next(10), Some('a'));
    }

    proptest! {
        #[test]
        fn turns_come_in_order_and_nobody_is_forgotten(
            steps in prop::collection::vec((0u8..4, 0usize..100, 0usize..200), 1..300),
        ) {
            let mut queue = RoomQueue::default();
            let (mut waiting, mut granted, mut count) = (VecDeque::new(), Vec::new(), 0u64);
            for (what, pick, room) in steps {
                match what {
                    0 | 1 => {
                        waiting.push_back((count, queue.wait(count, pick)));
                        count += 1;
                    }
                    2 => while let Some(who) = queue.next(room) {
                        let (first, ticket) = waiting.pop_front().expect("somebody waits");
                        prop_assert_eq!(who, first);
                        granted.push(ticket);
                    },
                    _ if pick % 2 == 0 && !granted.is_empty() => {
                        prop_assert!(queue.settle(granted.swap_remove(pick % granted.len())));
                    }
                    _ if !waiting.is_empty() => {
                        let (_, ticket) = waiting.remove(pick % waiting.len()).expect("it waits");
                        prop_assert!(!queue.settle(ticket));
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.is_empty(), waiting.is_empty());
            }
            granted.into_iter().for_each(|ticket| { queue.settle(ticket); });
            prop_assert_eq!(queue.promised(), 0);
            for (who, ticket) in waiting {
                prop_assert_eq!(queue.next(0), Some(who));
                queue.settle(ticket);
            }
        }
    }
}
