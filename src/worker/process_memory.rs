//! How much memory the process has in all, as the kernel counts it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::memory::MemoryRoom;

/// Reads the kernel's figures of this process.
pub(super) struct ProcessMemory {
    figures: Option<File>,
}

impl ProcessMemory {
    /// Opens them once: reading takes 2 µs. Whoever is to measure (`measures`) says so where there are none.
    pub(super) fn of_this_process(measures: bool) -> Self {
        let figures = File::open("/proc/self/statm");
        if let (Err(error), true) = (&figures, measures) {
            tracing::warn!(
                "/proc/self/statm cannot be read ({error}): limits.max_memory counts what is held for clients alone, and not what \
                 else respool has; mount /proc, or set it lower than what respool may have"
            );
        }
        Self {
            figures: figures.ok(),
        }
    }

    /// Tells the process what it has: the first worker does with every tick, and whoever comes to hold more in between. The others
    /// go by what was seen.
    pub(super) fn measure(&self, memory: &MemoryRoom) {
        let mut text = [0; 128];
        let read = self.figures.as_ref().map(|file| file.read_at(&mut text, 0));
        if let Some(Ok(length)) = read
            && let Some((resident, mapped)) = pages(&text[..length])
        {
            let page = rustix::param::page_size() as u64;
            memory.measured(resident * page, mapped * page);
        }
    }
}

/// Returns the second figure of `/proc/self/statm`, what is resident, and the third, what of that is a file's.
fn pages(statm: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(statm).ok()?;
    let mut figures = text.split_ascii_whitespace().skip(1);
    let mut next = || figures.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_figure_is_what_is_resident_and_the_third_is_mapped() {
        assert_eq!(pages(b"2500 1723 900 300 0 500 0\n"), Some((1723, 900)));
        assert_eq!(pages(b"2500 1723"), None);
        assert_eq!(pages(b""), None);
    }
}
