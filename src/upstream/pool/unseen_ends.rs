//! The server is asked whether it has closed connections that respool does not see closed: another process holds them open.
//!
//! A server that forks hands the child every connection that it has: Redis up to 7.0 does so for a BGSAVE too. What it closes from
//! then on ends for the other side only when the child has ended too: the session of a script debugger lasts as long as somebody
//! likes. The server itself counts such a connection no more, so it is asked, by whichever worker has a connection to it.
//!
//! Invariant: only an answer of the same run of the server says anything of a connection. Another one at the same address (behind
//! a balancer, or at an address that has moved) has other clients by the same numbers, or none.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Upstream;
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::link::Link;
use crate::resp::speak::encode_request;
use crate::resp::{ReplyScanner, parse_integer};
use crate::server::{ServerInfo, UnseenEnd};
use crate::texts::{is_busy, is_loading};

/// Bounds the connections that are asked about at once: a line of some 400 bytes is answered for each that is there still.
const MOST_ASKED: usize = 256;

/// A longer answer is not read; a server may be told names and users of its clients of any length.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Two questions of a worker are this far apart.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Two questions are this far apart while the answers tell nothing: respool's user may not list clients, or the server cannot.
/// Each such question may leave a line in the server's ACL log.
const ASK_IN_VAIN_EVERY: Duration = Duration::from_secs(60);

/// Tells which of its clients the server has named.
#[derive(Debug, PartialEq, Eq)]
struct ListedClients(HashSet<i64>);

impl ListedClients {
    /// Reads the answers to `INFO server` and `CLIENT LIST ID`. `None`: they are not of the `run` that is asked, or do not name
    /// `asker`, the connection on which it was asked about too, so that they tell nothing of the others either.
    fn read(answers: &[u8], (run, asker): (Option<u64>, i64)) -> Option<Self> {
        let info = ReplyScanner::default().advance(answers).ok()?;
        let (info, list) = answers.split_at(info.used);
        if run.is_none() || ServerInfo::read(info).instance != run {
            return None;
        }
        let listed: HashSet<i64> = list
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

    /// Tells whether the server still has the connection of this id.
    fn names(&self, id: i64) -> bool {
        self.0.contains(&id)
    }
}

impl Upstream {
    /// Gives back the permits of sockets as the server closes them, which those who wait may need. When one that hung closes them,
    /// it is back.
    pub(super) async fn keep_closing(self: Rc<Self>) {
        loop {
            let closings = &self.thread.closings;
            let was_late =
                std::future::poll_fn(|cx| closings.poll_ended(cx, &self.thread.clock)).await;
            if was_late {
                self.stirred();
            }
            // At the next tick each of a hundred wrong passwords took 40 ms where the server answers in one.
            if self.schedule.borrow().waiting() > 0 && !self.is_stopping() {
                self.act();
            }
        }
    }

    /// Looks at the sockets that are being closed.
    pub(super) fn watch_closings(self: &Rc<Self>) {
        self.thread.closings.tick(&self.thread.clock);
        self.ask_for_ends();
    }

