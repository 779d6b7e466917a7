//! The listeners that are open, as a reload finds them: what it may change of one, and how it closes one.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::sync::watch;

use super::socket_access::FileAccess;
use super::socket_file::BoundFile;
use super::tls::{Acceptance, TlsAcceptor};
use crate::config::Listener;

/// All that are open, shared by whoever changes and whoever shows them.
#[derive(Debug, Default)]
pub struct OpenListeners(ArcSwap<Vec<Arc<OpenListener>>>);

impl OpenListeners {
    /// These are open.
    pub fn new(listeners: Vec<Arc<OpenListener>>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(listeners)))
    }

    /// Those that are open now.
    pub fn all(&self) -> Arc<Vec<Arc<OpenListener>>> {
        self.0.load_full()
    }

    /// From now on these are open.
    pub fn replace(&self, listeners: Vec<Arc<OpenListener>>) {
        self.0.store(Arc::new(listeners));
    }
}

/// One that is open.
#[derive(Debug)]
pub struct OpenListener {
    name: String,
    /// The socket belongs to whoever accepts.
    socket: Weak<Socket>,
    /// That of a unix socket.
    file: Option<BoundFile>,
    tls: Arc<TlsAcceptor>,
    stop: watch::Sender<bool>,
    gone: watch::Receiver<()>,
}

/// The other end of an [`OpenListener`], kept by whoever accepts.
#[derive(Debug)]
pub struct Accepting {
    stop: watch::Receiver<bool>,
    /// Its drop tells that the socket is closed.
    _gone: watch::Sender<()>,
}

impl Accepting {
    /// Waits until the listener is to be closed.
    pub async fn stopped(&mut self) {
        // Whoever could stop it has gone: it goes on for as long as the process does.
        if self.stop.wait_for(|is_stopped| *is_stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl OpenListener {
    pub(super) fn new(
        name: String,
        socket: &Arc<Socket>,
        file: Option<BoundFile>,
        tls: Arc<TlsAcceptor>,
    ) -> (Arc<Self>, Accepting) {
        let (stop, stopped) = watch::channel(false);
        let (told, gone) = watch::channel(());
        let listener = Self {
            name,
            socket: Arc::downgrade(socket),
            file,
            tls,
            stop,
            gone,
        };
        let accepting = Accepting {
            stop: stopped,
            _gone: told,
        };
        (Arc::new(listener), accepting)
    }

    /// Its address, as it is written in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its next client is shown; `None`: it speaks no TLS.
    pub fn tls(&self) -> Option<Arc<Acceptance>> {
        self.tls.current()
    }

    /// Clients that come from now on are shown this, or speak no TLS; and as many of them as the settings say wait in the
    /// kernel's queue.
    pub fn change(&self, acceptance: Option<Acceptance>, backlog: u32) {
        self.tls.replace(acceptance);
        if let Some(socket) = self.socket.upgrade() {
            // It listens already: the kernel only takes the other number.
            let _ = socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX));
        }
    }

    /// Closes it and waits until it is. Its clients stay.
    pub async fn close(&self) {
        let _ = self.stop.send(true);
        let mut gone = self.gone.clone();
        // An error means that the other end is dropped.
        while gone.changed().await.is_ok() {}
    }
}

/// What the files of unix sockets were before a reload changed who may connect: put back unless it is kept.
#[derive(Debug, Default)]
pub struct ChangedAccess {
    before: Vec<(String, BoundFile, FileAccess)>,
    is_kept: bool,
}

impl ChangedAccess {
    /// Changes who may connect to `listener`, which is `open`, if it is a unix socket, to what the settings say, whatever its
    /// file is like. What they say no longer is as if they never had.
    ///
    /// # Errors
    /// The file is not ours to change, in words. One that is not there is an error only where the settings are new
    /// (`is_new`): nobody can connect by it, whatever they say.
    pub fn change(
        &mut self,
        open: &OpenListener,
        listener: &Listener,
        is_new: bool,
    ) -> Result<(), String> {
        let Some(file) = &open.file else {
            return Ok(());
        };
        let name = &listener.name;
        let before = match file.access() {
            Ok(before) => before,
            Err(error) if is_new => {
                return Err(format!(
                    "listener {name}: its mode, owner or group cannot be changed: {error}"
                ));
            }
            Err(error) => {
                tracing::warn!("listener {name}: nobody can connect to it any more: {error}");
                return Ok(());
            }
        };
        let next = file.wanted(&listener.access, before);
        if next == before {
            return Ok(());
        }
        // Before it is tried: of what is refused a part may have been done.
        self.before.push((name.clone(), file.clone(), before));
        let changed = file.permit(next, TABLE);
        changed.map_err(|error| format!("listener {name}: {error}"))
    }

    /// The reload has been done.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

/// Where the settings of who may connect are.
const TABLE: &str = "listener";

impl Drop for ChangedAccess {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for (name, file, before) in &self.before {
            if let Err(error) = file.put_back(*before, TABLE) {
                tracing::error!(
                    "listener {name}: who may connect to it is not as it was before the reload that failed: {error}"
                );
            }
        }
    }
}
