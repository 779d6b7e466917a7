//! INFO tells whether every replica has acknowledged all that was written: what WAIT answers inside MULTI is true then, whatever
//! connection it is sent on.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Upstream;
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::resp::parse_integer;
use crate::resp::speak::encode_request;
use crate::texts::{is_busy, is_loading};

/// A longer answer is not read; it has a line for each replica.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Replicas have this time to acknowledge: they do so once a second.
const LIMIT: Duration = Duration::from_secs(3);

/// Two looks at the server are this far apart.
const PAUSE: Duration = Duration::from_millis(50);

/// Holds what INFO says of replication and of the file of what was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReplicaProgress {
    /// The server has written so far; `None`: it does not say.
    written: Option<i64>,
    /// Each replica that is online has acknowledged it so far.
    replicas: Vec<i64>,
    keeps_file: bool,
    /// The server takes no commands for a while, and says this.
    refused: Option<Box<[u8]>>,
}

impl ReplicaProgress {
    /// Reads replies to `INFO replication` and `INFO persistence`.
    fn read(replies: &[u8]) -> Self {
        let mut read = Self::default();
        if is_busy(replies) || is_loading(replies) {
            let end = memchr::memchr(b'\n', replies).map_or(replies.len(), |at| at + 1);
            read.refused = Some(replies[..end].into());
            return read;
        }
        for line in replies.split(|&byte| byte == b'\n') {
            let line = line.trim_ascii_end();
            if let Some(offset) = line.strip_prefix(b"master_repl_offset:") {
                read.written = parse_integer(offset);
            } else if line.strip_prefix(b"aof_enabled:") == Some(b"1") {
                read.keeps_file = true;
            } else if line.starts_with(b"slave") {
                let is_online = memchr::memmem::find(line, b"state=online").is_some();
                let offset = memchr::memmem::find(line, b",offset=").map(|at| &line[at + 8..]);
                let digits = offset.and_then(|offset| offset.split(|&byte| byte == b',').next());
                if let Some(offset) = digits.and_then(parse_integer).filter(|_| is_online) {
                    read.replicas.push(offset);
                }
            }
        }
        read
    }

    fn have_all(&self, target: i64) -> bool {
        self.replicas.iter().all(|&offset| offset >= target)
    }
}

impl Upstream {
    /// Tells whether all replicas acknowledge within a while what has been written up to now. What is asked of files is known only where
    /// nobody keeps any.
    ///
    /// # Errors
    ///
    /// The server is busy, or answers nothing else for another reason that passes: with this.
    pub async fn is_acknowledged_by_all(self: Rc<Self>, of_files: bool) -> Result<bool, Box<[u8]>> {
        let Some(first) = self.acknowledged().await else {
            return Ok(false);
        };
        if let Some(refused) = first.refused {
            return Err(refused);
        }
        let Some(target) = first.written else {
            return Ok(false);
        };
        if of_files {
            return Ok(first.replicas.is_empty() && !first.keeps_file);
        }
        if first.have_all(target) {
            return Ok(true);
        }
        let all = async {
            loop {
                tokio::time::sleep(PAUSE).await;
                match self.acknowledged().await {
                    None => return false,
                    Some(now) if now.have_all(target) => return true,
                    Some(_) => {}
                }
            }
        };
        Ok(self.thread.within(LIMIT, all).await == Some(true))
    }

    async fn acknowledged(self: &Rc<Self>) -> Option<ReplicaProgress> {
        // Clients' users may not have the permission that respool's own has.
        let link = self.own_link().await?;
        let requests =
            ["replication", "persistence"].map(|section| encode_request(&["INFO", section]));
        let (tell, told) = oneshot::channel();
        // Whoever asked may have gone.
        let call = move |answer| drop(tell.send(answer));
        let call = OwnCall::new(requests.len(), LONGEST_ANSWER, AnswerPace::Prompt, call);
        link.send_own(&requests.concat(), OwnReply::Call(call));
        match told.await {
            Ok(Answer::Replies(replies)) => Some(ReplicaProgress::read(&replies)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replicas_have_is_read_from_info() {
        let info = b"$1\r\n# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
            slave0:ip=127.0.0.1,port=1,state=online,offset=120,lag=0,type=replica\r\n\
            slave1:ip=127.0.0.1,port=2,state=wait_bgsave,offset=0,lag=0\r\n\
            slave2:ip=127.0.0.1,port=3,state=online,offset=119,lag=1\r\n\
            master_repl_offset:120\r\n\r\n$1\r\n# Persistence\r\naof_enabled:0\r\n";
        let read = ReplicaProgress::read(info);
        assert_eq!((read.written, read.keeps_file), (Some(120), false));
        assert_eq!(read.replicas, [120, 119], "who is online");
        assert!(read.have_all(119) && !read.have_all(120));
        assert!(ReplicaProgress::read(b"aof_enabled:1\r\n").keeps_file);
        let busy = ReplicaProgress::read(b"-BUSY x\r\n-BUSY x\r\n");
        assert_eq!(busy.refused.as_deref(), Some(&b"-BUSY x\r\n"[..]));
        assert_eq!(
            ReplicaProgress::read(b"-NOPERM x\r\n"),
            ReplicaProgress::default()
        );
    }
}
