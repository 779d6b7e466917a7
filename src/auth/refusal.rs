//! What Redis 7.0 answers those who have not shown who they are.

/// Any command but those that authenticate.
pub const NOAUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";

/// HELLO without AUTH among its options.
pub const HELLO_NOAUTH: &[u8] = b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
    <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n";

/// A user that there is not, or whose password is another.
pub const WRONGPASS: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// `AUTH password` where the default user has none.
pub const NO_PASSWORD: &[u8] =
    b"-ERR AUTH <password> called without any password configured for the default user. Are you \
    sure your configuration is correct?\r\n";

/// Whether a reply to AUTH or HELLO says that the password is wrong; before Redis 6 in other words.
pub fn is_wrong_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-ERR invalid password")
}
