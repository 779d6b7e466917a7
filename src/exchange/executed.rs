//! The reply of EXEC, in which some elements are respool's own: the server has answered something else in their places.
//!
//! Invariant: an element is taken out of the reply whole, and every other byte is passed on as it came.

use super::block::array_of;
use crate::resp::ReplyScanner;

/// Most bytes of an element that is taken out. What the server says in such a place is a line, a list of its clients, or the
/// subscribers of as many channels as one request can name.
const MOST_ELEMENT: usize = 1024 * 1024;

/// The server's reply is not of the commands that were queued.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch;

/// What the reply consists of, one behind the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Bytes that are passed on.
    Pass(&'a [u8]),
    /// The element in the place of this number, which something else is put in for.
    Own(usize, Vec<u8>),
}

/// How far the reply has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Its first byte has not.
    Begin,
    /// It is no array: nothing has run, and all of it is passed on.
    Through,
    /// The element with this number is next, or under way.
    Element(u32),
}

/// The reply of one EXEC, cut anywhere as [`ReplyScanner`] cuts it.
#[derive(Debug)]
pub struct Executed {
    /// How many commands were queued.
    commands: u32,
    /// Which elements are taken out, in ascending order.
    places: Vec<u32>,
    /// The first of them that has not been.
    next: usize,
    stage: Stage,
    scanner: ReplyScanner,
    gathered: Vec<u8>,
}

impl Executed {
    /// The reply to EXEC of `commands` commands, of which those at `places` are taken out.
    pub fn new(commands: u32, places: Vec<u32>) -> Self {
        Self {
            commands,
            places,
            next: 0,
            stage: Stage::Begin,
            scanner: ReplyScanner::default(),
            gathered: Vec::new(),
        }
    }

    /// Hands the parts in `bytes`, which follow on those before, to `each`.
    ///
    /// # Errors
    /// [`Mismatch`] when nobody can tell which elements are whose.
    pub fn take<'a>(
        &mut self,
        bytes: &'a [u8],
        mut each: impl FnMut(Part<'a>),
    ) -> Result<(), Mismatch> {
        let (mut from, mut at) = (0, 0);
        if self.stage == Stage::Begin && !bytes.is_empty() {
            at = self.begin(bytes)?;
        }
        while at < bytes.len()
            && let Stage::Element(number) = self.stage
        {
            let is_own = self.places.get(self.next) == Some(&number);
            let step = self.scanner.advance(&bytes[at..]).map_err(|_| Mismatch)?;
            if step.used == 0 || number >= self.commands {
                return Err(Mismatch);
            }
            let end = at + step.used;
            if is_own {
                if from < at {
                    each(Part::Pass(&bytes[from..at]));
                }
                from = end;
                self.gathered.extend_from_slice(&bytes[at..end]);
                if self.gathered.len() > MOST_ELEMENT {
                    return Err(Mismatch);
                }
                if step.complete {
                    each(Part::Own(self.next, std::mem::take(&mut self.gathered)));
                    self.next += 1;
                }
            }
            if step.complete {
                self.stage = Stage::Element(number + 1);
            }
            at = end;
        }
        if from < bytes.len() {
            each(Part::Pass(&bytes[from..]));
        }
        Ok(())
    }

    /// Reads the line that tells how many elements there are. Returns where the first of them begins.
    fn begin(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let Some((count, length)) = array_of(bytes) else {
            self.stage = Stage::Through;
            return Ok(0);
        };
        if count != u64::from(self.commands) {
            return Err(Mismatch);
        }
        self.stage = Stage::Element(0);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::ELEMENTS;
    use proptest::prelude::*;

    /// What is passed on, and the elements that are taken out, by their numbers.
    type Parts = Vec<(Option<usize>, Vec<u8>)>;

    /// The parts of `reply`, which arrives cut at `cuts`, as a connection hands it over; what is passed on in one piece.
    fn parts(executed: &mut Executed, reply: &[u8], cuts: &[usize]) -> Result<Parts, Mismatch> {
        let mut parts = Parts::new();
        let (mut scanner, mut carry, mut from) = (ReplyScanner::default(), Vec::new(), 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (reply.len() + 1)).collect();
        ends.push(reply.len());
        ends.sort_unstable();
        for end in ends {
            carry.extend_from_slice(&reply[from..end]);
            from = end;
            let used = scanner.advance(&carry).unwrap().used;
            executed.take(&carry[..used], |part| match part {
                Part::Own(number, element) => parts.push((Some(number), element)),
                Part::Pass(bytes) => match parts.last_mut() {
                    Some((None, before)) => before.extend_from_slice(bytes),
                    _ => parts.push((None, bytes.to_vec())),
                },
            })?;
            carry.drain(..used);
        }
        assert!(carry.is_empty());
        Ok(parts)
    }

    proptest! {
        #[test]
        fn own_elements_are_taken_out_whole_however_the_reply_is_cut(
            elements in prop::collection::vec((0..ELEMENTS.len(), any::<bool>()), 0..12),
            cuts in prop::collection::vec(any::<usize>(), 0..30),
        ) {
            let mut reply = format!("*{}\r\n", elements.len()).into_bytes();
            let mut expected = vec![(None, reply.clone())];
            let mut places = Vec::new();
            for (number, (element, is_own)) in elements.iter().enumerate() {
                let bytes = ELEMENTS[*element].as_bytes();
                reply.extend_from_slice(bytes);
                match expected.last_mut() {
                    _ if *is_own => {
                        expected.push((Some(places.len()), bytes.to_vec()));
                        places.push(number as u32);
                    }
                    Some((None, before)) => before.extend_from_slice(bytes),
                    _ => expected.push((None, bytes.to_vec())),
                }
            }
            let mut executed = Executed::new(elements.len() as u32, places);
            prop_assert_eq!(parts(&mut executed, &reply, &cuts), Ok(expected));
        }

        #[test]
        fn what_has_not_run_is_passed_on_as_it_is(
            which in 0usize..4,
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let reply = [&b"*-1\r\n"[..], b"_\r\n", b"-EXECABORT no\r\n", b"+QUEUED\r\n"][which];
            let mut executed = Executed::new(3, vec![0, 2]);
            prop_assert_eq!(parts(&mut executed, reply, &cuts), Ok(vec![(None, reply.to_vec())]));
        }
    }

    #[test]
    fn another_number_of_elements_is_nobodys_reply() {
        for (commands, places) in [(1, vec![0]), (3, vec![2])] {
            let mut executed = Executed::new(commands, places);
            let told = parts(&mut executed, b"*2\r\n+OK\r\n+OK\r\n", &[]);
            assert_eq!(told, Err(Mismatch));
        }
    }
}
