//! What the clients of one worker share, and how anybody reaches a client of another.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::attempts::AttemptQueue;
use super::changing_user::LoginCell;
use super::closes::CloseLog;
use super::eviction::Evictor;
use super::large::Upload;
use super::redirection::{Invalidations, Redirection};
use super::room::Room;
use super::spares::SpareBuffers;
use super::user_watch::UserWatch;
use crate::admission::Admission;
use crate::auth::ConfiguredUsers;
use crate::command::DenySet;
use crate::config::{AuthMode, Group, Settings};
use crate::identity::{ClientFlag, ClientRecord, ClientRegistry};
use crate::link::Link;
use crate::outlet::Outlet;
use crate::session::{Credentials, TakenCredentials};
use crate::telemetry::Disconnect;
use crate::thread::Thread;
use crate::transport::Stream;
use crate::upstream::{Announcement, BlockedClient, Upstream};
use crate::waits::UnblockMode;

/// Asks the worker that has a client to do something to it.
#[derive(Debug, Clone)]
pub enum ClientMessage {
    /// It kills these clients (CLIENT KILL). The notice is dropped when all of them are gone.
    Kill(Arc<[u64]>, Arc<KillNotice>),
    /// It closes a client that is idle and free of state (`at_limit = "evict-idle"`). The answer is dropped when that is gone.
    Evict(u64, Answer),
    /// It hands invalidations to one of its clients.
    Invalidate(Arc<Invalidations>),
    /// It closes clients for a reason of respool's own.
    Close(Arc<[u64]>, Disconnect),
    /// It tells of a large message that is about to be sent.
    Announce(Arc<Announcement>),
    /// It tells that there is no room: who holds the most goes.
    Shed,
    /// It unblocks a client, with an error (true) or as if the time had passed.
    Unblock(u64, bool, Answer),
}

/// Is held by each client that is being killed until that is gone: whoever killed them learns of the last.
#[derive(Debug)]
pub struct KillNotice(
    #[expect(dead_code, reason = "its drop is what tells")] pub oneshot::Sender<()>,
);

/// Takes the answer of the worker that has the client; the others let go of it.
pub type Answer = Arc<std::sync::Mutex<Option<oneshot::Sender<bool>>>>;

/// Sends a message to every worker.
pub type TellWorkers = Arc<dyn Fn(ClientMessage) + Send + Sync>;

/// Holds what a worker knows of one of its clients.
pub struct ClientEntry {
    /// Its way out.
    pub outlet: Rc<Outlet>,
    /// Its figures.
    pub record: Arc<ClientRecord>,
    /// The connection lent to it.
    pub pinned: RefCell<Option<Rc<Link>>>,
    /// What stands for the client to which its invalidations are redirected, and for those to which they may be by what is queued.
    pub redirections: RefCell<Box<[Rc<Redirection>]>>,
    /// Its place in a line of blocked clients.
    pub blocked: RefCell<Option<Rc<BlockedClient>>>,
    /// Whether it may be silent as long as it likes: blocked, subscribed.
    pub may_be_silent: Cell<bool>,
    /// Whether something is waited for before its next request.
    pub is_waiting: Cell<bool>,
    /// When it was seen to have finished sending, or something went on for it after that; 0: it has not.
    pub finished_micros: Cell<u64>,
    /// Since when it has not been known, where clients must authenticate; 0: it is.
    pub unknown_micros: Cell<u64>,
    /// When the request began that has not ended; 0: there is none.
    pub begun_micros: Cell<u64>,
    /// Whether that is too large to share.
    pub is_upload: Cell<bool>,
    /// The user of the server as which its commands run; `None`: respool's own.
    pub(super) user: Cell<Option<Rc<Credentials>>>,
    /// Whether it is showing another.
    pub(super) login: LoginCell,
    /// The group's idle timeout.
    pub idle_timeout: Cell<std::time::Duration>,
    /// A reload may have changed where it belongs and what holds for it.
    pub must_reseat: Cell<bool>,
    /// Dropped when the client, which is being killed, is gone.
    pub killing: RefCell<Option<Arc<KillNotice>>>,
    /// Dropped when the client is gone.
    pub evicting: RefCell<Option<oneshot::Sender<bool>>>,
}

impl ClientEntry {
    /// Makes the entry of a client that has connected at `arrived_micros`, whose commands run as `user`.
    pub(super) fn new(
        outlet: Rc<Outlet>,
        record: Arc<ClientRecord>,
        arrived_micros: u64,
        user: Option<Rc<Credentials>>,
        idle_timeout: std::time::Duration,
    ) -> Self {
        Self {
            outlet,
            record,
            pinned: None.into(),
            redirections: Default::default(),
            blocked: None.into(),
            may_be_silent: false.into(),
            is_waiting: false.into(),
            finished_micros: 0.into(),
            unknown_micros: arrived_micros.max(1).into(),
            begun_micros: 0.into(),
            is_upload: false.into(),
            user: Cell::new(user),
            login: LoginCell::default(),
            idle_timeout: idle_timeout.into(),
            must_reseat: false.into(),
            killing: None.into(),
            evicting: None.into(),
        }
    }

