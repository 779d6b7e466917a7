//! Whether a transaction is over, told by what EXEC is answered.

/// The proper errors of EXEC. Redis 6.2 to 8.2 and Valkey 8.1 and 9.1 answer the first whenever they refuse EXEC (NOPERM, BUSY,
/// a wrong number of arguments) or have refused what it was to run, and the second where MULTI was refused.
const PROPER: [&[u8]; 2] = [b"-EXECABORT ", b"-ERR EXEC without MULTI\r"];

/// Tells whether the answer to EXEC that starts with `head` shows that no transaction is open any more: it is an array, a null,
/// or one of EXEC's own errors. Anything else was not said by EXEC: it is renamed, say, and the connection is in MULTI still.
/// `None`: more bytes must tell.
pub fn ends_transaction(head: &[u8]) -> Option<bool> {
    match head.first() {
        None => None,
        Some(b'*' | b'_') => Some(true),
        Some(b'-') => {
            let is_proper = |error: &&[u8]| head.starts_with(error);
            let may_be = |error: &&[u8]| error.starts_with(head);
            match (PROPER.iter().any(is_proper), PROPER.iter().any(may_be)) {
                (true, _) => Some(true),
                (false, true) => None,
                (false, false) => Some(false),
            }
        }
        Some(_) => Some(false),
    }
}

/// Returns how many elements the array has that begins with `bytes`, and where the first of them stands; `None`: it is none, or
/// null.
pub(super) fn array_of(bytes: &[u8]) -> Option<(u64, usize)> {
    let line = bytes.strip_prefix(b"*")?;
    let end = memchr::memchr(b'\r', line)?;
    let count = u64::try_from(crate::resp::parse_integer(&line[..end])?).ok()?;
    Some((count, end + 3))
}
