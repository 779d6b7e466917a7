//! What an error of the server says, by how it begins: its code, or its words where it has none of its own.

/// Tells whether the server does nothing else because a script does not end.
pub fn is_busy(reply: &[u8]) -> bool {
    reply.starts_with(b"-BUSY ")
}

/// Tells whether the server is still reading its data.
pub fn is_loading(reply: &[u8]) -> bool {
    reply.starts_with(b"-LOADING ")
}

/// Tells whether the user may not do what it has asked for.
pub fn is_no_permission(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM")
}

/// Tells whether the server has no such command, or has it under another name.
pub fn is_unknown_command(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR unknown command")
}

/// Tells whether a key is of another kind than the command is for.
pub fn is_other_kind(reply: &[u8]) -> bool {
    reply.starts_with(b"-WRONGTYPE ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::{OTHER_KIND, ServerVersion, no_permission};

    #[test]
    fn an_error_is_told_from_those_that_begin_alike() {
        for (reply, busy) in [
            (&b"-BUSY Redis is busy running a script.\r\n"[..], true),
            (b"-BUSYGROUP Consumer Group name already exists\r\n", false),
            (b"-BUSYKEY Target key name already exists.\r\n", false),
        ] {
            assert_eq!(is_busy(reply), busy);
        }
        assert!(is_other_kind(OTHER_KIND));
        let denied = no_permission(ServerVersion::redis(7, 0, 15), b"ann", "get");
        assert!(is_no_permission(&denied) && !is_unknown_command(&denied));
    }
}
