//! Keeps the lines of one class: who waits for each key, in order of arrival, and which outstanding pops may answer with it.

use std::collections::{BTreeMap, BTreeSet};

use super::LineKey;
use super::ids::WaiterId;

/// Says whether a key is left out of calls because of its kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum KindBar {
    #[default]
    None,
    /// It is one of the keys of a call that was refused: which of them is of another kind is not known.
    Doubted,
    /// It is of another kind.
    LeftOut,
}

/// Keeps who waits for one key, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct KeyLine {
    /// Everybody who is still there stands here.
    pub(super) living: BTreeSet<WaiterId>,
    /// This number of them have tried and found nothing.
    pub(super) waiting: usize,
    /// This number of pops have been sent that may answer with this key.
    pub(super) pops: usize,
    /// The issued call is about this key.
    pub(super) is_issued: bool,
    /// The waits of these are over, and they are not told yet.
    pub(super) ending: BTreeSet<WaiterId>,
    /// The key is of another kind, or may be: it is asked about when it is known not to be.
    bar: KindBar,
}

impl KeyLine {
    /// Is true while somebody waits for an element and another pop would not be one too many.
    fn is_awaited(&self) -> bool {
        let others = self.pops.saturating_sub(usize::from(self.is_issued));
        self.is_wanted() && others < self.living.len()
    }

    /// Is true while somebody waits for an element and the key may be asked about.
    fn is_wanted(&self) -> bool {
        self.waiting > 0 && self.bar == KindBar::None
    }

    /// Returns how many more pops would each have somebody of their own who has tried and found nothing.
    pub(super) fn room(&self) -> usize {
        if self.bar != KindBar::None {
            return 0;
        }
        let waiting = self.waiting - usize::from(self.is_issued).min(self.waiting);
        waiting.min(self.living.len().saturating_sub(self.pops))
    }

    fn is_uncovered(&self) -> bool {
        self.is_awaited() && !self.is_issued
    }

    fn is_stale(&self) -> bool {
        self.waiting == 0 && self.is_issued
    }

    /// Is true while somebody is told only when the issued call has answered.
    fn is_pressed(&self) -> bool {
        self.is_issued && !self.ending.is_empty() && self.is_needed()
    }

    /// Is true while an element might come that only one of those who are left could take.
    pub(super) fn is_needed(&self) -> bool {
        self.living.len() <= self.pops
    }

    fn is_over(&self) -> bool {
        self.living.is_empty() && self.pops == 0 && !self.is_issued
    }
}

/// Keeps the lines of one class, with all that is counted of them.
#[derive(Debug, Default)]
pub(super) struct KeyLines {
    lines: BTreeMap<LineKey, KeyLine>,
    /// Somebody who has found nothing stands in line for each of these keys, and one more of each may be asked for.
    awaited: BTreeSet<LineKey>,
    /// One of these keys is of another kind, and somebody who has found nothing stands in line for them.
    doubted: BTreeSet<LineKey>,
    /// This number of keys are left out, as known to be of another kind.
    left_out: usize,
    /// These are left out, or no longer, since they were last asked for.
    turned: Vec<LineKey>,
    wanted: usize,
    uncovered: usize,
    stale: usize,
    pressed: usize,
}

