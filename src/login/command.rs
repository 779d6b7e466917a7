//! A command of the operator that prints a secret (`upstream.password_command`).

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::config::{Secret, SecretCommand, trimmed};

/// A secret has less than this many bytes.
const LONGEST_SECRET: u64 = 64 * 1024;

/// Runs the command and returns what it printed, without the line end.
///
/// # Errors
/// The text says why there is no secret, and holds nothing of what was printed.
pub(super) async fn output(command: &SecretCommand) -> Result<Secret, String> {
    let limit = command.timeout;
    match tokio::time::timeout(limit, printed(command)).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "the command took longer than {limit:?} (upstream.password_command_timeout) and was ended"
        )),
    }
}

async fn printed(command: &SecretCommand) -> Result<Secret, String> {
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err("there is no command".to_owned());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What it says there is not known to be free of secrets, so it reaches no log.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        // What it starts itself is ended with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the command cannot be run: {error}"))?;
    let mut group = ProcessGroup(child.id());
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_SECRET as usize));
    let Some(stdout) = child.stdout.take() else {
        return Err("the command has no output".to_owned());
    };
    let mut bounded = stdout.take(LONGEST_SECRET);
    loop {
        match bounded.read_buf(&mut *text).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(format!("its output cannot be read: {error}")),
        }
    }
    // A full buffer may be the beginning of something longer, and its writer may never end.
    if text.len() as u64 == LONGEST_SECRET {
        return Err("the command printed more than 64 KiB".to_owned());
    }
    let status = child
        .wait()
        .await
        .map_err(|error| format!("the command was lost: {error}"))?;
    group.0 = None;
    if !status.success() {
        return Err(format!(
            "the command ended with {status}: run it as respool's user to see why"
        ));
    }
    match std::str::from_utf8(&text).map(trimmed) {
        Ok("") => Err("the command printed nothing".to_owned()),
        Ok(secret) => Ok(Secret::new(secret.to_owned())),
        Err(_) => Err("the command printed something that is not UTF-8".to_owned()),
    }
}

/// The processes of a command that has not ended by itself. The drop ends them.
struct ProcessGroup(Option<u32>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader.and_then(Pid::from_raw) {
            // They may all have ended.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn said(script: &str, timeout: Duration) -> Result<String, String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let secret = output(&SecretCommand { argv, timeout }).await?;
        Ok(secret.expose().to_owned())
    }

    #[tokio::test(flavor = "local")]
    async fn a_secret_is_what_a_command_prints_without_its_line_end() {
        let long = Duration::from_secs(20);
        let cases = [
            ("printf 'a b\\n'", Ok("a b")),
            ("printf 'a\\r\\n'", Ok("a")),
            ("printf 'a\\n\\n'", Ok("a\n")),
            ("true", Err("printed nothing")),
            ("echo secret; exit 3", Err("ended with exit status: 3")),
            ("printf '\\377'", Err("not UTF-8")),
            (
                "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
                Err("more than 64 KiB"),
            ),
        ];
        for (script, expected) in cases {
            match (said(script, long).await, expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected),
                (Err(why), Err(expected)) => {
                    assert!(
                        why.contains(expected) && !why.contains("secret"),
                        "{script}: {why}"
                    );
                }
                (got, _) => panic!("{script}: {got:?}"),
            }
        }
        let argv = vec!["/no/such/program".to_owned()];
        let missing = output(&SecretCommand {
            argv,
            timeout: long,
        })
        .await;
        assert!(missing.is_err_and(|why| why.starts_with("the command cannot be run")));
    }

    #[tokio::test(flavor = "local")]
    async fn a_command_that_does_not_end_is_ended() {
        let why = said("exec sleep 600", Duration::from_millis(50)).await;
        assert!(why.is_err_and(|why| why.contains("upstream.password_command_timeout")));
    }

    #[tokio::test(flavor = "local")]
    async fn what_a_command_has_started_is_ended_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (draft, told) = (dir.path().join("draft"), dir.path().join("told"));
        let (shown, moved) = (draft.display(), told.display());
        let script = format!("sleep 600 & echo $! > {shown}; mv {shown} {moved}; wait");
        let asked = tokio::task::spawn_local(async move {
            said(&script, Duration::from_secs(600)).await.is_ok()
        });
        let until = async |is_so: &dyn Fn() -> bool, what: &str| {
            for _ in 0..3000 {
                if is_so() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{what}");
        };
        until(&|| told.exists(), "it has started something").await;
        let id = std::fs::read_to_string(&told).expect("read");
        let status = format!("/proc/{}/stat", id.trim());
        let lives = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            text.contains("(sleep)") && !text.contains(") Z ")
        };
        assert!(lives());
        asked.abort();
        until(&|| !lives(), "it has ended").await;
    }
}
