//! `CLIENT PAUSE` and `CLIENT UNPAUSE`: what the server has taken of them is known to every worker, so that reads pass paused
//! writes by and nobody takes the silence for the server's end.

use std::rc::Rc;
use std::sync::Arc;

use super::story::Awaited;
use super::{Client, Next, Wait};
use crate::command::{CommandId, Delays, same_word};
use crate::link::Link;
use crate::resp::{Request, parse_integer};
use crate::server::TakenPause;
use crate::telemetry::Disconnect;
use crate::thread::Process;

/// Says what a client asks for.
#[derive(Debug, PartialEq, Eq)]
enum Pause {
    /// It holds back every command for so many milliseconds (`CLIENT PAUSE`).
    All(u64),
    /// It holds back writes for so many.
    Writes(u64),
    /// It holds back nothing any more.
    Over,
}

impl Pause {
    /// `None`: the server will not take it.
    fn asked(request: &Request<'_>) -> Option<Self> {
        let mut words = request.arguments().skip(1);
        let verb = words.next()?;
        if same_word(verb, b"unpause") {
            return Some(Self::Over);
        }
        let millis = words.next().and_then(parse_integer)?;
        let millis = u64::try_from(millis).ok()?;
        Some(match words.next() {
            Some(word) if same_word(word, b"write") => Self::Writes(millis),
            _ => Self::All(millis),
        })
    }

    /// Has every worker know that the server has taken it, which was asked at this time.
    fn note_taken(self, process: &Process, asked_micros: u64) {
        let taken_micros = process.now_micros();
        let taken = |millis: u64| TakenPause {
            asked_micros,
            taken_micros,
            until_micros: taken_micros.saturating_add(millis.saturating_mul(1000)),
        };
        let pauses = &process.pulse.pauses;
        match self {
            Self::All(millis) => pauses.all(&taken(millis)),
            Self::Writes(millis) => pauses.writes(&taken(millis)),
            Self::Over => pauses.over(),
        }
    }
}

impl Client {
    /// Tells whether a write must not go where its client's reads do: they would be held back with it, and those of others.
    #[inline]
    pub(super) fn leaves_lane(&self) -> bool {
        self.clients.upstream.are_writes_held()
            && self.link.as_ref().is_some_and(|link| !link.owes_write())
    }

    /// Tells whether a request can be sent where the client is, as far as writes are held back or a connection is stalled: else what to
    /// wait for has been set. Who has nothing due picks a connection anew.
    #[inline]
    pub(super) fn in_lane(&mut self, delays: Delays) -> bool {
        if !self.clients.upstream.has_lanes() {
            return true;
        }
        if self.outlet.outstanding() == 0 {
            self.link = None;
        } else if delays.may_pause() && self.leaves_lane() {
            self.wait = Wait::Answers;
            return false;
        }
        true
    }

    /// Sends CLIENT PAUSE or UNPAUSE on the connection lent for it, on which no reply is due.
    pub(super) fn pause(
        &mut self,
        link: &Rc<Link>,
        request: &Request<'_>,
        command: Option<CommandId>,
    ) -> Next {
        self.count(1, command);
        let told = link.ask(request.bytes());
        let process = Arc::clone(&self.clients.thread.process);
        let (asked, asked_micros) = (Pause::asked(request), process.now_micros());
        self.then(async move |client: &mut Self| {
            let Ok(reply) = client.meanwhile(told, Awaited::Server).await? else {
                // The client is closed with the connection it was lent.
                client.outlet.close(Disconnect::UpstreamLost);
                return Ok(());
            };
            if let Some(asked) = asked.filter(|_| reply.starts_with(b"+OK")) {
                asked.note_taken(&process, asked_micros);
            }
            client.reply(&reply);
            Ok(())
        });
        Next::Used(request.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;

    #[test]
    fn what_is_paused_is_told_from_the_request() {
        let of = |words: &[&str]| Pause::asked(&Request::new(&encode_request(words)));
        let all = of(&["CLIENT", "PAUSE", "100"]);
        assert_eq!(all, Some(Pause::All(100)));
        assert_eq!(of(&["client", "pause", "100", "all"]), all);
        let writes = of(&["CLIENT", "pause", "7", "Write"]);
        assert_eq!(writes, Some(Pause::Writes(7)));
        assert_eq!(of(&["CLIENT", "UNPAUSE"]), Some(Pause::Over));
        assert_eq!(of(&["CLIENT", "PAUSE", "-1", "WRITE"]), None);
        assert_eq!(of(&["CLIENT", "PAUSE", "soon"]), None);
    }
}
