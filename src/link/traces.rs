//! What a client may have left on a connection that was lent to it, by what was sent and what the server has answered.

use std::cell::{Cell, RefCell};

use tokio::sync::oneshot;

use crate::server::ListHint;
use crate::texts::is_unknown_command;

/// Holds what a client may have left on a connection.
#[derive(Default)]
pub(super) struct ClientTraces {
    /// Is true where something may be left that nothing undoes.
    is_lasting: Cell<bool>,
    /// Is true once the server may remember which keys were read on it.
    may_remember_keys: Cell<bool>,
    /// Is true while SCRIPT DEBUG may be on.
    may_debug: Cell<bool>,
    /// The answer to the request sent last tells this of the server's commands.
    hint: Cell<Option<ListHint>>,
    trust: RefCell<ReplyTrust>,
}

/// Says whether all replies on a connection were one frame each.
#[derive(Default)]
enum ReplyTrust {
    /// Nothing speaks against it.
    #[default]
    Sure,
    /// One may have been more.
    Doubtful,
    /// The server is being asked, and whoever asks is told.
    Asked(oneshot::Sender<bool>),
}

/// Says what is learned of the server's list of commands by an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListNews {
    /// It may not be what it was.
    Suspect,
    /// It is not what it was.
    Outdated,
}

impl ClientTraces {
    /// Takes in that something is left that nothing undoes.
    pub(super) fn note_lasting(&self) {
        self.is_lasting.set(true);
    }

    /// Tells whether something may be left that nothing undoes, or is being left by what is not answered yet.
    pub(super) fn may_last(&self) -> bool {
        let may_begin = matches!(
            self.hint.get(),
            Some(ListHint::Unlisted { lasts: true } | ListHint::Subcommand)
        );
        self.is_lasting.get() || may_begin
    }

    pub(super) fn set_may_remember_keys(&self, may_remember: bool) {
        self.may_remember_keys.set(may_remember);
    }

    pub(super) fn may_remember_keys(&self) -> bool {
        self.may_remember_keys.get()
    }

    pub(super) fn set_may_debug(&self, may_debug: bool) {
        self.may_debug.set(may_debug);
    }

    pub(super) fn may_debug(&self) -> bool {
        self.may_debug.get()
    }

    /// Takes in that the answer to the request sent last tells something of the list; no other is due.
    pub(super) fn expect(&self, hint: ListHint) {
        self.hint.set(Some(hint));
    }

    #[inline]
    pub(super) fn is_hint_due(&self) -> bool {
        self.hint.get().is_some()
    }

    /// Hears the first bytes of the answer that tells something of the list.
    pub(super) fn hear(&self, head: &[u8]) -> Option<ListNews> {
        let is_error = head.first() == Some(&b'-');
        match self.hint.take()? {
            ListHint::Unlisted { lasts } if !is_unknown_command(head) => {
                if lasts && !is_error {
                    self.note_lasting();
                }
                Some(ListNews::Suspect)
            }
            ListHint::Modules if !is_error => Some(ListNews::Outdated),
            ListHint::Subcommand if !is_error => {
                self.note_lasting();
                None
            }
            ListHint::Unlisted { .. } | ListHint::Modules | ListHint::Subcommand => None,
        }
    }

    /// Takes in that a reply may be more than one frame, and nothing tells.
    pub(super) fn doubt(&self) {
        let mut trust = self.trust.borrow_mut();
        if matches!(*trust, ReplyTrust::Sure) {
            *trust = ReplyTrust::Doubtful;
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        !matches!(*self.trust.borrow(), ReplyTrust::Sure)
    }

    /// Takes in that the server is asked. Returns by what the answer is told.
    pub(super) fn ask(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        self.trust.replace(ReplyTrust::Asked(tell));
        told
    }

    /// Tells whoever asks whether the server has answered so that all replies were one frame each.
    pub(super) fn answered(&self, is_sure: bool) {
        let after = match is_sure {
            true => ReplyTrust::Sure,
            false => ReplyTrust::Doubtful,
        };
        let mut trust = self.trust.borrow_mut();
        if !matches!(*trust, ReplyTrust::Asked(_)) {
            return;
        }
        if let ReplyTrust::Asked(tell) = std::mem::replace(&mut *trust, after) {
            // Who asked may have gone.
            let _ = tell.send(is_sure);
        }
    }

    /// Takes in that the connection is lost: who asks is told nothing more.
    pub(super) fn lost(&self) {
        self.answered(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: &[u8] = b"-ERR unknown command 'x', with args beginning with: \r\n";

    #[test]
    fn a_command_that_is_not_listed_and_runs_makes_the_list_suspect_and_may_last() {
        for (lasts, head, news, stays) in [
            (true, &b"+OK\r\n"[..], Some(ListNews::Suspect), true),
            (false, b"+OK\r\n", Some(ListNews::Suspect), false),
            (true, b"-ERR no\r\n", Some(ListNews::Suspect), false),
            (true, UNKNOWN, None, false),
        ] {
            let traces = ClientTraces::default();
            traces.expect(ListHint::Unlisted { lasts });
            assert_eq!(traces.may_last(), lasts, "until it is answered");
            assert!(traces.is_hint_due());
            assert_eq!(traces.hear(head), news, "{lasts} {head:?}");
            assert_eq!(traces.may_last(), stays, "{lasts} {head:?}");
            assert!(!traces.is_hint_due());
            assert_eq!(traces.hear(b"+OK\r\n"), None, "it was told once");
        }
    }

    #[test]
    fn what_changes_modules_outdates_the_list_and_a_subcommand_that_runs_lasts() {
        for (hint, head, news, stays) in [
            (
                ListHint::Modules,
                &b"+OK\r\n"[..],
                Some(ListNews::Outdated),
                false,
            ),
            (ListHint::Modules, b"-ERR no\r\n", None, false),
            (ListHint::Subcommand, b"+OK\r\n", None, true),
            (ListHint::Subcommand, b"-ERR no\r\n", None, false),
        ] {
            let traces = ClientTraces::default();
            traces.expect(hint);
            assert_eq!(traces.hear(head), news, "{head:?}");
            assert_eq!(traces.may_last(), stays, "{head:?}");
        }
    }

    #[test]
    fn doubt_ends_with_an_answer_alone_and_whoever_asks_is_told() {
        let traces = ClientTraces::default();
        traces.answered(false);
        assert!(!traces.is_doubtful(), "nobody has asked");
        traces.doubt();
        traces.answered(true);
        assert!(traces.is_doubtful(), "nobody has asked");
        let mut told = traces.ask();
        traces.doubt();
        assert!(traces.is_doubtful() && told.try_recv().is_err());
        traces.answered(false);
        assert_eq!(told.try_recv(), Ok(false));
        assert!(traces.is_doubtful());
        let mut told = traces.ask();
        traces.answered(true);
        assert_eq!(told.try_recv(), Ok(true));
        assert!(!traces.is_doubtful());
    }

    #[test]
    fn who_asks_learns_of_the_loss() {
        let traces = ClientTraces::default();
        traces.doubt();
        let mut told = traces.ask();
        traces.lost();
        assert_eq!(told.try_recv(), Ok(false));
        assert!(traces.is_doubtful());
    }
}
