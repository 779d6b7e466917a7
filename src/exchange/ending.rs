//! The end of a connection: what was not sent comes back, and who sent anything else is closed.

use super::request::{DueEntry, TakeAnswer};
use super::state_change::StateChange;
use super::{Answer, ClientHandle, Ending, Exchange, OwnReply, RequestKind, Show, Unsent};

/// Holds what an exchange that has ended still owes: calls to be told of the loss, and changes of state.
pub struct Ended {
    /// A loss has closed this number of clients.
    pub disconnected: u64,
    calls: Vec<(TakeAnswer, bool)>,
    changes: Vec<StateChange>,
}

impl Ended {
    /// Tells whoever called the server of the loss. Whoever waits for a change of state learns of it by the call that is dropped.
    pub fn tell(self) {
        for (call, sent) in self.calls {
            call(Answer::Lost { sent });
        }
        drop(self.changes);
    }
}

impl<H: ClientHandle> Exchange<H> {
    /// The connection has ended: requests never sent go back to their clients, who sent others are closed after the
    /// replies they got, and so is the client it is lent to: as told by `ending`; but for a loss nothing was done that is not answered.
    pub fn end(self, lent_to: Option<H>, ending: Ending) -> Ended {
        let first = self.sent_total - self.written as u64;
        let mut dues = self.due.into_iter().peekable();
        let mut calls = Vec::new();
        let mut disconnected = 0;
        let is_lost = ending == Ending::Lost;
        let mut disconnect = |client: &H| {
            disconnected += u64::from(client.disconnect(ending) && is_lost);
        };
        while let Some(due) = dues.next() {
            let (client, count, kind, show, delays, start) = match due {
                DueEntry::Client {
                    client,
                    count,
                    kind,
                    show,
                    delays,
                    start,
                    ..
                } => (client, count, kind, show, delays, start),
                DueEntry::Own {
                    reply: OwnReply::Call(call),
                    start,
                    ..
                } => {
                    calls.push((call.call, is_lost && start < self.sent_total));
                    continue;
                }
                DueEntry::Own { .. } => continue,
            };
            let is_again = matches!(
                kind,
                RequestKind::Plain | RequestKind::Block | RequestKind::Fenced
            );
            let is_plain = is_again && !matches!(show, Show::Replace(_));
            if start >= self.sent_total && is_plain && lent_to.is_none() {
                let next = dues.peek().map(|next| (next.start() - first) as usize);
                let from = (start - first) as usize;
                let bytes = self.out[from..next.unwrap_or(self.out.len())].to_vec();
                client.take_back(Unsent {
                    bytes,
                    count,
                    delays,
                    visible: show == Show::Pass,
                    kind,
                });
            } else {
                disconnect(&client);
            }
        }
        if let Some(client) = lent_to {
            disconnect(&client);
        }
        Ended {
            disconnected,
            calls,
            changes: self.changes.into(),
        }
    }
}
