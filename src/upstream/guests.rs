//! Whether the server still serves those who have not authenticated, while some of them are served.
//!
//! A connection that is the default user's stays so when that user gets a password; those who come later would go on to be
//! served by it. So it is shown the password that is none again from time to time.

use std::rc::Rc;
use std::time::Duration;

use super::link::Link;
use super::pool::Upstream;
use super::server::Server;
use crate::auth::is_wrong_password;

/// How often it is asked.
const ASKED_EVERY: Duration = Duration::from_secs(2);

impl Upstream {
    /// Asks on a connection that is the default user's; none is made that for it.
    pub(super) fn ask_for_guests(self: &Rc<Self>) {
        let clock = &self.thread.clock;
        if !clock.is_past(self.guests_asked_micros.get(), ASKED_EVERY) {
            return;
        }
        let guest = |link: &Rc<Link>| {
            let user = link.worn().user.clone()?;
            let is_free = link.is_alive() && !link.is_dressing();
            (is_free && user.is_guest()).then_some((Rc::clone(link), user))
        };
        let Some((link, user)) = self.links.borrow().iter().flatten().find_map(guest) else {
            return;
        };
        self.guests_asked_micros.set(clock.now_micros());
        let told = link.ask(&user.request());
        let process = std::sync::Arc::clone(&self.thread.process);
        tokio::task::spawn_local(async move {
            // A connection that was lost tells nothing, and the next one learns it when it is opened.
            let refused = told.await.is_ok_and(|reply| is_wrong_password(&reply));
            if refused {
                process.server.rcu(|server| {
                    let mut server = Server::clone(server.as_ref()?);
                    server.guests_are_refused = true;
                    Some(std::sync::Arc::new(server))
                });
            }
        });
    }
}
