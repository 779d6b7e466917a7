//! A request of respool's own behind all that is due on a connection, asked when a fence could not tell: while a script does not
//! end, the server refuses the next script and the fence behind it in the same words, and a script that ran may have written both.
//!
//! Even then a server names a command that it does not know. What comes meanwhile is held: when the number, which nobody
//! else knows, comes behind exactly as many frames as are due, each of them answers what it stands for.

use super::Before;
use crate::resp::ReplyScanner;

/// Most bytes that are held: what is due then are refusals of a line each.
const MOST_HELD: usize = 16 * 1024 * 1024;

/// How every server that is supported begins its answer, whatever else it is doing; 6.2 quotes the name otherwise.
const UNKNOWN: [&[u8]; 2] = [
    b"-ERR unknown command 'respool-",
    b"-ERR unknown command `respool-",
];

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Open,
    /// What is held answers what is due, frame by frame.
    Proven,
    /// Something was written that nobody asked for.
    Refuted,
}

/// What is held, and what is looked for in it.
#[derive(Debug)]
pub struct Proof {
    number: [u8; 16],
    /// Frames that are due before the answer.
    left: usize,
    scanner: ReplyScanner,
    held: Vec<u8>,
    /// So many of these bytes belong to those frames, and in so many the number is not.
    scanned: usize,
    searched: usize,
}

impl Proof {
    /// A proof with this number, which nobody can guess, behind so many frames.
    pub fn new(number: u64, frames: usize) -> Self {
        let mut digits = [0; 16];
        digits.copy_from_slice(format!("{number:016x}").as_bytes());
        Self {
            number: digits,
            left: frames,
            scanner: ReplyScanner::default(),
            held: Vec::new(),
            scanned: 0,
            searched: 0,
        }
    }

    /// Its request: a command that no server knows.
    pub fn request(&self) -> Vec<u8> {
        [b"*1\r\n$24\r\nrespool-", &self.number[..], b"\r\n"].concat()
    }

    /// Holds what has come, and looks what it tells.
    pub fn take(&mut self, bytes: &[u8]) -> Verdict {
        self.held.extend_from_slice(bytes);
        while self.left > 0 {
            match self.scanner.advance(&self.held[self.scanned..]) {
                Err(_) => return Verdict::Refuted,
                Ok(step) => {
                    self.scanned += step.used;
                    if !step.complete {
                        break;
                    }
                    self.left -= 1;
                }
            }
        }
        let new = &self.held[self.searched..];
        let Some(found) = memchr::memmem::find(new, &self.number) else {
            self.searched = self.held.len().saturating_sub(self.number.len() - 1);
            return match self.held.len() > MOST_HELD {
                true => Verdict::Refuted,
                false => Verdict::Open,
            };
        };
        self.searched += found;
        if memchr::memmem::find(&self.held[self.searched..], b"\r\n").is_none() {
            return Verdict::Open;
        }
        let before = self.held.get(self.scanned..self.searched);
        let is_in_place = self.left == 0 && before.is_some_and(|before| UNKNOWN.contains(&before));
        match is_in_place {
            true => Verdict::Proven,
            false => Verdict::Refuted,
        }
    }

    /// What is held.
    pub fn into_held(self) -> Vec<u8> {
        self.held
    }

    /// Memory that it takes.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }
}

/// What one connection does where a fence could not tell.
#[derive(Debug, Default)]
pub enum Proving {
    /// Every fence has told.
    #[default]
    Nothing,
    /// One has not: a proof is to be sent.
    Doubt,
    /// Nobody is given anything until this is known.
    UnderWay(Proof),
    /// It is proven up to the answer to the proof, which is still to be read.
    Done,
}

impl Proving {
    /// A fence behind such a reply was answered with BUSY. Only an error can have written that.
    pub fn doubt(&mut self, before: Before) {
        if before == Before::Error && matches!(self, Self::Nothing) {
            *self = Self::Doubt;
        }
    }

    /// Whether a proof is to be sent.
    #[inline]
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Doubt)
    }

    /// Whether nobody is given anything.
    #[inline]
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::UnderWay(_))
    }

    /// It is proven. Returns what was held.
    pub fn finish(&mut self) -> Vec<u8> {
        match std::mem::replace(self, Self::Done) {
            Self::UnderWay(proof) => proof.into_held(),
            _ => Vec::new(),
        }
    }

    /// Memory that it takes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::UnderWay(proof) => proof.held_bytes(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u64 = 0x5eed_0000_c0de_1234;
    const BUSY: &[u8] = b"-BUSY Redis is busy.\r\n";

    fn answer() -> Vec<u8> {
        format!("-ERR unknown command 'respool-{NUMBER:016x}', with args beginning with: \r\n")
            .into_bytes()
    }

    /// What is known after each byte.
    fn verdicts(frames: usize, bytes: &[u8]) -> Vec<Verdict> {
        let mut proof = Proof::new(NUMBER, frames);
        bytes
            .iter()
            .map(|byte| proof.take(std::slice::from_ref(byte)))
            .collect()
    }

    #[test]
    fn as_many_frames_as_are_due_are_proven_by_the_number_behind_them() {
        let bytes = [BUSY, b"$3\r\nabc\r\n", b"*2\r\n:1\r\n:2\r\n", &answer()].concat();
        let told = verdicts(3, &bytes);
        let (last, before) = told.split_last().unwrap();
        assert_eq!(*last, Verdict::Proven);
        assert!(before.iter().all(|verdict| *verdict == Verdict::Open));
        let mut proof = Proof::new(NUMBER, 3);
        let more = [&bytes[..], b"+behind"].concat();
        assert_eq!(proof.take(&more), Verdict::Proven);
        assert_eq!(proof.into_held(), more);
    }

    #[test]
    fn anything_more_or_less_is_refuted() {
        let answer = answer();
        for (frames, before) in [
            (1, &b""[..]),
            (1, b"-BUSY x\r\n-BUSY y\r\n"),
            (0, b"$8\r\nINJECTED\r\n"),
            (1, b"$400\r\n"),
            (1, b"*9\r\n"),
            (0, b"-ERR unknown command '\r\n"),
            (2, b"+"),
        ] {
            let bytes = [before, &answer].concat();
            let told = verdicts(frames, &bytes);
            assert_eq!(
                told.last(),
                Some(&Verdict::Refuted),
                "{}",
                before.escape_ascii()
            );
            assert!(!told.contains(&Verdict::Proven));
        }
        assert!(verdicts(1, b"what is this\r\n").contains(&Verdict::Refuted));
    }

    #[test]
    fn what_is_held_has_a_bound() {
        let mut proof = Proof::new(NUMBER, 1);
        assert_eq!(proof.take(b"$900000000\r\n"), Verdict::Open);
        assert_eq!(proof.take(&vec![b'x'; MOST_HELD]), Verdict::Refuted);
    }
}
