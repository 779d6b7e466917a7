//! A file of hosts that cannot be read any more while the server is served from: told once, and as long as it lasts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::harness::{Redis, Respool, Value, eventually};

fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
    let removed = match is_folder {
        true => fs::remove_dir(path),
        false => fs::remove_file(path),
    };
    removed.expect("removed");
}

#[test]
fn a_hosts_file_that_cannot_be_read_is_told_as_long_as_that_lasts() {
    let redis = Redis::start(&[]);
    let dir = tempfile::tempdir().expect("a folder");
    let hosts = dir.path().join("hosts");
    let good = "127.0.0.1 redis.test\n";
    fs::write(&hosts, good).expect("written");
    let address = redis.addr();
    let (_, port) = address.rsplit_once(':').expect("a port");
    let respool = Respool::before(&format!("redis.test:{port}"))
        .upstream(&format!(
            "hosts_file = \"{}\"\nresolve_interval = \"100ms\"",
            hosts.display()
        ))
        .start();
    let mut client = respool.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), Value::ok());
    assert_eq!(respool.warnings("upstream.hosts_file"), [""; 0]);
    let path = hosts.display().to_string();
    let make = |kind: &str| match kind {
        "removed" => {}
        "folder" => fs::create_dir(&hosts).expect("made"),
        "pipe" => {
            let made = Command::new("mkfifo").arg(&hosts).status();
            assert!(made.expect("mkfifo runs").success());
        }
        "long" => {
            let file = fs::File::create(&hosts).expect("a file");
            file.set_len(40 << 20).expect("sparse");
        }
        "latin" => fs::write(&hosts, b"127.0.0.2 redis.test # f\xfcr\n").expect("written"),
        "link" => symlink(&hosts, &hosts).expect("linked"),
        kind => panic!("{kind}"),
    };
    for (kind, why) in [
        ("removed", "No such file"),
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("long", "longer than 32 MiB"),
        ("latin", "not UTF-8 in line 1"),
        ("link", "symbolic links"),
    ] {
        remove(&hosts);
        make(kind);
        let is_told = || {
            let warnings = respool.warnings("upstream.hosts_file");
            let is_it = |text: &String| text.contains(&path) && text.contains(why);
            warnings.len() == 1 && warnings.iter().all(is_it)
        };
        eventually(is_told, &format!("{kind} is told"));
        // And the connections go on.
        assert_eq!(client.cmd(&["GET", "k"]), Value::bulk("v"));
        if kind == "removed" {
            let line = format!("upstream.hosts_file {path} cannot be read: {why}");
            respool.eventually_logs(&line);
        } else {
            remove(&hosts);
        }
        fs::write(&hosts, good).expect("written");
        eventually(
            || respool.warnings("upstream.hosts_file").is_empty(),
            "it is over",
        );
    }
    respool.eventually_logs("is resolved again");
    let log = respool.log_text();
    let first = format!("{path} cannot be read: No such file");
    let lines = log.lines().filter(|line| line.contains(&first));
    // Once each time it changes, however often the name is resolved; between two kinds nothing is there for a moment.
    assert!(lines.count() <= 12, "{log}");
}
