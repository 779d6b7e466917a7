//! The listeners that are open, as a reload finds them: what it may change of one, and how it closes one.

use std::io;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::sync::watch;

use super::socket_file::BoundFile;
use super::tls::{Acceptance, TlsAcceptor};
use crate::config::{Access, Listener};

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
    before: Vec<(BoundFile, Access)>,
    is_kept: bool,
}

impl ChangedAccess {
    /// Changes who may connect to `listener`, which is `open`, if it is a unix socket. What the settings say no longer is as
    /// if they never had.
    ///
    /// # Errors
    /// The file is not ours to change, in words.
    pub fn change(&mut self, open: &OpenListener, listener: &Listener) -> Result<(), String> {
        let Some(file) = &open.file else {
            return Ok(());
        };
        let (wanted, unset) = (listener.access, file.unset());
        let wanted = Access {
            mode: wanted.mode.or(unset.mode),
            owner: wanted.owner.or(unset.owner),
            group: wanted.group.or(unset.group),
        };
        let change = || {
            let before = file.access()?;
            file.permit(&wanted)?;
            io::Result::Ok(before)
        };
        let name = &listener.name;
        let before = change().map_err(|error| {
            format!("listener {name}: mode, owner or group cannot be changed: {error}")
        })?;
        self.before.push((file.clone(), before));
        Ok(())
    }

    /// The reload has been done.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for ChangedAccess {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for (file, access) in &self.before {
            // What could be changed can be changed back.
            let _ = file.permit(access);
        }
    }
}
