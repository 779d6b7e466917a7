//! The listeners that are open, as a reload finds them: what it may change of one, and how it closes one.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::sync::{mpsc, oneshot, watch};

use super::access_steps::FileAccess;
use super::foreseen::explained;
use super::rights::ProcessRights;
use super::socket_access::{AccessKeys, BY_HAND};
use super::socket_file::{BegunChange, BoundFile, RefusedChange};
use super::stream::tls::{ClientTls, TlsAcceptor};
use crate::config::ListenerSettings;

/// Holds all that are open, shared by whoever changes and whoever shows them.
#[derive(Debug, Default)]
pub struct OpenListeners(ArcSwap<Vec<Arc<OpenListener>>>);

impl OpenListeners {
    /// Holds these as open.
    pub fn new(listeners: Vec<Arc<OpenListener>>) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(listeners)))
    }

    /// Lists those that are open now.
    pub fn all(&self) -> Arc<Vec<Arc<OpenListener>>> {
        self.0.load_full()
    }

    /// Takes these as open from now on.
    pub fn replace(&self, listeners: Vec<Arc<OpenListener>>) {
        self.0.store(Arc::new(listeners));
    }
}

/// Is a listener that is open.
#[derive(Debug)]
pub struct OpenListener {
    name: String,
    /// Points at the socket, which belongs to whoever accepts.
    socket: Weak<Socket>,
    /// Is the file of a unix socket.
    file: Option<BoundFile>,
    tls: Arc<TlsAcceptor>,
    /// Counts the most clients for whom there ever was room in the kernel's queue.
    backlog: AtomicU32,
    take: mpsc::Sender<ListenerOrder>,
    stop: watch::Sender<bool>,
    gone: watch::Receiver<()>,
}

/// The other end of an [`OpenListener`], kept by whoever accepts.
#[derive(Debug)]
pub struct AcceptingEnd {
    take: mpsc::Receiver<ListenerOrder>,
    stop: watch::Receiver<bool>,
    /// Tells by its drop that the socket is closed.
    _gone: watch::Sender<()>,
}

/// Says what whoever accepts is told to do.
#[derive(Debug)]
pub enum ListenerOrder {
    Stop,
    /// It is to accept all who wait in the kernel's queue by now.
    TakeQueued {
        /// There are no more than these.
        most: u32,
        /// It is told whether that is done.
        done: oneshot::Sender<bool>,
    },
}

impl AcceptingEnd {
    /// Waits for what is to be done. Cancelling it loses nothing.
    pub async fn told(&mut self) -> ListenerOrder {
        // Whoever could tell has gone: it goes on for as long as the process does.
        let stopped = async {
            if self.stop.wait_for(|is_stopped| *is_stopped).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let taking = async {
            match self.take.recv().await {
                Some(told) => told,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped => ListenerOrder::Stop,
            told = taking => told,
        }
    }
}

impl OpenListener {
    pub(super) fn new(
        name: String,
        socket: &Arc<Socket>,
        file: Option<BoundFile>,
        tls: Arc<TlsAcceptor>,
        backlog: u32,
    ) -> (Arc<Self>, AcceptingEnd) {
        let (take, taken) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let (told, gone) = watch::channel(());
        let listener = Self {
            name,
            socket: Arc::downgrade(socket),
            file,
            tls,
            backlog: backlog.into(),
            take,
            stop,
            gone,
        };
        let accepting = AcceptingEnd {
            take: taken,
            stop: stopped,
            _gone: told,
        };
        (Arc::new(listener), accepting)
    }

    /// Returns its address, as it is written in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what its next client is shown; `None` where it speaks no TLS.
    pub fn tls(&self) -> Option<Arc<ClientTls>> {
        self.tls.current()
    }

    /// Says what is wrong with it now, if its file is gone, or another's, or a reload could not make it what it is to
    /// be.
    pub fn trouble(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        match file.access() {
            Err(error) => Some(unreachable(&self.name, &error)),
            Ok(now) => {
                let (name, left) = (&self.name, file.left(now)?);
                Some(format!(
                    "listener {name}: who may connect to it is not what the settings say: a reload could not change its socket \
                     file, which has {left}; {BY_HAND}"
                ))
            }
        }
    }

    /// Shows this to clients that come from now on, or speaks no TLS with them; and as many of them as the settings say
    /// wait in the kernel's queue.
    pub fn change(&self, acceptance: Option<ClientTls>, backlog: u32) {
        self.tls.replace(acceptance);
        self.backlog.fetch_max(backlog, Ordering::Relaxed);
        if let Some(socket) = self.socket.upgrade() {
            // It listens already: the kernel only takes the other number.
            let _ = socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX));
        }
    }

