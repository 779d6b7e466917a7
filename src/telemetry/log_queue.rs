//! Lines of the log on their way to whoever reads it: a bounded queue that drops what has no room, and counts it.
//!
//! Invariant: whoever logs never waits for whoever reads.

use std::collections::VecDeque;

/// Counts the bytes that one line takes beside its own.
const OVERHEAD: usize = 64;

/// Holds the lines that are still to be written, oldest first.
#[derive(Debug)]
pub struct LogQueue {
    lines: VecDeque<Box<[u8]>>,
    /// Counts what they take in memory, the one at the writer's hand included.
    held: usize,
    bound: usize,
    /// Counts the lines that nobody has been told of yet: dropped for want of room, or not taken by the reader.
    untold: u64,
}

impl LogQueue {
    /// Makes a queue that holds at most `bound` bytes.
    pub fn new(bound: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            held: 0,
            bound,
            untold: 0,
        }
    }

    /// Takes a line. False: there is no room, and it is dropped.
    pub fn push(&mut self, line: &[u8]) -> bool {
        let cost = line.len() + OVERHEAD;
        if self.held.saturating_add(cost) > self.bound {
            self.untold += 1;
            return false;
        }
        self.held += cost;
        self.lines.push_back(line.into());
        true
    }

    /// Hands out the next line. It keeps its room until it is [done](Self::done).
    pub fn hand_out(&mut self) -> Option<Box<[u8]>> {
        self.lines.pop_front()
    }

    /// Notes that the line that was handed out has been written, or was refused.
    pub fn done(&mut self, line: &[u8], was_written: bool) {
        self.held = self.held.saturating_sub(line.len() + OVERHEAD);
        if !was_written {
            self.untold += 1;
        }
    }

    /// Tells how many lines were lost, once the reader has taken everything else: a storm is told of when it is over.
    pub fn lost(&mut self) -> Option<u64> {
        if self.is_empty() && self.untold > 0 {
            return Some(std::mem::take(&mut self.untold));
        }
        None
    }

    /// Tells whether nothing waits and nothing is at the writer's hand.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes the next line, if there is one.
    fn write(queue: &mut LogQueue, takes: bool) -> Option<Box<[u8]>> {
        let line = queue.hand_out()?;
        queue.done(&line, takes);
        Some(line)
    }

    #[test]
    fn a_line_without_room_is_dropped_and_told_of_when_all_is_written() {
        let mut queue = LogQueue::new(2 * (OVERHEAD + 10));
        assert!(queue.push(&[b'a'; 10]) && queue.push(&[b'b'; 10]));
        assert!(!queue.push(b"c") && !queue.push(b"d"));
        assert_eq!(queue.lost(), None, "there is more to be written");
        assert_eq!(write(&mut queue, true).as_deref(), Some(&[b'a'; 10][..]));
        assert_eq!(queue.lost(), None);
        assert_eq!(write(&mut queue, true).as_deref(), Some(&[b'b'; 10][..]));
        assert_eq!((queue.lost(), queue.lost()), (Some(2), None));
    }

    #[test]
    fn a_line_at_the_writers_hand_keeps_its_room() {
        let mut queue = LogQueue::new(OVERHEAD + 10);
        assert!(queue.push(&[b'a'; 10]));
        let line = queue.hand_out().expect("a line");
        assert!(!queue.push(b"b") && !queue.is_empty());
        queue.done(&line, false);
        assert!(queue.is_empty());
        assert_eq!(queue.lost(), Some(2), "the one refused and the one dropped");
    }

    #[test]
    fn a_line_longer_than_the_whole_queue_is_dropped() {
        let mut queue = LogQueue::new(1024);
        assert!(!queue.push(&[b'x'; 1024]));
        assert!(queue.is_empty());
        assert_eq!(queue.lost(), Some(1));
    }

    proptest! {
        /// Every line is written, refused or dropped, and what is held never exceeds the bound.
        #[test]
        fn no_line_is_lost_uncounted(steps in prop::collection::vec((0_usize..3, 0_usize..200), 0..200)) {
            let mut queue = LogQueue::new(1000);
            let (mut pushed, mut written, mut told) = (0, 0, 0);
            for (step, length) in steps {
                match step {
                    0 => {
                        queue.push(&vec![b'x'; length]);
                        pushed += 1;
                    }
                    takes => written += u64::from(write(&mut queue, takes == 1).is_some() && takes == 1),
                }
                prop_assert!(queue.held <= 1000);
                told += queue.lost().unwrap_or(0);
            }
            while write(&mut queue, true).is_some() {
                written += 1;
            }
            told += queue.lost().unwrap_or(0);
            prop_assert_eq!(written + told, pushed);
            prop_assert!(queue.is_empty());
        }
    }
}