    /// Tells whether its commands run as a user of whom `is_it` is true.
    pub(super) fn is_user(&self, is_it: impl FnOnce(&Rc<Credentials>) -> bool) -> bool {
        let user = self.user.take();
        let is_user = user.as_ref().is_some_and(is_it);
        self.user.set(user);
        is_user
    }

    /// Tells whether nothing it asked for is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.outlet.outstanding() == 0 && !self.outlet.has_unsent() && !self.is_waiting.get()
    }
}

/// What each group is denied.
fn deny_sets(settings: &Settings) -> Vec<Option<Rc<DenySet>>> {
    let set = |group: &Group| DenySet::build(&group.deny_commands).ok();
    let sets = settings.groups.iter().map(set);
    sets.map(|set| set.filter(|set| !set.is_empty()).map(Rc::new))
        .collect()
}

fn users(settings: &Settings) -> Option<Rc<ConfiguredUsers>> {
    let auth = &settings.auth;
    (auth.mode == AuthMode::Proxy).then(|| Rc::new(ConfiguredUsers::new(&auth.users)))
}

/// Where respool has no secret of its own, it is nobody else than who has not authenticated.
fn guest(settings: &Settings) -> Option<Rc<Credentials>> {
    let has_guests =
        settings.auth.mode == AuthMode::Passthrough && settings.upstream.login.is_some();
    has_guests.then(|| Rc::new(Credentials::guest()))
}

/// Holds what the clients of one worker share.
pub struct Clients {
    /// What everything on this thread shares.
    pub thread: Rc<Thread>,
    /// The server's side.
    pub upstream: Rc<Upstream>,
    /// Who may come.
    pub admission: Arc<Admission>,
    /// All clients of the process.
    pub registry: Arc<ClientRegistry>,
    /// The users of the configuration (`auth.mode = "proxy"`).
    users: RefCell<Option<Rc<ConfiguredUsers>>>,
    /// Who clients are until they authenticate; `None`: respool's own user.
    guest: RefCell<Option<Rc<Credentials>>>,
    /// Attempts to authenticate.
    pub(super) attempts: AttemptQueue,
    /// What clients have shown that the server has taken.
    pub(super) taken: RefCell<TakenCredentials>,
    /// What the server says of their users.
    pub(super) user_watch: UserWatch,
    /// Failed attempts to authenticate since the last line about them, and when that was, in the worker's microseconds.
    pub auth_failures: Cell<(u64, Option<u64>)>,
    /// What each group is denied; `None`: nothing.
    deny: RefCell<Vec<Option<Rc<DenySet>>>>,
    /// Reaches the other workers.
    pub tell_workers: TellWorkers,
    /// Respool is ending: clients are closed between requests.
    pub draining: Cell<bool>,
    /// What is to be done about those who do not read.
    pub(super) room: Room,
    /// The clients of this worker.
    pub entries: RefCell<HashMap<u64, Rc<ClientEntry>>>,
    /// The requests that are passed on as they arrive, by client.
    pub(super) uploads: RefCell<HashMap<u64, Upload>>,
    pub(super) closes: CloseLog,
    pub(super) spares: SpareBuffers,
    /// Clients that were looked at for others since one of those was last interrupted for it.
    pub(super) searched: Cell<usize>,
}

impl Clients {
    /// A worker's clients, of whom there are none yet.
    pub fn new(
        upstream: Rc<Upstream>,
        admission: Arc<Admission>,
        registry: Arc<ClientRegistry>,
        tell_workers: TellWorkers,
    ) -> Rc<Self> {
        let thread = Rc::clone(&upstream.thread);
        let settings = thread.settings();
        let spares = SpareBuffers::new(&thread.account);
        let clients = Rc::new(Self {
            spares,
            users: RefCell::new(users(&settings)),
            guest: RefCell::new(guest(&settings)),
            attempts: AttemptQueue::new(&settings, &thread.process.served),
            taken: RefCell::new(TakenCredentials::new(Arc::clone(&thread.process.served))),
            user_watch: UserWatch::default(),
            auth_failures: Cell::default(),
            deny: RefCell::new(deny_sets(&settings)),
            thread,
            upstream,
            admission,
            registry,
            tell_workers,
            draining: Cell::default(),
            room: Room::default(),
            entries: RefCell::default(),
            uploads: RefCell::default(),
            closes: CloseLog::default(),
            searched: Cell::default(),
        });
        clients.keep_room();
        clients
    }

    /// What makes room in a group.
    pub fn evictor(&self) -> Evictor {
        Evictor {
            admission: Arc::clone(&self.admission),
            registry: Arc::clone(&self.registry),
            tell_workers: Arc::clone(&self.tell_workers),
        }
    }

    /// The way out to a client on `stream`.
    pub(super) fn outlet(&self, stream: &Rc<Stream>, record: &Arc<ClientRecord>) -> Rc<Outlet> {
        let (thread, limit_bytes) = (
            &self.thread,
            self.thread.settings().limits.max_client_buffer,
        );
        let counters = Arc::clone(&thread.counters);
        let (stream, record) = (Rc::clone(stream), Arc::clone(record));
        Outlet::new(stream, limit_bytes, &thread.account, record, counters)
    }