    /// Has those accepted who wait in the kernel's queue by now, so that they go by what is in force. Returns once they are,
    /// whoever comes meanwhile.
    ///
    /// # Errors
    /// They are not, in words.
    pub async fn take_queued(&self) -> Result<(), String> {
        let (done, is_done) = oneshot::channel();
        // The kernel takes one more than it is told.
        let most = self.backlog.load(Ordering::Relaxed).saturating_add(1);
        let taken = async {
            // Where nobody accepts any more nobody is let in by anything.
            match self
                .take
                .send(ListenerOrder::TakeQueued { most, done })
                .await
            {
                Ok(()) => is_done.await.unwrap_or(true),
                Err(_) => true,
            }
        };
        match tokio::time::timeout(QUEUED_TAKEN_WITHIN, taken).await {
            Ok(true) => Ok(()),
            _ => Err(format!(
                "listener {}: who may connect to it cannot be changed: those who have connected already and wait to be accepted \
                 are not accepted yet, and would go by the new settings; reload again when respool is less busy",
                self.name
            )),
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

/// Bounds how long it may take to accept all who wait in the kernel's queue.
const QUEUED_TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Are the bits of a mode that are the owner's.
const OF_OWNER: u32 = 0o700;

/// Names where the settings of who may connect are.
const TABLE: &str = "listener";

/// Holds what a reload has begun to change of who may connect by the files of unix sockets: undone unless it is
/// finished. Until then it lets in nobody whom it did not let in before.
#[derive(Debug, Default)]
pub struct ChangedAccess(Vec<(AskedAccess, BegunChange)>);

/// Holds what a reload asks of the file of one listener.
#[derive(Debug)]
struct AskedAccess {
    name: String,
    file: BoundFile,
    keys: AccessKeys,
    /// Tells whether the settings are new.
    is_new: bool,
    next: FileAccess,
    /// Is what an earlier reload has left it with that could do no more.
    left: Option<FileAccess>,
}

impl ChangedAccess {
    /// Begins to change who may connect to `listener`, which is `open`, if it is a unix socket, to what the settings say,
    /// whatever its file is like. What they say no longer is as if they never had. All that is done can be undone.
    ///
    /// # Errors
    /// The file is not there, or not ours to change, in words: only where the settings are new (`is_new`). What somebody
    /// else has done to it is no fault of a reload that changes something else: it is logged, and the file left as it is.
    pub fn begin(
        &mut self,
        open: &OpenListener,
        listener: &ListenerSettings,
        is_new: bool,
    ) -> Result<(), String> {
        let Some(file) = &open.file else {
            return Ok(());
        };
        let name = &listener.name;
        let now = match file.access() {
            Ok(now) => now,
            Err(error) if is_new => {
                return Err(format!(
                    "listener {name}: its mode, owner or group cannot be changed: {error}"
                ));
            }
            Err(error) => {
                tracing::warn!("{}", unreachable(name, &error));
                return Ok(());
            }
        };
        let next = file.wanted(&listener.access, now);
        if next == now {
            file.settle(now);
            return Ok(());
        }
        let asked = AskedAccess {
            name: name.clone(),
            file: file.clone(),
            keys: AccessKeys {
                table: TABLE,
                written: listener.access,
            },
            is_new,
            next,
            left: file.left(now),
        };
        match file.begin(now, next, asked.keys) {
            Ok(begun) => self.0.push((asked, begun)),
            Err(refused) => self.0.extend(asked.refused(refused)?),
        }
        Ok(())
    }

    /// Goes on with all that is begun, where it may be that it cannot be undone: what will be refused as far as can be seen
    /// comes first, and what cannot be given back last.
    ///
    /// # Errors
    /// As those of [`Self::begin`].
    pub fn regroup(&mut self) -> Result<(), String> {
        let rights = ProcessRights::now();
        self.0.sort_by_key(|(_, begun)| begun.stake(&rights));
        let mut at = 0;
        while let Some((_, begun)) = self.0.get(at) {
            let Err(why) = begun.regroup() else {
                at += 1;
                continue;
            };
            let (asked, begun) = self.0.remove(at);
            self.0.extend(asked.refused(begun.refused(why))?);
        }
        Ok(())
    }

    /// Lets in who may connect from now on, since the reload can be refused no more. What is refused all the same is
    /// logged.
    pub fn finish(mut self) {
        for (asked, begun) in std::mem::take(&mut self.0) {
            if let Err(error) = begun.finish() {
                let name = asked.name;
                tracing::error!(
                    "listener {name}: fewer may connect to its socket file than the settings say: {error}"
                );
            }
        }
    }
}

impl Drop for ChangedAccess {
    fn drop(&mut self) {
        for (asked, begun) in std::mem::take(&mut self.0) {
            if let Err(error) = begun.undo() {
                not_undone(&asked.name, &error);
            }
        }
    }
}

impl AskedAccess {
    /// Takes in that it could not be had. Returns what is begun instead, if it is no fault of the reload: the right of
    /// the owner is as the settings say.
    ///
    /// # Errors
    /// Why not, in words, where the settings are new.
    fn refused(self, refused: RefusedChange) -> Result<Option<(Self, BegunChange)>, String> {
        let Self {
            name, file, next, ..
        } = &self;
        if let Some(error) = refused.not_undone {
            not_undone(name, &error);
        }
        let why = explained(file.path(), &self.keys.written, refused.why);
        if self.is_new {
            return Err(format!("listener {name}: {why}"));
        }
        let who = match self.left {
            Some(_) => "an earlier reload could not change its socket file",
            None => "somebody else has changed its socket file",
        };
        let now = file.access().map_err(|error| unreachable(name, &error));
        let Ok(now) = now.inspect_err(|error| tracing::warn!("{error}")) else {
            return Ok(None);
        };
        let mode = now.mode & !OF_OWNER | next.mode & OF_OWNER;
        let nearest = match now.owner == next.owner {
            true => FileAccess { mode, ..now },
            false => now,
        };
        let begun = (nearest != now)
            .then(|| file.begin(now, nearest, self.keys).ok())
            .flatten();
        let stays = match &begun {
            None => format!("it stays as it is with {now}"),
            Some(_) => format!("it has {nearest} from now on"),
        };
        tracing::warn!(
            "listener {name}: {who}; {stays}, and the settings say {next}: {why}; or set it by hand (chmod, chown)"
        );
        let next = self.next;
        Ok(begun.map(|begun| (self, begun.instead_of(next))))
    }
}

fn not_undone(listener: &str, error: &str) {
    tracing::error!(
        "listener {listener}: the reload is undone, but fewer may connect to its socket file than before: {error}"
    );
}

/// Says what to tell of a listener whose file is gone, or another's.
fn unreachable(listener: &str, error: &io::Error) -> String {
    format!("listener {listener}: nobody can connect to it any more: {error}")
}
