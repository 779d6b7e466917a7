//! The server's own words: what respool answers itself is said as the server at hand would say it, by product and version.
//!
//! Seen on Redis 6.2, 7.0 and 8.2 and on Valkey 8.1 and 9.1. Between two of those the older one's words hold, unless the
//! release that changed them is known.

mod answers;
mod errors;
mod known;
mod refusals;
mod version;

pub use answers::{
    BAD_NAME, GROUP_GONE, NO_PASSWORD, NO_SUCH_CLIENT, NO_SUCH_DATABASE, NO_SUCH_PROTOCOL,
    NO_SUCH_REASON, NOAUTH, NOT_AN_INT, NOT_AN_INTEGER, NOTHING_TO_DISCARD, OTHER_KIND,
    PROTOCOL_NOT_AN_INTEGER, QUEUED, READ_ONLY, RESET, STREAM_GONE, SYNTAX_ERROR, TOO_MANY_CLIENTS,
    UNBLOCKED, WRONGPASS, asking, bad_attribute, bad_hello_option, counts_without_a_word,
    import_source, line_syntax, readonly, readwrite, takes_readonly, unknown_attribute,
};
pub use errors::{is_busy, is_loading, is_no_permission, is_other_kind, is_unknown_command};
pub use known::has_command;
pub use refusals::{
    asks_authentication_first, closes_aliens_first, exec_aborted, hello_without_auth,
    nesting_spoils, no_nesting, no_permission, resets_strangers, senseless_subcommand,
    subscribers_may_not, unknown_command, unknown_subcommand, wrong_arity,
};
pub use version::{PackedVersion, ServerProduct, ServerVersion};