impl KeyLines {
    pub(super) fn get(&self, key: &[u8]) -> Option<&KeyLine> {
        self.lines.get(key)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn all(&self) -> impl Iterator<Item = (&LineKey, &KeyLine)> {
        self.lines.iter()
    }

    /// Changes one line, and forgets it when nobody needs it any more.
    pub(super) fn change(&mut self, key: &LineKey, change: impl FnOnce(&mut KeyLine)) {
        let line = self.lines.entry(LineKey::clone(key)).or_default();
        let (uncovered, stale) = (line.is_uncovered(), line.is_stale());
        let pressed = line.is_pressed();
        let was_awaited = line.is_awaited();
        let (was_wanted, was_barred) = (line.is_wanted(), line.bar);
        change(line);
        if line.waiting == 0 {
            // Whoever comes finds out for itself.
            line.bar = KindBar::None;
        }
        let is_awaited = line.is_awaited();
        let bar = line.bar;
        self.wanted = self.wanted + usize::from(line.is_wanted()) - usize::from(was_wanted);
        self.uncovered = self.uncovered + usize::from(line.is_uncovered()) - usize::from(uncovered);
        self.stale = self.stale + usize::from(line.is_stale()) - usize::from(stale);
        self.pressed = self.pressed + usize::from(line.is_pressed()) - usize::from(pressed);
        if line.is_over() {
            self.lines.remove(key);
        }
        match (was_awaited, is_awaited) {
            (false, true) => drop(self.awaited.insert(LineKey::clone(key))),
            (true, false) => drop(self.awaited.remove(key)),
            _ => {}
        }
        if bar != was_barred {
            match was_barred {
                KindBar::None => {}
                KindBar::Doubted => drop(self.doubted.remove(key)),
                KindBar::LeftOut => self.left_out -= 1,
            }
            match bar {
                KindBar::None => {}
                KindBar::Doubted => drop(self.doubted.insert(LineKey::clone(key))),
                KindBar::LeftOut => self.left_out += 1,
            }
            if was_barred == KindBar::LeftOut || bar == KindBar::LeftOut {
                self.turned.push(LineKey::clone(key));
            }
        }
    }

    pub(super) fn change_each(&mut self, keys: &[LineKey], mut change: impl FnMut(&mut KeyLine)) {
        keys.iter().for_each(|key| self.change(key, &mut change));
    }

    /// Notes that one of `keys` is of another kind.
    pub(super) fn doubt(&mut self, keys: &[LineKey]) {
        self.change_each(keys, |line| line.bar = KindBar::Doubted);
    }

    /// Takes a key that is left out, or in doubt, for one of another kind, as far as is known.
    pub(super) fn leave_out(&mut self, key: &LineKey) {
        self.change(key, |line| {
            if line.bar == KindBar::Doubted {
                line.bar = KindBar::LeftOut;
            }
        });
    }

    /// Notes that a key is not of another kind.
    pub(super) fn unbar(&mut self, key: &LineKey) {
        self.change(key, |line| line.bar = KindBar::None);
    }

    /// Tells whether nothing is known of the kinds of some keys but that one is of another.
    pub(super) fn has_doubted(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// Returns up to `most` of these.
    pub(super) fn doubted(&self, most: usize) -> Vec<LineKey> {
        self.doubted.iter().take(most).cloned().collect()
    }

    /// Takes each of these for one of another kind, since nothing was learnt of them.
    pub(super) fn leave_out_doubted(&mut self) {
        for key in std::mem::take(&mut self.doubted) {
            self.leave_out(&key);
        }
    }

    /// Returns how many keys are known to be left out.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Tells whether a key is known to be left out.
    pub(super) fn is_left_out(&self, key: &[u8]) -> bool {
        self.lines
            .get(key)
            .is_some_and(|line| line.bar == KindBar::LeftOut)
    }

    /// Notes that somebody has left the lines of `keys`: who they are looked at for may be another.
    pub(super) fn review(&mut self, keys: &[LineKey]) {
        let left_out = keys.iter().filter(|key| self.is_left_out(key)).cloned();
        let left_out: Vec<LineKey> = left_out.collect();
        self.turned.extend(left_out);
    }

    /// Returns the keys that are left out, or no longer, or for whom others wait, since this was last asked.
    pub(super) fn take_turned(&mut self) -> Vec<LineKey> {
        std::mem::take(&mut self.turned)
    }

    /// Tells whether somebody who has found nothing stands in line for a key that may be asked about.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// Returns the first in line for `key` who is still there.
    pub(super) fn first(&self, key: &[u8]) -> Option<WaiterId> {
        self.lines.get(key)?.living.first().copied()
    }

    /// Tells whether a key is awaited.
    pub(super) fn is_awaited(&self, key: &LineKey) -> bool {
        self.awaited.contains(key)
    }

    /// Returns how many keys are awaited.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Tells whether keys are awaited about which the issued call does not ask.
    pub(super) fn has_uncovered(&self) -> bool {
        self.uncovered > 0
    }

    /// Tells whether the issued call asks about keys nobody awaits.
    pub(super) fn has_stale(&self) -> bool {
        self.stale > 0
    }

    /// Tells whether somebody is told only when the issued call has answered.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed > 0
    }

    /// Returns up to `most` awaited keys: those behind `after` first, then from the beginning.
    pub(super) fn window(&self, after: Option<&LineKey>, most: usize) -> Vec<LineKey> {
        round(&self.awaited, after, most)
    }

    /// Returns everybody in line for one of `keys`, each once, in order of arrival.
    pub(super) fn all_for(&self, keys: &[LineKey]) -> BTreeSet<WaiterId> {
        let lines = keys.iter().filter_map(|key| self.lines.get(key));
        lines.flat_map(|line| line.living.iter().copied()).collect()
    }

    /// Tells whether one more pop of all `keys` would not be one too many.
    pub(super) fn has_room(&self, keys: &[LineKey]) -> bool {
        let mut lines = keys.iter().filter_map(|key| self.lines.get(key));
        lines.all(|line| line.pops < line.living.len())
    }

    /// Tells whether an element might come that only a waiter of `keys` could take.
    pub(super) fn needs(&self, keys: &[LineKey]) -> bool {
        let lines = keys.iter().filter_map(|key| self.lines.get(key));
        lines.into_iter().any(KeyLine::is_needed)
    }
}

/// Returns up to `most` of `keys`: those behind `after` first, then from the beginning.
fn round(keys: &BTreeSet<LineKey>, after: Option<&LineKey>, most: usize) -> Vec<LineKey> {
    if keys.len() <= most {
        return keys.iter().cloned().collect();
    }
    let Some(after) = after else {
        return keys.iter().take(most).cloned().collect();
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let behind = keys.range::<LineKey, _>((Excluded(after), Unbounded));
    let before = keys.range::<LineKey, _>((Unbounded, Included(after)));
    behind.chain(before).take(most).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> LineKey {
        name.as_bytes().into()
    }

    #[test]
    fn windows_go_round() {
        let mut lines = KeyLines::default();
        for name in ["a", "b", "c", "d", "e"] {
            lines.change(&key(name), |line| {
                line.living.insert(WaiterId(1));
                line.waiting = 1;
            });
        }
        assert_eq!(lines.window(None, 2), [key("a"), key("b")]);
        assert_eq!(lines.window(Some(&key("b")), 2), [key("c"), key("d")]);
        assert_eq!(lines.window(Some(&key("d")), 2), [key("e"), key("a")]);
        assert_eq!(lines.window(Some(&key("d")), 5).len(), 5);
    }

    #[test]
    fn what_a_call_lacks_is_known_at_any_time() {
        let mut lines = KeyLines::default();
        lines.change(&key("a"), |line| {
            line.living.insert(WaiterId(1));
            line.waiting = 1;
        });
        assert!(lines.has_uncovered());
        lines.change(&key("a"), |line| line.is_issued = true);
        assert!(!lines.has_uncovered() && !lines.has_stale());
        lines.change(&key("a"), |line| {
            line.living.clear();
            line.waiting = 0;
        });
        assert!(lines.has_stale() && lines.awaited() == 0);
        lines.change(&key("a"), |line| line.is_issued = false);
        assert!(!lines.has_stale() && lines.get(b"a").is_none());
    }
}
