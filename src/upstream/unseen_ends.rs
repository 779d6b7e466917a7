//! Connections that the server has closed, and respool does not see it: another process holds them open.
//!
//! A server that forks hands the child every connection that it has. What it closes from then on ends for the other side only
//! when the child has ended too: the session of a script debugger lasts as long as somebody likes. The server itself counts
//! such a connection no more, so it is asked.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::pool::Upstream;
use super::traffic::{Answer, OwnReply, Pace, Then};
use crate::resp::parse_integer;
use crate::resp::speak::encode_request;

/// How many connections are asked about at once: a line of some 400 bytes is answered for each that is there still.
const MOST_ASKED: usize = 256;

/// Longest answer that is read; a server may be told names and users of its clients of any length.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// From one question to the next.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// From one question to the next while the answers tell nothing: respool's user may not list clients, or the server cannot.
/// Each such question may leave a line in the server's ACL log.
const ASK_IN_VAIN_EVERY: Duration = Duration::from_secs(60);

/// What the server's answer to a question about clients tells.
#[derive(Debug, PartialEq, Eq)]
struct Listed(HashSet<i64>);

impl Listed {
    /// Reads an answer to `CLIENT LIST ID`. `None`: it does not name `asker`, the connection on which it was asked about too, so
    /// that it tells nothing of the others either.
    fn read(answer: &[u8], asker: i64) -> Option<Self> {
        let listed: HashSet<i64> = answer
            .split(|&byte| byte == b'\n')
            .filter_map(|line| {
                // A verbatim string says first that it is text.
                let line = line.strip_prefix(b"txt:").unwrap_or(line);
                let id = line.strip_prefix(b"id=")?;
                parse_integer(id.split(|&byte| byte == b' ').next()?)
            })
            .collect();
        listed.contains(&asker).then_some(Self(listed))
    }

    /// Whether the server still has the connection of this id.
    fn names(&self, id: i64) -> bool {
        self.0.contains(&id)
    }
}

impl Upstream {
    /// Asks the server whether it still has the connections whose end is awaited for long, and lets go of those that it has
    /// closed.
    pub(super) fn ask_for_ends(self: &Rc<Self>) {
        let closings = &self.thread.closings;
        if self.is_away() || !closings.take_question(&self.thread) {
            return;
        }
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let pause = match upstream.ask_for_some_ends().await {
                Some(false) => ASK_IN_VAIN_EVERY,
                Some(true) | None => ASK_EVERY,
            };
            let now = upstream.thread.clock.refresh();
            upstream.thread.closings.set_next_question(now, pause);
        });
    }

    /// Whether the answer told anything; `None`: there was none.
    async fn ask_for_some_ends(self: &Rc<Self>) -> Option<bool> {
        // Clients' users may not have the permission that respool's own has.
        let link = self.own_link().await?;
        let closings = &self.thread.closings;
        // Another server has other clients by the same ids.
        let node = &link.origin().node;
        let ids = closings.overdue_ids(&self.thread, node, MOST_ASKED);
        if ids.is_empty() {
            return None;
        }
        let mut words = ["CLIENT", "LIST", "ID"].map(str::to_owned).to_vec();
        words.extend(ids.iter().map(i64::to_string));
        words.push(link.server_id.to_string());
        let (tell, told) = oneshot::channel();
        // Whoever asked may have ended with the process.
        let call = move |answer| drop(tell.send(answer));
        let then = Then::new(1, LONGEST_ANSWER, Pace::Prompt, call);
        link.send_own(&encode_request(&words), OwnReply::Then(then));
        let answer = match told.await {
            Ok(Answer::Replies(answer)) => answer,
            Ok(Answer::TooLarge) => return Some(false),
            Ok(Answer::Lost { .. }) | Err(_) => return None,
        };
        let Some(listed) = Listed::read(&answer, link.server_id) else {
            let passes = answer.starts_with(b"-BUSY ") || answer.starts_with(b"-LOADING ");
            return Some(passes);
        };
        let is_closed = |id: i64| ids.contains(&id) && !listed.names(id);
        let let_go = closings.let_go(node, is_closed);
        if let_go > 0 {
            tracing::info!(
                worker = self.thread.index,
                count = let_go,
                "the server has closed connections, and another process holds them open (one that it has forked, as for the \
                 debugger of a script): they count no more"
            );
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_listed_is_gone_only_where_the_asker_is() {
        let line = |id: i64| format!("id={id} addr=127.0.0.1:5 name=respool:a:pin:{id} db=0\n");
        let text = [7, 12, 5].map(line).concat();
        let plain = format!("${}\r\n{text}\r\n", text.len());
        let verbatim = format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        for answer in [plain, verbatim] {
            let listed = Listed::read(answer.as_bytes(), 5).expect("it names the asker");
            for id in [7, 12, 5] {
                assert!(listed.names(id), "{answer}");
            }
            assert!(!listed.names(1) && !listed.names(127));
            assert_eq!(Listed::read(answer.as_bytes(), 6), None, "{answer}");
        }
        for answer in [
            "$0\r\n\r\n",
            "-NOPERM id=5 \r\n",
            "-ERR syntax error\r\n",
            "",
        ] {
            assert_eq!(Listed::read(answer.as_bytes(), 5), None, "{answer}");
        }
    }
}
