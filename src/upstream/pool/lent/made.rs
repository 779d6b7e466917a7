//! Connections are opened or changed for a borrower that may leave meanwhile. The work is the upstream's own and goes on to its
//! end; what nobody wants any more then is kept as an idle connection, for the next.
//!
//! Invariant: a socket that is being dialled, or shakes hands, is never dropped because a client has gone.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::PinError;
use crate::budget::{SocketKind, SocketPermit};
use crate::link::Link;
use crate::session::{Change, State};
use crate::upstream::handshake::{ConnectError, connect};
use crate::upstream::pool::Upstream;

/// Holds a connection for whoever asked. Its drop keeps the connection as an idle one.
struct MadeLink {
    link: Option<Rc<Link>>,
    upstream: Rc<Upstream>,
}

impl MadeLink {
    fn claim(mut self) -> Option<Rc<Link>> {
        self.link.take()
    }
}

impl Drop for MadeLink {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.upstream.keep_idle(link);
        }
    }
}

/// Tells what has become of it: a connection, or the server's refusal.
type MadeOrRefused = Result<MadeLink, Vec<u8>>;

impl Upstream {
    /// Changes an idle connection to `state`. `None`: it was lost meanwhile.
    pub(in crate::upstream) async fn changed(
        self: &Rc<Self>,
        link: Rc<Link>,
        state: &State,
    ) -> Option<Result<Rc<Link>, PinError>> {
        let (tell, told) = oneshot::channel::<MadeOrRefused>();
        let (upstream, state) = (Rc::clone(self), state.clone());
        tokio::task::spawn_local(async move {
            let result = upstream.change(&link, &state, Change::Difference).await;
            let wanted = upstream.wanted(link);
            // Whoever asked may have gone.
            match result {
                Some(Ok(())) => drop(tell.send(Ok(wanted))),
                Some(Err(reply)) => drop(tell.send(Err(reply))),
                None => {}
            }
        });
        claimed(told).await
    }

    /// Opens a connection in `state`. `None`: it failed.
    pub(in crate::upstream) async fn opened(
        self: &Rc<Self>,
        state: &State,
        permit: SocketPermit,
    ) -> Option<Result<Rc<Link>, PinError>> {
        let (tell, told) = oneshot::channel::<MadeOrRefused>();
        let (upstream, state) = (Rc::clone(self), state.clone());
        tokio::task::spawn_local(async move {
            debug_assert_eq!(permit.kind(), SocketKind::Pinned);
            let (name, best) = (upstream.name("pinned"), upstream.node_of_shared());
            let (link, refusal) = match connect(&upstream.thread, &state, name, permit, best).await
            {
                Ok(link) => (link, None),
                // What one client may not have is no reason to close it.
                Err(ConnectError::Refused(reply, link)) => (link, Some(reply)),
                Err(ConnectError::Unauthenticated(reply)) => {
                    upstream.connected();
                    return drop(tell.send(Err(reply)));
                }
                Err(error) => return upstream.failed(&error),
            };
            upstream.connected();
            upstream.keep_driving(&link);
            upstream.move_on();
            let wanted = upstream.wanted(link);
            // Whoever asked may have gone.
            match refusal {
                None => drop(tell.send(Ok(wanted))),
                Some(reply) => drop(tell.send(Err(reply))),
            }
        });
        claimed(told).await
    }

    fn wanted(self: &Rc<Self>, link: Rc<Link>) -> MadeLink {
        MadeLink {
            link: Some(link),
            upstream: Rc::clone(self),
        }
    }
}

/// Waits for what was made. `None`: there is nothing to be had.
async fn claimed(told: oneshot::Receiver<MadeOrRefused>) -> Option<Result<Rc<Link>, PinError>> {
    match told.await {
        Ok(Ok(wanted)) => wanted.claim().filter(|link| link.is_alive()).map(Ok),
        Ok(Err(reply)) => Some(Err(PinError::Refused(reply))),
        Err(_) => None,
    }
}
