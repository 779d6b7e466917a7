//! Clients whose user the server has deleted, or has taken a channel from that they are subscribed to, are closed, as it would
//! close them itself: here they share connections of respool's own user, which it leaves alone.
//!
//! Each user that clients have shown is looked up every two seconds (`ACL GETUSER`), once however many clients it has. Where
//! respool's own user may not look, the server is shown what the clients have shown, and asked about their channels as their
//! user, in slices.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::{ClientEntry, Clients};
use crate::auth::UserRounds;
use crate::fanout::{ChannelRights, PUBSUB_KINDS, TopicKind, UserTold};
use crate::identity::{ClientFlag, DEFAULT_USER};
use crate::resp::speak::encode_request;
use crate::session::Credentials;
use crate::telemetry::{Disconnect, Throttle};

/// Says how often it is looked who has clients.
const LOOKED_EVERY: Duration = Duration::from_millis(250);

/// Topics of a slice, as the user whose they are.
const SLICE: usize = 256;

/// Topics that are looked at before others have their turn.
const TOPICS_A_TURN: usize = 10_000;

/// Holds what is known of the users of one worker's clients.
#[derive(Default)]
pub(super) struct UserWatch {
    rounds: RefCell<UserRounds>,
    /// The channels of each, as far as its subscribers were held against them.
    rights: RefCell<HashMap<Box<[u8]>, ChannelRights>>,
    looked_micros: Cell<u64>,
    line: Throttle,
}

impl UserWatch {
    /// A client of this user subscribes to something: what is known may have been known before the server permitted it.
    pub(super) fn subscribes(&self, user: &Credentials) {
        self.rights.borrow_mut().remove(user.user());
    }
}

impl UserWatch {
    /// The subscribers of a user are about to be held against its rights; there are so many users.
    fn keep(&self, user: &[u8], rights: &ChannelRights, users: usize) {
        let mut known = self.rights.borrow_mut();
        if known.len() > 2 * users + 64 {
            // Of users that have no clients any more.
            known.clear();
        }
        known.insert(user.into(), rights.clone());
    }
}

/// Says why clients are closed.
#[derive(Clone, Copy)]
enum Lost {
    User,
    Channel,
}

impl Clients {
    /// Looks up the users that are due.
    pub(super) fn watch_users(self: &Rc<Self>) {
        let (watch, clock) = (&self.user_watch, &self.thread.clock);
        if !clock.is_past(watch.looked_micros.get(), LOOKED_EVERY) {
            return;
        }
        let now = clock.now_micros();
        watch.looked_micros.set(now);
        if self.upstream.is_away() {
            return;
        }
        let users = self.taken.borrow_mut().users();
        if users.is_empty() && self.guest().is_none() {
            return;
        }
        let guest = self.guest().map(|_| Box::from(DEFAULT_USER));
        let mut rounds = watch.rounds.borrow_mut();
        rounds.here(users.into_iter().chain(guest), now);
        let due = rounds.due(now);
        drop(rounds);
        for user in due {
            tokio::task::spawn_local(Rc::clone(self).look_up(user));
        }
    }

    async fn look_up(self: Rc<Self>, user: Box<[u8]>) {
        let request = encode_request(&[&b"ACL"[..], b"GETUSER", &user]);
        let limit = self.thread.settings().upstream.reply_timeout;
        let asking = Rc::clone(&self.upstream).ask_as_own(&request);
        // What takes longer is asked again in its turn.
        if let Ok(Some(reply)) = tokio::time::timeout(limit, asking).await {
            match UserTold::read(&reply) {
                UserTold::Gone => self.close_user(&user),
                UserTold::Rights(rights) => self.hold_against(&user, rights).await,
                UserTold::Nothing => {
                    // As long as that is under way it is not asked again. Each answer has its own time: the whole takes as long as there are topics.
                    self.ask_as_user(&user).await;
                }
            }
        }
        let now = self.thread.clock.refresh();
        self.user_watch.rounds.borrow_mut().told(&user, now);
    }

