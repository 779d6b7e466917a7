//! Where the server is and what it is, as the workers know it together: its addresses, how it was lost, what it says of itself,
//! when it was heard and what it holds back.
//!
//! Nothing here holds a connection to it: settings, time and what was heard are told.

mod address;
mod current;
mod ends;
mod failovers;
mod hello;
mod info;
mod listing;
mod name;
mod origin;
mod pauses;
mod pulse;

pub use address::{CurrentTerms, LookUpTerms, ServerAddress};
pub use current::CurrentServer;
pub use ends::{ServerId, UncountedEnds, UnseenEnd, UnseenEnds};
pub use failovers::{ConnectNews, ConnectProbe, Failovers};
pub use hello::ServerHello;
pub use info::ServerInfo;
pub use listing::{CommandListing, ListHint};
pub use origin::LinkOrigin;
pub use pauses::{COMES_FIRST, TakenPause, comes_first};
pub use pulse::{ServerPulse, ThreadPulse};
