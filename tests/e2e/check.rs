//! `respool check` refuses what `respool run` refuses, and nothing else.

use crate::harness::run_respool;

fn run(mode: &str, toml: &str) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), toml).expect("a file can be written");
    run_respool(&[mode, "--config", &file.path().display().to_string()])
}

#[test]
fn what_run_refuses_check_refuses() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("file"), "").expect("a file");
    std::fs::create_dir(dir.path().join("inner")).expect("a folder");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).expect("a link");
    let unix = |name: &str| format!("unix:{}", dir.path().join(name).display());
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("bound").port()
    };
    let listener = |address: &str| format!("[[listener]]\naddress = \"{address}\"\n");
    let cases = [
        listener(&format!("0.0.0.0:{port}")) + &listener(&format!("[::]:{port}")),
        listener(&format!("[::]:{port}")) + &listener(&format!("127.0.0.1:{port}")),
        listener(&format!("[::ffff:127.0.0.1]:{port}")) + &listener(&format!("127.0.0.1:{port}")),
        listener(&format!("127.0.0.1:{port}")) + &listener(&format!("[::ffff:127.0.0.1]:{port}")),
        listener(&format!("[::ffff:127.0.0.1]:{port}")) + &listener(&format!("0.0.0.0:{port}")),
        listener(&format!("[::ffff:0.0.0.0]:{port}")) + &listener(&format!("127.0.0.1:{port}")),
        listener(&format!("127.0.0.1:{port}")) + &listener(&format!("LOCALHOST:{port}")),
        listener(&unix("own.sock")) + &listener(&unix("inner/../own.sock")),
        listener(&unix("own.sock")) + &listener(&unix("link/own.sock")),
        listener(&unix("own.sock"))
            + &format!("[admin]\naddress = \"{}\"\n", unix("link/own.sock")),
        listener("127.0.0.1:0")
            + &format!(
                "[admin]\naddress = \"{}\"\nhealth_address = \"{}\"\n",
                unix("own.sock"),
                unix("inner/../own.sock")
            ),
        listener(&format!("[::ffff:127.0.0.1]:{port}"))
            + &format!("[admin]\naddress = \"127.0.0.1:{port}\"\n"),
        listener("127.0.0.1:0")
            + &format!(
                "[admin]\naddress = \"127.0.0.1:{port}\"\nhealth_address = \"[::ffff:127.0.0.1]:{port}\"\n"
            ),
        listener("192.0.2.77:6380"),
        listener(&unix("nothing/here.sock")),
        listener(&unix("file")),
        listener(&unix(&"x".repeat(120))),
        listener(&format!("0.0.0.0:{port}")) + &format!("[admin]\naddress = \"[::]:{port}\"\n"),
        listener("127.0.0.1:0") + "[admin]\naddress = \"192.0.2.77:9180\"\n",
        listener("127.0.0.1:0")
            + &format!("[admin]\nhealth_address = \"{}\"\n", unix("nothing/h.sock")),
        listener("127.0.0.1:0")
            + "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"/nonexistent/token\"\n",
    ];
    for case in cases {
        let toml = format!("{case}[upstream]\naddress = \"127.0.0.1:1\"\n");
        let (ran, told) = run("run", &toml);
        assert_eq!(ran, Some(1), "{toml}\n{told}");
        let (checked, told) = run("check", &toml);
        assert_eq!(checked, Some(1), "{toml}\n{told}");
        assert!(told.contains("; "), "with a remedy: {told}");
    }
}

#[test]
fn a_configuration_that_runs_already_is_good() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let toml =
        format!("[[listener]]\naddress = \"{address}\"\n[upstream]\naddress = \"127.0.0.1:1\"\n");
    let (code, told) = run("check", &toml);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("warning:") && told.contains("runs already"),
        "{told}"
    );
}
