//! Limits how much of handing out messages a worker does before its other clients have their turn.
//!
//! What one read of the subscription connection brings may be for thousands of clients: 64 KiB of small messages for 150
//! of them are 200,000 messages. The work is counted rather than timed, so that it is the same wherever it is measured.

/// It takes this long to place a message with one subscriber.
const PLACING_NANOS: u64 = 100;

/// A copied KiB takes this long when it is placed. From 4 KiB on messages are not copied.
const PLACED_KIB_NANOS: u64 = 100;

/// Each subscriber is given a copy of messages up to this length.
const COPIED_UP_TO: usize = 4 * 1024;

/// It takes this long to hand what was placed with a subscriber to its socket.
const HANDING_NANOS: u64 = 4_000;

/// A KiB takes this long there.
const HANDED_KIB_NANOS: u64 = 200;

/// Bounds the work of one turn: a request of another client waits for about three of them.
const TURN_NANOS: u64 = 4_000_000;

/// Counts the work done in the turn under way.
#[derive(Debug, Default)]
pub struct FanoutPace {
    spent_nanos: u64,
}

impl FanoutPace {
    /// Begins a turn, in which nothing is spent yet.
    pub fn begin(&mut self) {
        self.spent_nanos = 0;
    }

    /// Counts a message of so many bytes that was placed with so many subscribers.
    pub fn placed(&mut self, subscribers: usize, bytes: usize) {
        let copied = bytes.min(COPIED_UP_TO) as u64;
        let each = PLACING_NANOS + copied * PLACED_KIB_NANOS / 1024;
        self.spend(each.saturating_mul(subscribers as u64));
    }

    /// Counts so many bytes that were handed to the socket of a subscriber.
    pub fn handed_over(&mut self, bytes: u64) {
        self.spend(HANDING_NANOS + bytes.saturating_mul(HANDED_KIB_NANOS) / 1024);
    }

    /// Tells whether the others have their turn now.
    pub fn is_spent(&self) -> bool {
        self.spent_nanos >= TURN_NANOS
    }

    fn spend(&mut self, nanos: u64) {
        self.spent_nanos = self.spent_nanos.saturating_add(nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many messages are placed, or sockets served, in a turn.
    fn in_a_turn(mut work: impl FnMut(&mut FanoutPace)) -> usize {
        let mut pace = FanoutPace::default();
        pace.begin();
        let mut count = 0;
        while !pace.is_spent() {
            work(&mut pace);
            count += 1;
        }
        count
    }

    #[test]
    fn a_turn_is_so_long_whoever_the_messages_are_for() {
        assert!(in_a_turn(|pace| pace.placed(1, 40)) > 30_000);
        let wide = in_a_turn(|pace| pace.placed(150, 40));
        assert!((200..300).contains(&wide), "{wide}");
        assert_eq!(in_a_turn(|pace| pace.placed(100_000, 40)), 1);
        assert_eq!(in_a_turn(|pace| pace.placed(usize::MAX, usize::MAX)), 1);
    }

    #[test]
    fn large_messages_fill_a_turn_where_they_are_copied() {
        let small = in_a_turn(|pace| pace.placed(10, 40));
        let copied = in_a_turn(|pace| pace.placed(10, 4096));
        let shared = in_a_turn(|pace| pace.placed(10, 1 << 20));
        assert!(small > 3 * copied && copied == shared);
        let sockets = in_a_turn(|pace| pace.handed_over(100));
        assert!((900..=1000).contains(&sockets), "{sockets}");
        assert!(in_a_turn(|pace| pace.handed_over(1 << 20)) < 25);
    }
}
