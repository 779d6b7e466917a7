//! Inline requests: one line of words, quoted as in Redis' `sdssplitargs`.

/// Says that a quote is not closed, or that a closing quote has something right behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct UnbalancedQuotes;

/// Splits the text of an inline request (without its line end) into arguments.
///
/// # Errors
/// [`UnbalancedQuotes`] where Redis answers `unbalanced quotes in request`.
pub fn split_inline(text: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
    // Redis works on a C string: what stands behind a NUL is not there.
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut arguments = Vec::new();
    let mut rest = text;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(arguments);
        }
        let (argument, tail) = word(rest)?;
        arguments.push(argument);
        rest = tail;
    }
}

/// Answers as C's `isspace` does in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Reads one argument; a quoted part ends it.
fn word(text: &[u8]) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let mut argument = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'"' => return closed(double_quoted(tail, &mut argument)?, argument),
            b'\'' => return closed(single_quoted(tail, &mut argument)?, argument),
            space if is_space(*space) => return Ok((argument, rest)),
            plain => {
                argument.push(*plain);
                tail
            }
        };
    }
    Ok((argument, rest))
}

/// Checks that a closing quote has white space or the end behind it.
fn closed(rest: &[u8], argument: Vec<u8>) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(UnbalancedQuotes),
        _ => Ok((argument, rest)),
    }
}

fn double_quoted<'a>(
    mut rest: &'a [u8],
    argument: &mut Vec<u8>,
) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        match rest {
            [] => return Err(UnbalancedQuotes),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                argument.push(hex(*high) * 16 + hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                argument.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = tail;
            }
            [byte, tail @ ..] => {
                argument.push(*byte);
                rest = tail;
            }
        }
    }
}

fn single_quoted<'a>(
    mut rest: &'a [u8],
    argument: &mut Vec<u8>,
) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        match rest {
            [] => return Err(UnbalancedQuotes),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => {
                argument.push(b'\'');
                rest = tail;
            }
            [byte, tail @ ..] => {
                argument.push(*byte);
                rest = tail;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let words = split_inline(text.as_bytes()).unwrap();
        words
            .into_iter()
            .map(|word| String::from_utf8_lossy(&word).into_owned())
            .collect()
    }

    #[test]
    fn words_quotes_and_escapes() {
        assert_eq!(split("  set  key value "), ["set", "key", "value"]);
        assert_eq!(
            split(r#"set k "a b\n\x41\"" 'it\'s \n'"#),
            ["set", "k", "a b\nA\"", r"it's \n"]
        );
        assert_eq!(split(r#"set k """#), ["set", "k", ""]);
        assert_eq!(split(r#"ab"cd" e"#), ["abcd", "e"]);
        assert_eq!(split("\t\x0b "), Vec::<String>::new());
        assert_eq!(split("ping\0 ignored \""), ["ping"]);
    }

    #[test]
    fn unbalanced_quotes() {
        for text in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\\"", "a \""] {
            assert_eq!(
                split_inline(text.as_bytes()),
                Err(UnbalancedQuotes),
                "{text}"
            );
        }
    }
}