    /// Asks the server whether it still has the connections whose end is awaited for long, and lets go of those that it has
    /// closed.
    fn ask_for_ends(self: &Rc<Self>) {
        self.let_go_of_ends();
        let closings = &self.thread.closings;
        let now = self.thread.clock.now_micros();
        let is_due = now >= closings.next_question_micros.get() && !self.is_away();
        if !is_due {
            return;
        }
        let ends = self
            .thread
            .process
            .unseen_ends
            .asked_by(self.thread.index, now);
        if ends.is_empty() {
            return;
        }
        closings.next_question_micros.set(u64::MAX);
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let pause = match upstream.ask_for(ends).await {
                Some(false) => ASK_IN_VAIN_EVERY,
                Some(true) | None => ASK_EVERY,
            };
            upstream.let_go_of_ends();
            let next = upstream.thread.clock.refresh() + pause.as_micros() as u64;
            upstream.thread.closings.next_question_micros.set(next);
        });
    }

    /// Asks about `ends`. Returns whether the answer told anything; `None`: there was none.
    async fn ask_for(self: &Rc<Self>, mut ends: Vec<Arc<UnseenEnd>>) -> Option<bool> {
        let link = self.link_that_knows(&ends).await?;
        ends.retain(|end| end.is_known_at(link.origin()));
        ends.truncate(MOST_ASKED);
        if ends.is_empty() {
            return None;
        }
        self.thread.process.unseen_ends.turn(ends.len());
        let mut words = ["CLIENT", "LIST", "ID"].map(str::to_owned).to_vec();
        words.extend(ends.iter().map(|end| end.number().to_string()));
        words.push(link.server_id().to_string());
        // In one write, so that both are of one server whatever stands between.
        let mut request = encode_request(&["INFO", "server"]);
        request.extend(encode_request(&words));
        let (tell, told) = oneshot::channel();
        // Whoever asked may have ended with the process.
        let call = move |answer| drop(tell.send(answer));
        let call = OwnCall::new(2, LONGEST_ANSWER, AnswerPace::Prompt, call);
        link.send_own(&request, OwnReply::Call(call));
        let answer = match told.await {
            Ok(Answer::Replies(answer)) => answer,
            Ok(Answer::TooLarge) => return Some(false),
            Ok(Answer::Lost { .. }) | Err(_) => return None,
        };
        let Some(listed) = ListedClients::read(&answer, (link.origin().run, link.server_id()))
        else {
            let passes = is_busy(&answer) || is_loading(&answer);
            return Some(passes);
        };
        let gone = ends.iter().filter(|end| !listed.names(end.number()));
        gone.for_each(|end| end.set_gone());
        Some(true)
    }

    /// Returns a connection of respool's own user on which some of them can be asked about; clients' users may not have the permission.
    async fn link_that_knows(self: &Rc<Self>, ends: &[Arc<UnseenEnd>]) -> Option<Rc<Link>> {
        let is_nobody = self.thread.is_nobody();
        let knows = |link: &&Rc<Link>| {
            let is_usable = link.is_alive() && !link.is_changing_state() && !link.is_stalled();
            let is_own = is_nobody || link.state().user.is_none();
            is_usable && is_own && ends.iter().any(|end| end.is_known_at(link.origin()))
        };
        let found = self.links.borrow().iter().flatten().find(knows).cloned();
        match found {
            Some(link) => Some(link),
            None => self.own_link().await,
        }
    }

    /// Gives back the permits of those that the server says it has closed.
    fn let_go_of_ends(&self) {
        let count = self.thread.closings.let_go();
        if count > 0 {
            tracing::info!(
                worker = self.thread.index,
                count,
                "the server has closed connections, and another process holds them open (one that it has forked, as for a BGSAVE or \
                 the debugger of a script): they count no more"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run: &str) -> Vec<u8> {
        let text = format!("# Server\r\nredis_version:7.0.15\r\nrun_id:{run}\r\nid=1 \r\n");
        format!("${}\r\n{text}\r\n", text.len()).into_bytes()
    }

    fn run(run: &str) -> Option<u64> {
        ServerInfo::read(&info(run)).instance
    }

    #[test]
    fn who_is_not_listed_is_gone_only_where_the_asker_is() {
        let line = |id: i64| format!("id={id} addr=127.0.0.1:5 name=respool:a:pin:{id} db=0\n");
        let text = [7, 12, 5].map(line).concat();
        let plain = format!("${}\r\n{text}\r\n", text.len());
        let verbatim = format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        for answer in [plain, verbatim] {
            let answer = [info("a"), answer.into_bytes()].concat();
            let listed = ListedClients::read(&answer, (run("a"), 5)).expect("it names the asker");
            for id in [7, 12, 5] {
                assert!(listed.names(id));
            }
            assert!(!listed.names(1) && !listed.names(127));
            assert_eq!(ListedClients::read(&answer, (run("a"), 6)), None);
            // Another server, and one that is not known.
            assert_eq!(ListedClients::read(&answer, (run("b"), 5)), None);
            assert_eq!(ListedClients::read(&answer, (None, 5)), None);
        }
        for answer in [
            "$0\r\n\r\n",
            "-NOPERM id=5 \r\n",
            "-ERR syntax error\r\n",
            "",
        ] {
            let behind = [info("a"), answer.as_bytes().to_vec()].concat();
            assert_eq!(
                ListedClients::read(&behind, (run("a"), 5)),
                None,
                "{answer}"
            );
            let alone = [answer.as_bytes(), line(5).as_bytes()].concat();
            assert_eq!(ListedClients::read(&alone, (run("a"), 5)), None, "{answer}");
            assert_eq!(ListedClients::read(&alone, (None, 5)), None, "{answer}");
        }
    }
}
