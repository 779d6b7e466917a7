//! The client's side: read, route, forward, write.
//!
//! Here stand the parts of a client and of what the clients of a worker share; the files around hold what they do, and none of them is needed by
//! one that it needs. `task` is one client's life, `serve` its loop and its gate; `clients` is what other threads and the worker ask of it.
//! `requests` cuts what it sent and forwards it, `sharing` to which shared connection; `story` is what a request that is not done with at
//! once is made of, `slow` are those stories; `local` is what respool answers itself, `in_multi` where that stands in a transaction.
//!
//! `pinned` is what needs a connection of its own, `tracking` CLIENT TRACKING, `caching` how long CLIENT CACHING holds, `redirection` where
//! invalidations lead, `subscribed` subscriptions, `large` a request too large to share, `raw` one that may be answered with more than a
//! reply, `unplaced` a transaction that a busy server has not been told of. `searches` is what it costs to look for other clients,
//! `arriving` who has yet to say who it is, `restrictions` what stands before a request, `regroup` how a client goes to another group.
//! `rejected` is who was rejected, `rejection` what is logged of it, `refusals` what is said to clients whose commands respool refuses itself,
//! `questions` what a server is asked in the place of a command, `server_says` what a server that serves nobody for now says for itself.
//! `leaving` notices clients that leave while they wait, `sent_ahead` keeps what they send meanwhile, `timers` closes those that take too
//! long, and `closes` says why respool closed one.

mod again;
mod amid_messages;
mod arriving;
mod caching;
mod clients;
mod closes;
mod eviction;
mod in_multi;
mod kept;
mod large;
mod leaving;
mod local;
mod many_topics;
mod pausing;
mod pinned;
mod publish;
mod questions;
mod raw;
mod redirection;
mod refusals;
mod regroup;
mod rejected;
mod rejection;
mod requests;
mod room;
mod searches;
mod sent_ahead;
mod sent_amid;
mod serve;
mod server_says;
mod sharing;
mod slow;
mod spares;
mod story;
mod subscribed;
mod task;
mod timers;
mod tracking;
mod unplaced;
mod user_watch;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use self::closes::CloseLog;
use self::leaving::EndWatch;
use self::local::attempts::AttemptQueue;
use self::local::changing_user::LoginCell;
use self::local::permitted::PermissionQuestions;
use self::pinned::LentConnection;
use self::redirection::{Invalidations, Redirection};
use self::room::Room;
use self::sent_ahead::SentAhead;
use self::spares::SpareBuffers;
use self::story::{Awaited, NextStory, SlowRequest};
use self::user_watch::UserWatch;
use crate::admission::{Admission, AdmissionRefusal, ClientPermit};
use crate::auth::ConfiguredUsers;
use crate::budget::UploadPace;
use crate::command::{DenySet, PinReason};
use crate::identity::{ClientRecord, ClientRegistry, RegisteredClient};
use crate::link::{Link, RoomWait};
use crate::outlet::Outlet;
use crate::resp::RequestScanner;
use crate::session::{
    Credentials, Restrictions, Routed, Session, TakenCredentials, UnplacedTransaction,
};
use crate::telemetry::Disconnect;
use crate::thread::Thread;
use crate::transport::Stream;
use crate::upstream::{Announcement, BlockedClient, Upstream};

pub use eviction::Evictor;
pub use rejected::hold;
pub use rejection::tell_rejection;
pub use task::Arrived;

