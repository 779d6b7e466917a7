//! CLIENT REPLY: which requests of a client are answered, and what of EXEC's reply is shown.

use crate::command::same_word;

/// Says what CLIENT REPLY is for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplyMode {
    /// Every request is answered.
    #[default]
    On,
    /// No request is answered.
    Off,
    /// The next request is not answered.
    SkipNext,
}

impl ReplyMode {
    /// Returns the mode that CLIENT REPLY names.
    pub fn parse(word: &[u8]) -> Option<Self> {
        let modes = [
            (&b"on"[..], Self::On),
            (b"off", Self::Off),
            (b"skip", Self::SkipNext),
        ];
        let is_named = |(name, _): &&(&[u8], Self)| same_word(word, name);
        modes.iter().find(is_named).map(|&(_, mode)| mode)
    }
}

/// Says what of EXEC's reply is shown: as in Redis, CLIENT REPLY holds from its own element on, and the end of the client itself.
#[derive(Debug, Clone, Copy)]
pub struct ShownInExec {
    is_off: bool,
    skips_next: bool,
    is_closing: bool,
}

impl ShownInExec {
    /// Returns what is shown of the reply to an EXEC that is sent in this mode.
    pub fn new(mode: ReplyMode) -> Self {
        Self {
            is_off: mode != ReplyMode::On,
            skips_next: false,
            is_closing: false,
        }
    }

    /// Tells whether bytes are shown now.
    pub fn is_shown(self) -> bool {
        !self.is_off && !self.is_closing
    }

    /// Notes that CLIENT REPLY of `mode` has run.
    pub fn switch(&mut self, mode: ReplyMode) {
        match mode {
            ReplyMode::On => self.is_off = false,
            ReplyMode::Off => self.is_off = true,
            // Of the elements behind it none is skipped: the next request is.
            ReplyMode::SkipNext => self.skips_next |= !self.is_off,
        }
    }

    /// Notes that the client has ended itself: nothing behind this element is shown.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    /// Tells whether the client has ended itself.
    pub fn is_closing(self) -> bool {
        self.is_closing
    }

    /// Returns what holds behind EXEC.
    pub fn mode(self) -> ReplyMode {
        match (self.is_off, self.skips_next) {
            (true, _) => ReplyMode::Off,
            (false, true) => ReplyMode::SkipNext,
            (false, false) => ReplyMode::On,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: ReplyMode, switches: &[ReplyMode]) -> (bool, ReplyMode) {
        let mut shown = ShownInExec::new(mode);
        switches.iter().for_each(|&mode| shown.switch(mode));
        (shown.is_shown(), shown.mode())
    }

    #[test]
    fn reply_holds_from_its_place_on_and_skip_behind_exec() {
        use ReplyMode::{Off, On, SkipNext};
        assert_eq!(shown(On, &[]), (true, On));
        assert_eq!(shown(On, &[Off]), (false, Off));
        assert_eq!(shown(On, &[Off, On]), (true, On));
        assert_eq!(shown(On, &[SkipNext]), (true, SkipNext));
        assert_eq!(shown(On, &[SkipNext, On]), (true, SkipNext));
        assert_eq!(shown(On, &[Off, SkipNext, On]), (true, On));
        assert_eq!(shown(Off, &[]), (false, Off));
        assert_eq!(shown(Off, &[On]), (true, On));
        let mut closing = ShownInExec::new(On);
        closing.close();
        closing.switch(On);
        assert!(!closing.is_shown() && closing.is_closing());
    }
}
