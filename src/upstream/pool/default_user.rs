//! The server is asked whether it still serves those who have not authenticated, while some of them are served.
//!
//! A connection that is the default user's stays so when that user gets a password; those who come later would go on to be
//! served by it. So it is shown the password that is none again from time to time.

use std::rc::Rc;
use std::time::Duration;

use super::Upstream;
use crate::auth::is_wrong_password;
use crate::link::Link;

/// It is asked this often.
const ASKED_EVERY: Duration = Duration::from_secs(2);

impl Upstream {
    /// Asks on a connection that is the default user's; none is made that for it.
    pub(super) fn ask_for_default_user(self: &Rc<Self>) {
        let clock = &self.thread.clock;
        if !clock.is_past(self.default_user_asked_micros.get(), ASKED_EVERY) {
            return;
        }
        let of_default_user = |link: &Rc<Link>| {
            let user = link.state().user.clone()?;
            let is_free = link.is_alive() && !link.is_changing_state();
            (is_free && user.is_guest()).then_some((Rc::clone(link), user))
        };
        let Some((link, user)) = self
            .links
            .borrow()
            .iter()
            .flatten()
            .find_map(of_default_user)
        else {
            return;
        };
        self.default_user_asked_micros.set(clock.now_micros());
        let told = link.ask(&user.request());
        let process = std::sync::Arc::clone(&self.thread.process);
        tokio::task::spawn_local(async move {
            // A connection that was lost tells nothing, and the next one learns it when it is opened.
            let refused = told.await.is_ok_and(|reply| is_wrong_password(&reply));
            if refused {
                process.server.refuses_unauthenticated();
            }
        });
    }
}
