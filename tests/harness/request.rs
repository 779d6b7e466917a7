//! Requests as bytes.

/// Encodes one command as a multibulk request.
pub(crate) fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Encodes one command, whose words are divided by single spaces.
pub(crate) fn encode_line(line: &str) -> Vec<u8> {
    encode(&words(line))
}

/// Encodes commands one behind the other, each a line of words divided by single spaces.
pub(crate) fn encode_lines(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| encode_line(line)).collect()
}

/// Encodes commands one behind the other, each given as its words.
pub(crate) fn encode_all(commands: &[&[&str]]) -> Vec<u8> {
    commands.iter().flat_map(|words| encode(words)).collect()
}

/// Divides a line at its spaces.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}