/// Holds one client: its socket, its session and what it is in the middle of.
pub struct Client {
    clients: Rc<Clients>,
    stream: Rc<Stream>,
    outlet: Rc<Outlet>,
    entry: Rc<ClientEntry>,
    record: RegisteredClient,
    permit: ClientPermit,
    session: Session,
    scanner: RequestScanner,
    /// The request whose story is to begin.
    slow: Option<Box<SlowRequest>>,
    /// Holds what has been read behind that, and not used.
    input: Vec<u8>,
    /// Holds what has been read behind that while a call waits.
    sent_ahead: Option<Box<SentAhead>>,
    link: Option<Rc<Link>>,
    pin: Option<LentConnection>,
    wait: Wait,
    /// It has written on a connection that is not lent to it now.
    has_written: bool,
    /// The server cannot take the requests that are here: each is answered with this.
    refusing: Option<Vec<u8>>,
    /// Its transaction, of which the busy server has not been told.
    unplaced: Option<Box<UnplacedTransaction>>,
    /// The socket was emptied by the last read.
    is_drained: bool,
    /// It will be closed for this once its replies are out.
    ending: Option<Disconnect>,
    rejected: Option<Box<AdmissionRefusal>>,
    /// Says what stands between its requests and where they go.
    restrictions: Restrictions,
    is_at_end: bool,
    /// Looks for its end while it is not read.
    end_watch: Option<EndWatch>,
    has_left: bool,
    seen_bytes_out: u64,
    /// Dropped last, when its place and its entry in the list are gone: who waits for its place may take it then.
    gone: Option<tokio::sync::oneshot::Sender<bool>>,
}

/// Says what a client waits for before its next request is looked at.
enum Wait {
    Nothing,
    /// It waits until nothing is outstanding.
    Answers,
    /// It waits until fewer requests are outstanding.
    InFlight,
    /// It waits until it has read what is held for it.
    Unread,
    /// It waits until the connection takes more bytes.
    Room(RoomWait),
    /// It waits until the others have had their turns; true: they were let go first.
    Turn(bool),
    /// This story is to begin.
    Next(NextStory),
    /// It waits for what its story waits for.
    Story(Awaited),
}

impl Wait {
    /// Tells whether a story is to begin.
    fn is_to_begin(&self) -> bool {
        matches!(self, Self::Next(_))
    }

    /// Takes out the story that is to begin.
    fn take_next(&mut self) -> Option<NextStory> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Next(story) => Some(story),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Says how the requests at hand go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// This many bytes are done with.
    Used(usize),
    /// Nothing more can be done before what is waited for.
    Wait,
    /// More bytes are needed.
    More,
    /// A connection is to be lent for this reason first.
    Lend(PinReason),
    /// The request has a story, which is told when everything before it has been answered.
    Slow(Box<Routed>),
}

/// Holds what the clients of one worker share.
pub struct Clients {
    /// Holds what everything on this thread shares.
    pub thread: Rc<Thread>,
    /// Holds this worker's connections to the server.
    pub upstream: Rc<Upstream>,
    /// Decides which clients may come.
    pub admission: Arc<Admission>,
    /// All clients of the process.
    pub registry: Arc<ClientRegistry>,
    /// The users of the configuration (`auth.mode = "proxy"`).
    users: RefCell<Option<Rc<ConfiguredUsers>>>,
    /// Says who clients are until they authenticate; `None`: respool's own user.
    guest: RefCell<Option<Rc<Credentials>>>,
    /// Holds the attempts to authenticate that are under way or wait.
    attempts: AttemptQueue,
    /// Holds what the server is being asked about permissions that concern their own connections alone.
    permission_questions: PermissionQuestions,
    /// Holds what clients have shown that the server has taken.
    taken: RefCell<TakenCredentials>,
    /// Holds what the server says of their users.
    user_watch: UserWatch,
    /// Failed attempts to authenticate since the last line about them, and when that was, in the worker's microseconds.
    pub auth_failures: Cell<(u64, Option<u64>)>,
    /// Says what each group is denied; `None`: nothing.
    deny: RefCell<Vec<Option<Rc<DenySet>>>>,
    /// Reaches the other workers.
    pub tell_workers: TellWorkers,
    /// Respool is ending: clients are closed between requests.
    pub draining: Cell<bool>,
    /// Holds what is known of those who do not read.
    room: Room,
    /// The clients of this worker.
    pub entries: RefCell<HashMap<u64, Rc<ClientEntry>>>,
    /// Tells how the requests keep up that are passed on as they arrive, by client.
    uploads: RefCell<HashMap<u64, UploadPace>>,
    closes: CloseLog,
    spares: SpareBuffers,
    /// Clients that were looked at for others since one of those was last interrupted for it.
    searched: Cell<usize>,
}

