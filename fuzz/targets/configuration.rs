//! Any text is settings, or problems that name what to do: no panic, and one line for each problem.

use std::path::Path;

use respool::config::{self, MachineResources, UnixSeconds};

const FRAGMENTS: &[&[u8]] = &[
    b"\n",
    b" = ",
    b"[[listener]]\n",
    b"[[group]]\n",
    b"[upstream]\n",
    b"[limits]\n",
    b"[auth]\n",
    b"[admin]\n",
    b"[log]\n",
    b"address = \"127.0.0.1:6379\"\n",
    b"address = 'unix:/a'\n",
    b"match = { address = ['::1'], user = '*' }\n",
    b"name = 'a'\n",
    b"tls = { enabled = true, server_name = 'a' }\n",
    b"max_connections = ",
    b"shared_connections = ",
    b"workers = ",
    b"instance = '{host}-{pid}'\n",
    b"'64KiB'",
    b"'5s'",
    b"'1w2d'",
    b"99999999999999999999",
    b"-1",
    b"0x10",
    b"1.5e300",
    b"true",
    b"[1, 'x']",
    b"{}",
    b"2020-01-01",
    b"\"\"\"",
    b"'{a,b'",
];

/// Holds for any bytes.
pub(crate) fn check(data: &[u8]) {
    let bytes = with_keys(super::assemble(data, FRAGMENTS));
    let text = String::from_utf8_lossy(&bytes);
    let machine = MachineResources {
        cores: 2,
        file_descriptors: 20_000,
        memory: 1 << 30,
        host_name: "web-1".to_owned(),
        now: UnixSeconds(1_767_323_045),
    };
    let Err(problems) = config::parse(&text, Path::new("/nowhere"), &machine, &|_| None) else {
        return;
    };
    assert!(problems.count() > 0, "neither settings nor problems");
    assert_eq!(problems.to_string().lines().count(), problems.count());
    let lines = text.split('\n').count();
    for problem in &problems {
        assert!(
            !problem.what.is_empty() && !problem.remedy.is_empty(),
            "{problem:?}"
        );
        assert!(
            problem.line.is_none_or(|line| (1..=lines).contains(&line)),
            "{problem:?} of {lines} lines"
        );
        assert!(
            problem.line.is_some() || !problem.key.is_empty(),
            "{problem:?} names neither line nor key"
        );
    }
}

/// A byte past ASCII stands for the key of its number.
fn with_keys(bytes: Vec<u8>) -> Vec<u8> {
    let keys = config::keys();
    let mut found = Vec::new();
    for byte in bytes {
        match keys.get(usize::from(byte).wrapping_sub(128)) {
            Some(key) => found.extend_from_slice(key.path().as_bytes()),
            None => found.push(byte),
        }
    }
    found
}
