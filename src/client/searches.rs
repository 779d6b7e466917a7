//! What it costs the others that one client looks for others: CLIENT LIST and CLIENT KILL, and how that is shared out.
//!
//! Each of them costs what there are of clients, and a pipeline of them used to be answered in one turn: 3,000 CLIENT KILL that
//! meant nobody, among 8,000 clients, held a worker and everybody on it for 11 s. So it is counted how many clients are looked at,
//! and whoever comes past a bound goes on when the others have had their turns.

use std::task::Context;

use super::{Client, Clients, Wait};
use crate::transport::let_others_go_first;

/// Most clients that are looked at in one turn, and by one command more: between 0.1 and 1 ms.
const MOST_IN_A_TURN: usize = 4096;

/// Is the price of a line of CLIENT LIST, which costs as much as to look at so many.
pub(super) const LINE_PRICE: usize = 8;

impl Clients {
    /// Counts the clients that were looked at for one of this worker's.
    pub(super) fn searched(&self, clients: usize) {
        self.searched
            .set(self.searched.get().saturating_add(clients));
    }
}

impl Client {
    /// Ends the client's turn behind a command that was one search too many. Nothing of it is lost: the next request is looked at
    /// in its next turn.
    pub(super) fn pause_for_searches(&mut self) {
        if self.clients.searched.get() < MOST_IN_A_TURN {
            return;
        }
        self.clients.searched.set(0);
        // What waits for something else lets the others go first as well.
        if matches!(self.wait, Wait::Nothing) {
            self.wait = Wait::Turn(false);
        }
    }

    /// Tells whether the others have had their turns; where they have not been let go first yet, they are.
    pub(super) fn has_its_turn(&mut self, is_due: bool, cx: &Context<'_>) -> bool {
        if is_due {
            self.wait = Wait::Nothing;
            return true;
        }
        self.wait = Wait::Turn(true);
        let mut cx = Context::from_waker(cx.waker());
        let_others_go_first::<()>(&mut cx).is_ready()
    }
}