/// Asks the worker that has a client to do something to it.
#[derive(Debug)]
pub enum ClientMessage {
    /// It closes a client that is idle and free of state (`at_limit = "evict-idle"`). The sender is dropped when that is gone, or stays.
    Evict(u64, oneshot::Sender<bool>),
    /// It hands invalidations to one of its clients.
    Invalidate(Invalidations),
    /// It unblocks a client, with an error (true) or as if the time had passed, and says whether it was blocked.
    Unblock(u64, bool, oneshot::Sender<bool>),
}

/// Asks every worker to do something about those of its clients that are meant.
#[derive(Debug, Clone)]
pub enum ClientsMessage {
    /// It kills these clients (CLIENT KILL). The notice is dropped when all of them are gone.
    Kill(Arc<[u64]>, Arc<KillNotice>),
    /// It closes clients for a reason of respool's own.
    Close(Arc<[u64]>, Disconnect),
    /// It tells of a large message that is about to be sent.
    Announce(Arc<Announcement>),
    /// It tells that there is no room: who holds the most goes.
    Shed,
}

/// Is held by each client that is being killed until that is gone: whoever killed them learns of the last.
#[derive(Debug)]
pub struct KillNotice(
    #[expect(dead_code, reason = "its drop is what tells")] pub oneshot::Sender<()>,
);

/// Reaches the workers from any thread. A worker that is too far behind is not told.
pub trait WorkerMailboxes: Send + Sync {
    /// Tells one worker, that of the client which is meant.
    fn tell(&self, worker: usize, message: ClientMessage);

    /// Tells every worker the same.
    fn tell_all(&self, message: &ClientsMessage);
}

/// Is how all who have something to tell workers share their mailboxes.
pub type TellWorkers = Arc<dyn WorkerMailboxes>;

/// Holds what a worker knows of one of its clients.
pub struct ClientEntry {
    /// Is the client's way out.
    pub outlet: Rc<Outlet>,
    /// Holds the client's figures and names.
    pub record: Arc<ClientRecord>,
    /// The connection lent to it.
    pub pinned: RefCell<Option<Rc<Link>>>,
    /// Holds what stands for the client to which its invalidations are redirected, and for those to which they may be by what is queued.
    pub redirections: RefCell<Box<[Rc<Redirection>]>>,
    /// Its place in a line of blocked clients.
    pub blocked: RefCell<Option<Rc<BlockedClient>>>,
    /// Is true while it may be silent as long as it likes: blocked, subscribed.
    pub may_be_silent: Cell<bool>,
    /// Is true while something is waited for before its next request.
    pub is_waiting: Cell<bool>,
    /// Says when it was seen to have finished sending, or something went on for it after that; 0: it has not.
    pub finished_micros: Cell<u64>,
    /// Says since when it has not been known, where clients must authenticate; 0: it is.
    pub unknown_micros: Cell<u64>,
    /// Says when the request began that has not ended; 0: there is none.
    pub begun_micros: Cell<u64>,
    /// Is true while that is too large to share.
    pub is_upload: Cell<bool>,
    /// The user of the server as which its commands run; `None`: respool's own.
    user: Cell<Option<Rc<Credentials>>>,
    /// Tells whether it is showing another.
    login: LoginCell,
    /// The group's idle timeout.
    pub idle_timeout: Cell<std::time::Duration>,
    /// A reload may have changed where it belongs and what holds for it.
    pub must_reassign: Cell<bool>,
    /// Dropped when the client, which is being killed, is gone.
    pub killing: RefCell<Option<Arc<KillNotice>>>,
    /// Dropped when the client is gone.
    pub evicting: RefCell<Option<oneshot::Sender<bool>>>,
}
