//! The parts of the process, and what is wrong with each: what `/livez` goes by.
//!
//! Pure. A part that should move is judged by the looks of its judge, never by the clock: a process that was stopped for a
//! while, or a machine that slept, stops both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds the parts of the process.
#[derive(Debug, Default)]
pub struct ProcessParts(Mutex<PartTable>);

#[derive(Debug, Default)]
struct PartTable {
    rows: Vec<PartRow>,
    /// Names the first part without which the process cannot go on.
    lost: Option<String>,
}

/// Shows a part at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRow {
    pub name: String,
    /// Says what is wrong with it; `None` where it does its work.
    pub wrong: Option<String>,
}

impl ProcessParts {
    fn table(&self) -> MutexGuard<'_, PartTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the part called `name` is well, or what is wrong with it. Returns true where that is news.
    pub fn set(&self, name: &str, wrong: Option<&str>) -> bool {
        let mut table = self.table();
        let wrong = wrong.map(str::to_owned);
        match table.rows.iter_mut().find(|row| row.name == name) {
            Some(row) if row.wrong == wrong => false,
            Some(row) => {
                row.wrong = wrong;
                true
            }
            None => {
                let is_news = wrong.is_some();
                let name = name.to_owned();
                table.rows.push(PartRow { name, wrong });
                is_news
            }
        }
    }

    /// Notes that the process cannot go on without the part called `name`.
    pub fn lose(&self, name: &str, wrong: &str) {
        self.set(name, Some(wrong));
        let lost = format!("{name} {wrong}");
        self.table().lost.get_or_insert(lost);
    }

    /// Tells without which part the process cannot go on, and why.
    pub fn lost(&self) -> Option<String> {
        self.table().lost.clone()
    }

    pub fn rows(&self) -> Vec<PartRow> {
        self.table().rows.clone()
    }

    /// Says what is wrong, one line for each part that is not well.
    pub fn wrong(&self) -> Vec<String> {
        let rows = self.rows().into_iter();
        rows.filter_map(|row| Some(format!("{} {}", row.name, row.wrong?)))
            .collect()
    }

    /// Forgets a part that has ended as it was told to: nobody asks for it any more.
    fn forget(&self, name: &str) {
        let mut table = self.table();
        table
            .rows
            .retain(|row| row.name != name || row.wrong.is_some());
    }

    /// Watches a task that is a part: it is wrong once the guard is dropped by a panic.
    pub fn guard(self: &Arc<Self>, name: &str, is_vital: bool) -> PartGuard {
        self.set(name, None);
        PartGuard {
            parts: Arc::clone(self),
            name: name.to_owned(),
            is_vital,
        }
    }

    /// Watches one of many tasks that are a part together, which the process cannot go on without.
    pub fn guard_one_of(self: &Arc<Self>, name: String) -> PartGuard {
        PartGuard {
            parts: Arc::clone(self),
            name,
            is_vital: true,
        }
    }
}

/// Is held by a task for as long as it runs.
#[derive(Debug)]
pub struct PartGuard {
    parts: Arc<ProcessParts>,
    name: String,
    /// Is true where the process cannot go on without it.
    is_vital: bool,
}

impl Drop for PartGuard {
    fn drop(&mut self) {
        const PANICKED: &str = "has ended by a panic";
        match (std::thread::panicking(), self.is_vital) {
            (true, true) => self.parts.lose(&self.name, PANICKED),
            (true, false) => drop(self.parts.set(&self.name, Some(PANICKED))),
            (false, _) => self.parts.forget(&self.name),
        }
    }
}

/// Watches a counter that something advances as long as it moves, as its judge sees it.
#[derive(Debug, Default)]
pub struct Heartbeat {
    last: u64,
    still: u32,
}

impl Heartbeat {
    /// Takes a look of the judge, which finds `beats`. Returns how many looks in a row have found the same.
    pub fn look(&mut self, beats: u64) -> u32 {
        if beats == self.last {
            self.still = self.still.saturating_add(1);
        } else {
            self.last = beats;
            self.still = 0;
        }
        self.still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_stands_still_by_the_looks_of_its_judge() {
        let mut heart = Heartbeat::default();
        assert_eq!(heart.look(1), 0);
        assert_eq!((heart.look(1), heart.look(1)), (1, 2));
        assert_eq!(heart.look(2), 0, "it beats again");
        // However long both were stopped: one look is one look.
        assert_eq!(heart.look(2), 1);
    }

    #[test]
    fn news_is_told_once() {
        let parts = ProcessParts::default();
        assert!(!parts.set("worker-0", None), "well from the start");
        assert!(parts.set("worker-0", Some("stands still")));
        assert!(!parts.set("worker-0", Some("stands still")));
        assert_eq!(parts.wrong(), ["worker-0 stands still"]);
        assert!(parts.set("worker-0", None));
        assert!(parts.wrong().is_empty() && parts.lost().is_none());
    }

    #[test]
    fn what_panics_is_wrong_and_what_ends_is_not() {
        let parts = Arc::new(ProcessParts::default());
        drop(parts.guard("reload", false));
        drop(parts.guard("accepting", true));
        assert!(parts.wrong().is_empty());
        for (name, is_vital) in [("reload", false), ("accepting", true)] {
            let of_thread = Arc::clone(&parts);
            let thread = std::thread::spawn(move || {
                let _guard = of_thread.guard(name, is_vital);
                panic!("as is wanted");
            });
            assert!(thread.join().is_err());
        }
        assert_eq!(
            parts.wrong(),
            [
                "reload has ended by a panic",
                "accepting has ended by a panic"
            ]
        );
        assert_eq!(
            parts.lost().as_deref(),
            Some("accepting has ended by a panic")
        );
    }
}
