//! Changes of the connection's state: one is done when the server has answered all its steps.

use super::Exchange;
use crate::session::Effect;
use crate::texts::is_busy;

/// Is called when a change ends: acknowledged, or with the server's first refusal.
pub type Changed = Box<dyn FnOnce(Result<(), Vec<u8>>)>;

/// Follows a change of the connection's state that is under way.
pub(super) struct StateChange {
    /// The server has yet to answer this number of steps.
    left: usize,
    refusal: Option<Vec<u8>>,
    done: Changed,
}

impl<H> Exchange<H> {
    /// A change of so many steps begins, which are sent next.
    pub fn begin_change(&mut self, steps: usize, done: Changed) {
        self.changes.push_back(StateChange {
            left: steps,
            refusal: None,
            done,
        });
    }

    /// Tells whether a change is under way.
    #[inline]
    pub fn is_changing(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The server has answered a step. Returns what is to be called where the change ends with it, and with what.
    pub fn stepped(
        &mut self,
        effect: &Effect,
        reply: Vec<u8>,
    ) -> Option<(Changed, Result<(), Vec<u8>>)> {
        let is_refused = reply.first() == Some(&b'-');
        if matches!(effect, Effect::Reset) && !is_refused {
            self.shows_commands = false;
        }
        let change = self.changes.front_mut()?;
        change.left -= 1;
        // A name that is refused (ACL) does not change what commands do.
        // What a busy server refuses is told only where nothing else is refused: it takes logins.
        let is_told = |first: &Vec<u8>| !is_busy(first);
        let has_told = change.refusal.as_ref().is_some_and(is_told);
        if is_refused && !has_told && !matches!(effect, Effect::Named) {
            change.refusal = Some(effect.refusal(reply));
        }
        if change.left > 0 {
            return None;
        }
        let StateChange { refusal, done, .. } = self.changes.pop_front()?;
        Some((done, refusal.map_or(Ok(()), Err)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::client::ModelClient;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Returns what a change of these steps comes to, and after how many answers.
    fn changed(answers: &[(Effect, &[u8])]) -> (usize, Result<(), Vec<u8>>) {
        let mut exchange = Exchange::<ModelClient>::begun(0, 0, rand::random);
        let told = Rc::new(RefCell::new(None));
        let teller = Rc::clone(&told);
        exchange.begin_change(
            answers.len(),
            Box::new(move |result| *teller.borrow_mut() = Some(result)),
        );
        for (count, (effect, reply)) in answers.iter().enumerate() {
            assert!(exchange.is_changing());
            if let Some((done, result)) = exchange.stepped(effect, reply.to_vec()) {
                done(result);
            }
            if let Some(result) = told.take() {
                assert!(!exchange.is_changing());
                return (count + 1, result);
            }
        }
        panic!("it has no end");
    }

    #[test]
    fn a_change_ends_with_its_last_step_and_the_refusal_that_is_to_be_told() {
        let (ok, busy, wrong) = (
            &b"+OK\r\n"[..],
            &b"-BUSY x\r\n"[..],
            &b"-WRONGPASS x\r\n"[..],
        );
        let user = Effect::User(None);
        let database = Effect::Database(1);
        assert_eq!(
            changed(&[(user.clone(), ok), (database.clone(), ok)]),
            (2, Ok(()))
        );
        let first = changed(&[(user.clone(), wrong), (database.clone(), b"-ERR x\r\n")]);
        assert_eq!(first, (2, Err(wrong.to_vec())));
        // A name is nothing that commands go by, and what a busy server refuses is told only where nothing else is.
        assert_eq!(
            changed(&[(Effect::Named, wrong), (user.clone(), ok)]),
            (2, Ok(()))
        );
        let other = changed(&[(database.clone(), busy), (user, wrong)]);
        assert_eq!(other, (2, Err(wrong.to_vec())));
        assert_eq!(changed(&[(database, busy)]), (1, Err(busy.to_vec())));
    }
}
