//! The client's side: read, route, forward, write.
//!
//! `task` is one client's life, `serve` its loop and its gate; `requests` cuts what it sent and forwards it, `sharing` to which shared connection; `pinned` is what needs a connection of its
//! own, `in_multi` what respool itself answers there, `tracking` CLIENT TRACKING, `caching` how long CLIENT CACHING holds, `redirection` where invalidations lead, `subscribed` subscriptions; `slow` are stories; `local` is what respool answers itself, `login` AUTH and HELLO among it, `changing_user` who does so anew, `searches` what it costs to look for other clients; `rejected` is
//! who was rejected, `rejection` what is logged of it; `arriving` is who has yet to say who it is, `restrictions` what stands before a request;
//! `large` is a request too large to share, `raw` one that may be answered with more than a reply; `leaving` notices clients that leave while they wait, `sent_ahead` keeps what they send meanwhile, `unplaced` answers a transaction that a busy server has not been told of, `server_says` is
//! what a server that serves nobody for now says for itself, `timers`
//! closes those that take too long, and `closes` says why respool closed one.

mod again;
mod amid_messages;
mod arriving;
mod attempts;
mod caching;
mod changing_user;
mod clients;
mod closes;
mod eviction;
mod in_multi;
mod kept;
mod large;
mod leaving;
mod local;
mod local_client;
mod login;
mod many_topics;
mod pausing;
mod permitted;
mod pinned;
mod publish;
mod raw;
mod redirection;
mod rejected;
mod rejection;
mod requests;
mod restrictions;
mod room;
mod searches;
mod sent_ahead;
mod sent_amid;
mod serve;
mod server_says;
mod sharing;
mod slow;
mod spares;
mod subscribed;
mod task;
mod timers;
mod tracking;
mod unplaced;
mod user_watch;

pub use clients::{ClientMessage, Clients, TellWorkers};
pub use eviction::Evictor;
pub use rejected::hold;
pub use rejection::tell_rejection;
pub use task::{Arrived, Client};
