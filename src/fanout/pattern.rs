//! Tells which channels a pattern is for, as Redis does (`stringmatchlen`).

/// Names longer than this are taken to match: to tell takes their lengths multiplied.
const LONGEST: usize = 1024;

/// Tells whether a message of `channel` goes to those who are subscribed to `pattern`.
pub(super) fn may_match(pattern: &[u8], channel: &[u8]) -> bool {
    if pattern.len().max(channel.len()) > LONGEST {
        return true;
    }
    let (mut at, mut read) = (0, 0);
    // Where to go on when what follows the last star does not match: the star has one byte more then.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, read));
            continue;
        }
        let Some(&byte) = channel.get(read) else {
            return at == pattern.len();
        };
        if let Some(next) = step(pattern, at, byte) {
            (at, read) = (next, read + 1);
            continue;
        }
        let Some((behind, taken)) = retry else {
            return false;
        };
        (at, read) = (behind, taken + 1);
        retry = Some((behind, read));
    }
}

/// Returns where the pattern goes on if what stands at `at` matches `byte`.
fn step(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => class(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        literal => (literal == byte).then_some(at + 1),
    }
}

/// Returns the same for the class that starts at `at`; one that does not end ends with the pattern.
fn class(pattern: &[u8], mut at: usize, byte: u8) -> Option<usize> {
    let is_negated = pattern.get(at) == Some(&b'^');
    at += usize::from(is_negated);
    let mut is_in = false;
    while let Some(&first) = pattern.get(at) {
        match first {
            b'\\' if at + 1 < pattern.len() => {
                at += 1;
                is_in |= pattern[at] == byte;
            }
            b']' => {
                at += 1;
                break;
            }
            _ if at + 2 < pattern.len() && pattern[at + 1] == b'-' => {
                let last = pattern[at + 2];
                is_in |= (first.min(last)..=first.max(last)).contains(&byte);
                at += 2;
            }
            _ => is_in |= first == byte,
        }
        at += 1;
    }
    // Behind the bracket it has stepped no further.
    (is_in != is_negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_at_the_server() {
        for (pattern, channel, matches) in [
            ("news", "news", true),
            ("news", "new", false),
            ("new", "news", false),
            ("", "", true),
            ("*", "", true),
            ("**a***", "xxa", true),
            ("a*b*c", "a-b-b-cc", true),
            ("a*b*c", "a-b-b-cd", false),
            ("*ab", "aab", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]x", "hbx", true),
            ("h[c-a]x", "hbx", true),
            ("h[a-c]x", "hdx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[\\]]", "]", true),
            ("[ab", "a", true),
            ("[ab", "c", false),
            ("a[b]c", "abc", true),
            ("a[b]c", "abd", false),
            ("\\", "\\", true),
        ] {
            let found = may_match(pattern.as_bytes(), channel.as_bytes());
            assert_eq!(found, matches, "{pattern} {channel}");
        }
        assert!(may_match(&[b'a'; LONGEST + 1], b"b"));
    }
}
