//! WAIT and WAITAOF: they speak of what their own connection has written, and a client's writes were on others.

use std::rc::Rc;

use crate::client::Client;
use crate::client::story::{Awaited, SlowRequest, Told};
use crate::command::{CommandId, Delays, PinReason, spec};
use crate::exchange::RequestKind;
use crate::link::Link;
use crate::resp::speak::encode_request;
use crate::resp::{Request, parse_integer};
use crate::session::PinnedCommand;
use crate::texts::{is_no_permission, is_unknown_command};
use crate::waits::PoppedElements;

/// Says why WAIT would answer a wrong number, of a user who may not do what stands before it.
const NEEDS_PUBLISH: &[u8] =
    b"-ERR respool: WAIT needs the permission to PUBLISH to the channel respool:wait on this server\r\n";
const NEEDS_PING: &[u8] = b"-ERR respool: WAIT needs the permission to PING on this server\r\n";

/// Says why it would inside MULTI.
const NOT_ACKNOWLEDGED: &[u8] =
    b"-ERR respool: not all replicas have acknowledged what was written before MULTI, or INFO does not tell\r\n";

impl Client {
    /// WAIT speaks of the writes of its own connection, so that connection is first moved past the client's earlier
    /// ones, which are answered: by any command up to Redis 7.0, from 7.2 on by one that is propagated.
    pub(super) async fn wait_for_replicas(&mut self, slow: &SlowRequest) -> Told {
        let (request, command) = (slow.request(), slow.command());
        let Some(link) = self.lent(slow, PinReason::Wait).await? else {
            return Ok(());
        };
        let is_open = self.outlet.transaction().is_open();
        let server = self.clients.thread.process.server.load_full();
        let needs_a_write = server.is_some_and(|server| server.wait_needs_a_write());
        // MULTI itself has moved the connection where any command does.
        let is_moved = is_open && !(needs_a_write && self.has_written);
        if !is_moved && is_accepted(&request, command) {
            let made_true = match is_open {
                true => self.acknowledged_by_all(command).await?,
                false => self.move_past_writes(&link, needs_a_write).await?,
            };
            if let Err(reply) = made_true {
                self.refuse(command, &reply);
                return Ok(());
            }
        }
        if is_open {
            // It never blocks there.
            self.queue(&link, &request, command, PinnedCommand::Queue);
            return Ok(());
        }
        self.count(1, command);
        let show = self.show();
        let kind = (RequestKind::Blocking(PoppedElements::Nothing), Delays::NONE);
        link.send(&self.outlet, request.bytes(), 1, kind, show);
        self.block();
        Ok(())
    }

    /// Inside MULTI the connection cannot be moved any more, and answers how many replicas there are: that is true once all of them have
    /// acknowledged everything.
    async fn acknowledged_by_all(
        &mut self,
        command: Option<CommandId>,
    ) -> Told<Result<(), Box<[u8]>>> {
        let upstream = Rc::clone(&self.clients.upstream);
        let of_files = command.is_some_and(|id| spec(id).name == "waitaof");
        let asking = async move { upstream.is_acknowledged_by_all(of_files).await };
        Ok(match self.meanwhile(asking, Awaited::Server).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(NOT_ACKNOWLEDGED.into()),
            Err(refused) => Err(refused),
        })
    }

    async fn move_past_writes(
        &mut self,
        link: &Link,
        needs_a_write: bool,
    ) -> Told<Result<(), Box<[u8]>>> {
        let (words, needs): (&[&str], _) = if needs_a_write {
            (&["PUBLISH", "respool:wait", ""], NEEDS_PUBLISH)
        } else {
            (&["PING"], NEEDS_PING)
        };
        let told = link.ask(&encode_request(words));
        Ok(match self.meanwhile(told, Awaited::Server).await? {
            Ok(reply) if reply.starts_with(b"-") => Err(refusal_of_wait(&reply, needs)),
            _ => Ok(()),
        })
    }
}

/// Tells whether every server takes the words of WAIT and WAITAOF. What is refused for its words needs nothing to be true: the error is the
/// server's, as it is without respool.
fn is_accepted(request: &Request<'_>, command: Option<CommandId>) -> bool {
    let of_files = command.is_some_and(|id| spec(id).name == "waitaof");
    let words = if of_files { 3 } else { 2 };
    let numbers: Option<Vec<i64>> = request.arguments().skip(1).map(parse_integer).collect();
    numbers.is_some_and(|numbers| numbers.len() == words && numbers.last() >= Some(&0))
}

/// Returns what WAIT is answered whose way was refused with `reply`: what the server says of itself is what it would say to WAIT, and what
/// it says of the command that stood before it the client has never sent.
fn refusal_of_wait(reply: &[u8], needs: &[u8]) -> Box<[u8]> {
    let is_of_command = is_no_permission(reply) || is_unknown_command(reply);
    if is_of_command { needs } else { reply }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_the_command_before_it_is_put_in_other_words() {
        for reply in [&b"-BUSY Redis is busy\r\n"[..], b"-LOADING x\r\n"] {
            assert_eq!(*refusal_of_wait(reply, NEEDS_PUBLISH), *reply);
        }
        for reply in [
            &b"-NOPERM this user has no permissions\r\n"[..],
            b"-ERR unknown command 'PUBLISH', with args beginning with:\r\n",
        ] {
            assert_eq!(*refusal_of_wait(reply, NEEDS_PUBLISH), *NEEDS_PUBLISH);
        }
    }
}
