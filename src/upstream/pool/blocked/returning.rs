//! Elements popped for clients that have left go back where they came from.
//!
//! Invariant: each element is counted once, as returned when the server has taken it back, else as orphaned.

use std::cell::Cell;
use std::rc::Rc;

use super::AROUND_ELEMENTS;
use super::SharedWork;
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::failover::ServerNode;
use crate::link::Link;
use crate::server::LinkOrigin;
use crate::session::State;
use crate::telemetry::Throttle;
use crate::upstream::pool::Upstream;

/// Holds elements on their way back.
pub(in crate::upstream) struct ReturningElements {
    state: State,
    request: Vec<u8>,
    pub(in crate::upstream) elements: u64,
    /// This server gave them out; `None`: they may go to any that is there now.
    from: Option<(ServerNode, Option<u64>)>,
    _under_way: UnderWay,
}

/// Counts something that is under way.
pub(in crate::upstream) struct UnderWay(Rc<Cell<usize>>);

thread_local! {
    static LINE: Throttle = Throttle::default();
}

impl UnderWay {
    pub(in crate::upstream) fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl ReturningElements {
    /// Tells whether they may go to the server at `origin`: at another they may be still, for others, as they were before they were popped.
    pub(in crate::upstream) fn may_go_to(&self, origin: &LinkOrigin) -> bool {
        self.from
            .as_ref()
            .is_none_or(|(node, run)| match (run, origin.run) {
                (Some(run), Some(its)) => *run == its,
                _ => *node == origin.node,
            })
    }
}

impl Upstream {
    /// Sends elements back where they came from: to the server at `from`, or nowhere.
    pub(in crate::upstream) fn put_back(
        self: &Rc<Self>,
        state: State,
        request: Vec<u8>,
        elements: u64,
        from: Option<&LinkOrigin>,
    ) {
        let returning = ReturningElements {
            state: state.clone(),
            request,
            elements,
            from: from.map(|origin| (origin.node.clone(), origin.run)),
            _under_way: UnderWay::new(&self.blocked.under_way),
        };
        self.find_for(state, SharedWork::PutBack(returning));
    }

    pub(in crate::upstream) fn send_back(
        self: &Rc<Self>,
        link: &Rc<Link>,
        returning: ReturningElements,
    ) {
        let upstream = Rc::downgrade(self);
        let request = returning.request.clone();
        let call = OwnCall::new(1, AROUND_ELEMENTS, AnswerPace::Writing, move |answer| {
            if let Some(upstream) = upstream.upgrade() {
                upstream.returned(returning, answer);
            }
        });
        link.send_own(&request, OwnReply::Call(call));
        self.served(link, 1);
    }

    /// Takes in what the server has answered, if it has, to the request that puts elements back.
    pub(in crate::upstream) fn returned(
        self: &Rc<Self>,
        mut returning: ReturningElements,
        answer: Answer,
    ) {
        let counters = &self.thread.counters;
        match answer {
            Answer::Replies(reply) if !reply.starts_with(b"-") => {
                counters.returned_elements.add(returning.elements);
            }
            // A client may be allowed to pop and not to push, or not be let in any more: respool's own user tries.
            Answer::Replies(_) if returning.state.user.take().is_some() => {
                let state = returning.state.clone();
                self.find_for(state, SharedWork::PutBack(returning));
            }
            Answer::Lost { sent: false } => {
                let state = returning.state.clone();
                self.find_for(state, SharedWork::PutBack(returning));
            }
            Answer::Replies(_) | Answer::Lost { sent: true } | Answer::TooLarge => {
                self.orphaned(returning.elements);
            }
        }
    }

    /// Counts so many elements that cannot go back.
    pub(in crate::upstream) fn orphaned(&self, elements: u64) {
        self.thread.counters.orphaned_elements.add(elements);
        // Clients can cause this without end.
        let now = self.thread.clock.now_micros();
        if let Some(unwritten) = LINE.with(|line| line.write(now)) {
            tracing::warn!(
                elements,
                unwritten,
                "elements popped for a client that had left could not be put back"
            );
        }
    }
}
