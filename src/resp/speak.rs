//! The frames respool itself writes: replies to clients, requests to the server.

pub const OK: &[u8] = b"+OK\r\n";

/// Appends a bulk string.
pub fn push_bulk(out: &mut Vec<u8>, text: &[u8]) {
    push_header(out, b'$', text.len() as i64);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends a header line: a kind byte and an integer; also an integer reply with the kind `:`.
pub fn push_header(out: &mut Vec<u8>, kind: u8, value: i64) {
    use std::io::Write as _;
    out.push(kind);
    // Writing to a Vec does not fail.
    let _ = write!(out, "{value}\r\n");
}

/// Writes a bulk string reply.
pub fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    push_bulk(&mut out, text);
    out
}

/// Writes an integer reply.
pub fn integer(value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    push_header(&mut out, b':', value);
    out
}

/// Writes an error reply. `text` holds the code and the words, a client's as they are; line ends in it become spaces, as in Redis.
pub fn error(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let mut out = Vec::with_capacity(text.len() + 3);
    out.push(b'-');
    out.extend(text.iter().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        other => *other,
    }));
    out.extend_from_slice(b"\r\n");
    out
}

/// Returns as much of a client's word as Redis takes for a text of C.
pub fn until_nul(word: &[u8]) -> &[u8] {
    word.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Writes a request as clients send it.
pub fn encode_request<T: AsRef<[u8]>>(arguments: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    push_request(&mut out, arguments);
    out
}

/// Appends a request as clients send it.
pub fn push_request<T: AsRef<[u8]>>(out: &mut Vec<u8>, arguments: &[T]) {
    push_header(out, b'*', arguments.len() as i64);
    for argument in arguments {
        push_bulk(out, argument.as_ref());
    }
}
