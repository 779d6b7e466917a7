//! What the server would remember of one client, and where each of its requests goes.

mod destination;
mod malformed;
mod own_elements;
mod reply_mode;
mod restrictions;
mod route;
mod state;
mod taken;
mod tracking_request;
mod transaction;
mod unplaced;

use std::rc::Rc;

pub use destination::{
    Destination, LentUse, Loan, Measured, Mode, StoryKind, destination, subscriber_refusal,
};
pub use malformed::{malformed, miscounted, misused};
pub use own_elements::{
    NextMark, OwnCommand, OwnElement, OwnElements, StandInAnswer, judged, stand_in_for,
};
pub use reply_mode::{ReplyMode, ShownInExec};
pub use restrictions::Restrictions;
pub use route::{Block, Denial, Route, Routed, Rules, block, route};
pub use state::{Change, Credentials, Effect, Own, Protocol, State, Step, name_request, steps};
pub use taken::TakenCredentials;
pub use tracking_request::TrackingRequest;
pub use transaction::{PinnedCommand, StreamKind, Tracking, Transaction};
pub use unplaced::{Begun, Unplaced, UnplacedTransaction};

/// Holds what the server would remember of one client.
#[derive(Debug)]
pub struct Session {
    /// Says as which user, in which protocol and in which database its commands run.
    pub state: State,
    /// Says which of its requests are answered.
    pub reply: ReplyMode,
    /// Is true once respool itself has verified who it is.
    pub is_verified: bool,
    /// Is true once it has shown a wrong password.
    pub has_failed: bool,
}

impl Session {
    /// Returns that of a client that has just connected, and is this user until it authenticates; `None`: respool's own.
    pub fn new(user: Option<Rc<Credentials>>) -> Self {
        Self {
            state: State {
                user,
                ..State::INITIAL
            },
            reply: ReplyMode::On,
            is_verified: false,
            has_failed: false,
        }
    }

    /// Tells whether the server has to be asked before it runs commands of a client that has not authenticated.
    pub fn is_guest(&self) -> bool {
        self.state.user.as_ref().is_some_and(|user| user.is_guest())
    }

    /// Tells whether the request at hand is answered; a skip is used up by it.
    #[inline]
    pub fn take_visible(&mut self) -> bool {
        match self.reply {
            ReplyMode::On => true,
            ReplyMode::Off => false,
            ReplyMode::SkipNext => {
                self.reply = ReplyMode::On;
                false
            }
        }
    }
}

/// Returns a text reply that RESP3 marks as verbatim, as CLIENT LIST and CLIENT INFO are.
pub fn verbatim(protocol: Protocol, text: &[u8]) -> Vec<u8> {
    use crate::resp::speak::{bulk, push_header};
    match protocol {
        Protocol::Resp2 => bulk(text),
        Protocol::Resp3 => {
            let mut out = Vec::with_capacity(text.len() + 24);
            push_header(&mut out, b'=', text.len() as i64 + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
            out
        }
    }
}
