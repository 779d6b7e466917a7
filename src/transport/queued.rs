//! What the kernel has for the peers of this process' sockets and they have not taken, as its tables tell.

use std::collections::HashMap;

/// Lists the tables of TCP sockets.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Counts the bytes written and not acknowledged, by the inode of the socket. Reading it for 10,000 sockets takes some
/// 10 ms: to be asked for seldom.
pub fn queued_bytes() -> HashMap<u64, u64> {
    let mut queued = HashMap::new();
    for table in TABLES {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        queued.extend(text.lines().skip(1).filter_map(row));
    }
    queued
}

/// Reads the inode and the queue of one row: `0: 0100007F:1F90 0100007F:C350 01 0000002A:00000000 00:00000000 00000000
/// 0 0 4711 ...`.
fn row(line: &str) -> Option<(u64, u64)> {
    let mut columns = line.split_ascii_whitespace().skip(4);
    let (sent, _) = columns.next()?.split_once(':')?;
    let inode = columns.nth(4)?.parse().ok()?;
    Some((inode, u64::from_str_radix(sent, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_inode_and_what_is_queued() {
        let line = "   1: 0100007F:1F90 0100007F:C350 01 0000002A:00000001 01:00000014 00000000  1000        0 4711 1 f 20 0";
        assert_eq!(row(line), Some((4711, 42)));
        assert_eq!(row("   1: 0100007F:1F90"), None);
    }
}
