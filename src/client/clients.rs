//! What the worker, and other threads, ask of the clients of one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::closes::CloseLog;
use super::eviction::Evictor;
use super::local::attempts::AttemptQueue;
use super::local::changing_user::LoginCell;
use super::local::permitted::PermissionQuestions;
use super::room::Room;
use super::spares::SpareBuffers;
use super::user_watch::UserWatch;
use super::{ClientEntry, ClientMessage, Clients, ClientsMessage, TellWorkers};
use crate::admission::Admission;
use crate::auth::ConfiguredUsers;
use crate::command::DenySet;
use crate::config::{AuthMode, ClientGroup, Settings};
use crate::identity::{ClientFlag, ClientRecord, ClientRegistry};
use crate::outlet::Outlet;
use crate::session::{Credentials, TakenCredentials};
use crate::telemetry::Disconnect;
use crate::transport::Stream;
use crate::upstream::Upstream;
use crate::waits::UnblockMode;

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
            must_reassign: false.into(),
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

/// Returns what each group is denied.
fn deny_sets(settings: &Settings) -> Vec<Option<Rc<DenySet>>> {
    let set = |group: &ClientGroup| DenySet::build(&group.deny_commands).ok();
    let sets = settings.groups.iter().map(set);
    sets.map(|set| set.filter(|set| !set.is_empty()).map(Rc::new))
        .collect()
}

fn users(settings: &Settings) -> Option<Rc<ConfiguredUsers>> {
    let auth = &settings.auth;
    (auth.mode == AuthMode::Proxy).then(|| Rc::new(ConfiguredUsers::new(&auth.users)))
}

/// Returns who clients are until they authenticate. There is no such user where respool has no secret of its own: it is then nobody else
/// than who has not authenticated.
fn guest(settings: &Settings) -> Option<Rc<Credentials>> {
    let has_guests =
        settings.auth.mode == AuthMode::Passthrough && settings.upstream.login.is_some();
    has_guests.then(|| Rc::new(Credentials::guest()))
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
            permission_questions: PermissionQuestions::default(),
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

    /// Returns what makes room in a group.
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

    /// Returns who clients are until they authenticate; `None`: respool's own user.
    pub fn guest(&self) -> Option<Rc<Credentials>> {
        self.guest.borrow().clone()
    }

    /// Returns how long a client of the group with this index may be silent.
    pub fn idle_timeout(&self, group: usize) -> std::time::Duration {
        let settings = self.thread.settings();
        let group = settings.groups.get(group);
        group.map_or(settings.limits.idle_timeout, |group| group.idle_timeout)
    }

    /// Returns what the group with this index is denied; `None`: nothing.
    #[inline]
    pub fn denied(&self, group: usize) -> Option<Rc<DenySet>> {
        self.deny.borrow().get(group)?.clone()
    }

    /// Tells the worker of the client with this number, where it is there still.
    pub(super) fn tell_worker_of(&self, id: u64, message: ClientMessage) {
        if let Some(record) = self.registry.find(id) {
            self.tell_workers.tell(record.worker(), message);
        }
    }

    /// Does what a message asks for, if its client is one of this worker's.
    pub fn run(self: &Rc<Self>, message: ClientMessage) {
        match message {
            ClientMessage::Evict(id, answer) => {
                let entries = self.entries.borrow();
                let Some(entry) = entries.get(&id) else {
                    return;
                };
                let is_free = entry.is_idle()
                    && !entry.record.has(ClientFlag::Pinned)
                    && !entry.record.has(ClientFlag::Pubsub);
                if is_free && !entry.outlet.is_closed() {
                    *entry.evicting.borrow_mut() = Some(answer);
                    entry.outlet.close(Disconnect::Evicted);
                }
            }
            ClientMessage::Invalidate(invalidations) => invalidations.deliver(self),
            ClientMessage::Unblock(id, with_error, answer) => self.unblock(id, with_error, answer),
        }
    }

    /// Does what a message to all workers asks for, to those clients that are this worker's.
    pub fn run_for_all(&self, message: ClientsMessage) {
        match message {
            ClientsMessage::Kill(ids, notice) => {
                let entries = self.entries.borrow();
                for entry in ids.iter().filter_map(|id| entries.get(id)) {
                    entry
                        .killing
                        .borrow_mut()
                        .get_or_insert_with(|| Arc::clone(&notice));
                    entry.outlet.close(Disconnect::Killed);
                }
            }
            ClientsMessage::Close(ids, why) => {
                let entries = self.entries.borrow();
                for entry in ids.iter().filter_map(|id| entries.get(id)) {
                    entry.outlet.close(why);
                }
            }
            ClientsMessage::Shed => self.shed(),
            ClientsMessage::Announce(message) => self.upstream.announced(&message),
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
    pub fn reassign(&self) {
        for entry in self.entries.borrow().values() {
            entry.must_reassign.set(true);
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
    fn unblock(self: &Rc<Self>, id: u64, with_error: bool, answer: oneshot::Sender<bool>) {
        let (waiter, link) = match self.entries.borrow().get(&id) {
            None => return,
            Some(entry) => (
                entry.blocked.borrow().clone(),
                entry.pinned.borrow().clone(),
            ),
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
        let server_id = link.server_id().to_string();
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