    /// The users of the configuration (`auth.mode = "proxy"`).
    pub fn users(&self) -> Option<Rc<ConfiguredUsers>> {
        self.users.borrow().clone()
    }

    /// Who clients are until they authenticate; `None`: respool's own user.
    pub fn guest(&self) -> Option<Rc<Credentials>> {
        self.guest.borrow().clone()
    }

    /// How long a client of the group with this index may be silent.
    pub fn idle_timeout(&self, group: usize) -> std::time::Duration {
        let settings = self.thread.settings();
        let group = settings.groups.get(group);
        group.map_or(settings.limits.idle_timeout, |group| group.idle_timeout)
    }

    /// What the group with this index is denied; `None`: nothing.
    #[inline]
    pub fn denied(&self, group: usize) -> Option<Rc<DenySet>> {
        self.deny.borrow().get(group)?.clone()
    }

    /// Does what a message asks for, if its client is one of this worker's.
    pub fn run(self: &Rc<Self>, message: ClientMessage) {
        match message {
            ClientMessage::Kill(ids, notice) => {
                let entries = self.entries.borrow();
                for entry in ids.iter().filter_map(|id| entries.get(id)) {
                    entry
                        .killing
                        .borrow_mut()
                        .get_or_insert_with(|| Arc::clone(&notice));
                    entry.outlet.close(Disconnect::Killed);
                }
            }
            ClientMessage::Evict(id, answer) => {
                let entries = self.entries.borrow();
                let Some(entry) = entries.get(&id) else {
                    return;
                };
                let answer = answer.lock().ok().and_then(|mut answer| answer.take());
                let is_free = entry.is_idle()
                    && !entry.record.has(ClientFlag::Pinned)
                    && !entry.record.has(ClientFlag::Pubsub);
                if is_free && !entry.outlet.is_closed() {
                    *entry.evicting.borrow_mut() = answer;
                    entry.outlet.close(Disconnect::Evicted);
                }
            }
            ClientMessage::Close(ids, why) => {
                let entries = self.entries.borrow();
                for entry in ids.iter().filter_map(|id| entries.get(id)) {
                    entry.outlet.close(why);
                }
            }
            ClientMessage::Shed => self.shed(),
            ClientMessage::Announce(message) => self.upstream.announced(&message),
            ClientMessage::Invalidate(invalidations) => invalidations.deliver(self),
            ClientMessage::Unblock(id, with_error, answer) => self.unblock(id, with_error, &answer),
        }
    }

    /// Goes by what the process goes by from now on.
    pub fn reload(&self) {
        self.thread.reload();
        let settings = self.thread.settings();
        *self.deny.borrow_mut() = deny_sets(&settings);
        *self.users.borrow_mut() = users(&settings);
        self.attempts.reload(&settings);
        // Once there has been a secret, connections may be about that were opened by it.
        let mut of_strangers = self.guest.borrow_mut();
        if of_strangers.is_none() {
            *of_strangers = guest(&settings);
        }
        drop(of_strangers);
        self.upstream.reload();
    }

    /// Has each client go, before its next request, to the group it belongs to now.
    pub fn reseat(&self) {
        for entry in self.entries.borrow().values() {
            entry.must_reseat.set(true);
            entry.outlet.wake();
        }
    }

    /// Clients are closed between requests from now on.
    pub fn drain(&self) {
        self.draining.set(true);
        self.entries
            .borrow()
            .values()
            .for_each(|entry| entry.outlet.wake());
    }

    /// Asks the server to unblock a client of this worker, whose connection is kept from being lent on meanwhile.
    fn unblock(self: &Rc<Self>, id: u64, with_error: bool, answer: &Answer) {
        let (waiter, link) = match self.entries.borrow().get(&id) {
            None => return,
            Some(entry) => (
                entry.blocked.borrow().clone(),
                entry.pinned.borrow().clone(),
            ),
        };
        let Some(answer) = answer.lock().ok().and_then(|mut answer| answer.take()) else {
            return;
        };
        if let Some(waiter) = waiter {
            let mode = match with_error {
                true => UnblockMode::Error,
                false => UnblockMode::Timeout,
            };
            return waiter.unblock(mode, answer);
        }
        let Some(link) = link.filter(|link| link.is_blocked()) else {
            return;
        };
        let mode = if with_error { "ERROR" } else { "TIMEOUT" };
        let server_id = link.server_id.to_string();
        let request =
            crate::resp::speak::encode_request(&["CLIENT", "UNBLOCK", server_id.as_str(), mode]);
        let (upstream, held) = (Rc::clone(&self.upstream), link.hold());
        tokio::task::spawn_local(async move {
            // Another server has other clients by the same ids.
            let told = upstream.ask_at(&link.origin().node, &request).await;
            let unblocked = told.is_some_and(|reply| reply.starts_with(b":1"));
            drop(held);
            // Who asked may have gone.
            let _ = answer.send(unblocked);
        });
    }
}
