//! What a server says to a login that fails, read and told without what was sent.

/// Tells whether a reply to AUTH or HELLO says that the password is wrong; before Redis 6 in other words.
pub fn is_wrong_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-WRONGPASS") || reply.starts_with(b"-ERR invalid password")
}

/// Refusals of AUTH that begin with one of these repeat nothing of what was sent, but behind `with args`.
const KNOWN: [&str; 13] = [
    "WRONGPASS ",
    "NOAUTH ",
    "NOPERM ",
    "LOADING ",
    "BUSY ",
    "MASTERDOWN ",
    "MISCONF ",
    "ERR invalid password",
    "ERR AUTH ",
    "ERR Client sent AUTH",
    "ERR unknown command",
    "ERR wrong number of arguments",
    "ERR syntax error",
];

/// Makes a refusal of AUTH fit for people. A server, or what stands before it, may repeat what it was sent, a secret among it: what it says
/// of the arguments is left out, and of a text that is not known all but the first word.
pub fn refusal_text(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let text = text.trim_end();
    let Some(text) = text.strip_prefix('-') else {
        return "something that is no error".to_owned();
    };
    if KNOWN.iter().any(|known| text.starts_with(known)) {
        let end = text.find("with args").unwrap_or(text.len());
        return text[..end].trim_end_matches([' ', ',']).to_owned();
    }
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts::WRONGPASS;

    #[test]
    fn a_refusal_is_told_without_what_was_sent() {
        for (reply, told) in [
            (
                &b"-ERR unknown command 'AUTH', with args beginning with: 'respool' 'THEPASSWORD' \r\n"[..],
                "ERR unknown command 'AUTH'",
            ),
            (
                b"-ERR unknown command `AUTH`, with args beginning with: `THEPASSWORD`, \r\n",
                "ERR unknown command `AUTH`",
            ),
            (b"-ERR no such thing as AUTH THEPASSWORD\r\n", "ERR"),
            (b"+THEPASSWORD is yours\r\n", "something that is no error"),
            (
                WRONGPASS,
                "WRONGPASS invalid username-password pair or user is disabled.",
            ),
        ] {
            assert_eq!(refusal_text(reply), told);
        }
    }
}