    /// Closes the subscribers of a user that have lost a channel. Nobody has, where nothing has changed since they were last
    /// looked at.
    async fn hold_against(&self, user: &[u8], rights: ChannelRights) {
        let known = self.user_watch.rights.borrow().get(user) == Some(&rights);
        if known {
            return;
        }
        self.user_watch
            .keep(user, &rights, self.taken.borrow().count());
        if rights.allows_all() {
            return;
        }
        let mut looked_at = 0;
        let is_theirs = |credentials: &Rc<Credentials>| credentials.user() == user;
        for entry in self.subscribers_of(is_theirs) {
            // While others had their turn it may have become another user's.
            if !entry.is_user(is_theirs) {
                continue;
            }
            let (id, subscriptions) = (
                entry.record.id(),
                self.upstream.subscriptions_of(&entry.outlet),
            );
            looked_at += subscriptions.counts(id).total();
            if subscriptions.has_topic(id, |kind, topic| !rights.allows(kind, topic)) {
                self.close(&entry, Lost::Channel);
            }
            if looked_at > TOPICS_A_TURN {
                looked_at = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Holds the clients of a user against what the server lets them do, where respool's own user may not look it up.
    async fn ask_as_user(&self, user: &[u8]) {
        let shown = self.taken.borrow().all_of(user);
        let guest = self.guest().filter(|guest| guest.user() == user);
        // Once for all of them: of a user without a password each client may show one of its own.
        let mut clients = self.clients_by_what_they_show(user);
        for credentials in shown {
            let of_user = clients.remove(&Rc::as_ptr(&credentials));
            let of_user = of_user.unwrap_or_default();
            // Whoever has not authenticated is looked after elsewhere.
            let asking = Rc::clone(&self.upstream).takes(Rc::clone(&credentials));
            if self.told_in_time(asking).await == Some(false) {
                self.close_those_without_password(&of_user, &credentials);
            } else {
                self.ask_about_topics(&credentials, of_user).await;
            }
        }
        if let Some(guest) = guest {
            let guests = clients.remove(&Rc::as_ptr(&guest));
            self.ask_about_topics(&guest, guests.unwrap_or_default())
                .await;
        }
    }

    /// Closes those of the clients that show still what the server takes no more: since it was asked they may have shown the
    /// password that holds now, or be about to.
    fn close_those_without_password(&self, clients: &[Rc<ClientEntry>], shown: &Rc<Credentials>) {
        for one in clients {
            if one.is_user(|user| Rc::ptr_eq(user, shown)) && one.login.is_lost_now() {
                self.close(one, Lost::User);
            }
        }
    }

    /// Closes a client that has shown nothing that the server takes, although it has had another try.
    pub(super) fn close_without_password(&self, entry: &ClientEntry) {
        self.close(entry, Lost::User);
    }

    /// The clients of a user, by what they have shown, which is kept once for all that show the same.
    fn clients_by_what_they_show(
        &self,
        user: &[u8],
    ) -> HashMap<*const Credentials, Vec<Rc<ClientEntry>>> {
        let mut clients: HashMap<_, Vec<Rc<ClientEntry>>> = HashMap::new();
        for entry in self.entries_of(|credentials| credentials.user() == user) {
            let shown = entry.user.take();
            if let Some(shown) = &shown {
                clients
                    .entry(Rc::as_ptr(shown))
                    .or_default()
                    .push(Rc::clone(&entry));
            }
            entry.user.set(shown);
        }
        clients
    }

    /// Has the server look at every topic once that these clients of a user are subscribed to. Who has lost one is closed at once, and what
    /// only such clients are subscribed to is not asked about any more: of a thousand lost topics of one client the server is asked about a
    /// few.
    async fn ask_about_topics(
        &self,
        credentials: &Rc<Credentials>,
        mut subscribers: Vec<Rc<ClientEntry>>,
    ) {
        subscribers.retain(|one| one.record.has(ClientFlag::Pubsub));
        let Some(group) = subscribers
            .first()
            .map(|one| one.record.group.get() as usize)
        else {
            return;
        };
        for kind in PUBSUB_KINDS {
            let mut topics: HashMap<Rc<[u8]>, usize> = HashMap::new();
            for topic in subscribers.iter().flat_map(|one| self.topics_of(one, kind)) {
                *topics.entry(topic).or_default() += 1;
            }
            let all: Vec<Rc<[u8]>> = topics.keys().cloned().collect();
            let mut slices: Vec<Vec<Rc<[u8]>>> = all.chunks(SLICE).map(<[_]>::to_vec).collect();
            while let Some(mut slice) = slices.pop() {
                slice.retain(|topic| topics.contains_key(topic));
                let Some(topic) = slice.first().cloned() else {
                    continue;
                };
                let upstream = Rc::clone(&self.upstream);
                let asking = upstream.may_still_subscribe(group, credentials, kind, &slice);
                match self.told_in_time(asking).await {
                    Some(true) => {}
                    Some(false) if slice.len() == 1 => {
                        let gone =
                            self.close_without_topic(credentials, &mut subscribers, kind, &topic);
                        for topic in gone.iter().flat_map(|one| self.topics_of(one, kind)) {
                            if let Some(others) = topics.get_mut(&topic) {
                                // It may have subscribed to something since they were counted.
                                *others = others.saturating_sub(1);
                            }
                        }
                        topics.retain(|_, others| *others > 0);
                        topics.remove(&topic);
                    }
                    Some(false) => {
                        let other = slice.split_off(slice.len() / 2);
                        slices.extend([slice, other]);
                    }
                    None => return,
                }
            }
        }
    }

    /// Returns what the server says within the time that it has for a reply; `None`: nothing, and it is asked again in its turn.
    async fn told_in_time(&self, asking: impl Future<Output = Option<bool>>) -> Option<bool> {
        let limit = self.thread.settings().upstream.reply_timeout;
        tokio::time::timeout(limit, asking).await.ok().flatten()
    }

    /// Returns what a client is subscribed to.
    fn topics_of(&self, one: &ClientEntry, kind: TopicKind) -> Vec<Rc<[u8]>> {
        let subscriptions = self.upstream.subscriptions_of(&one.outlet);
        subscriptions.some_topics(one.record.id(), kind, usize::MAX)
    }

    /// Takes out of `subscribers` those who have this topic, and closes those of them who are the user's still: since the server was asked they
    /// may have become another's.
    fn close_without_topic(
        &self,
        credentials: &Rc<Credentials>,
        subscribers: &mut Vec<Rc<ClientEntry>>,
        kind: TopicKind,
        lost: &[u8],
    ) -> Vec<Rc<ClientEntry>> {
        let (gone, stay) = std::mem::take(subscribers).into_iter().partition(|one| {
            let subscriptions = self.upstream.subscriptions_of(&one.outlet);
            subscriptions.is_subscribed(one.record.id(), kind, lost)
        });
        *subscribers = stay;
        for one in &gone {
            if one.is_user(|user| Rc::ptr_eq(user, credentials)) {
                self.close(one, Lost::Channel);
            }
        }
        gone
    }

    fn entries_of(&self, is_theirs: impl Fn(&Rc<Credentials>) -> bool) -> Vec<Rc<ClientEntry>> {
        let entries = self.entries.borrow();
        let theirs = entries.values().filter(|entry| entry.is_user(&is_theirs));
        theirs.cloned().collect()
    }

    fn subscribers_of(&self, is_theirs: impl Fn(&Rc<Credentials>) -> bool) -> Vec<Rc<ClientEntry>> {
        let mut theirs = self.entries_of(is_theirs);
        theirs.retain(|one| one.record.has(ClientFlag::Pubsub));
        theirs
    }

    fn close_user(&self, user: &[u8]) {
        let theirs = self.entries_of(|credentials| credentials.user() == user);
        theirs.iter().for_each(|one| self.close(one, Lost::User));
    }

    fn close(&self, entry: &ClientEntry, lost: Lost) {
        if entry.outlet.is_closed() {
            return;
        }
        if let Some(unwritten) = self.user_watch.line.write(self.thread.clock.now_micros()) {
            let why = match lost {
                Lost::User => "the server knows its user no more, or takes its password no more",
                Lost::Channel => {
                    "the server has taken a channel from its user that it is subscribed to"
                }
            };
            tracing::warn!(client = %entry.record.peer(), unwritten, "a client is closed: {why}");
        }
        entry.outlet.close(Disconnect::PermissionLost);
    }
}
