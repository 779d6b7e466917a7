//! Inline requests: one line of words, quoted as in Redis' `sdssplitargs`.

/// Says that a quote is not closed, or that one which ends a word has something right behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct UnbalancedQuotes;

/// Says by whose rules a line of words is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSyntax {
    /// A closing quote ends the word: white space or the end must follow.
    Redis,
    /// A word may go on behind a closing quote, as on Valkey 9.1, and a backslash escapes no quote that ends the line.
    Valkey,
}

/// Splits the text of an inline request (without its line end) into arguments.
///
/// # Errors
/// [`UnbalancedQuotes`] where the server answers `unbalanced quotes in request`.
pub fn split_inline(text: &[u8], syntax: LineSyntax) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
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
        let (argument, tail) = word(rest, syntax)?;
        arguments.push(argument);
        rest = tail;
    }
}

/// Answers as C's `isspace` does in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Reads the argument at the start of `text`, and returns it with what stands behind it.
fn word(text: &[u8], syntax: LineSyntax) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let mut argument = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'"' | b'\'' => {
                let behind = match first {
                    b'"' => double_quoted(tail, syntax, &mut argument)?,
                    _ => single_quoted(tail, syntax, &mut argument)?,
                };
                match behind.first() {
                    _ if syntax == LineSyntax::Valkey => behind,
                    Some(&byte) if !is_space(byte) => return Err(UnbalancedQuotes),
                    _ => return Ok((argument, behind)),
                }
            }
            // Any other white space is a part of the word.
            b' ' | b'\n' | b'\r' | b'\t' => return Ok((argument, rest)),
            plain => {
                argument.push(*plain);
                tail
            }
        };
    }
    Ok((argument, rest))
}

/// Tells whether a backslash escapes the byte in front of `rest`.
fn escapes(syntax: LineSyntax, rest: &[u8]) -> bool {
    syntax == LineSyntax::Redis || !rest.is_empty()
}

fn double_quoted<'a>(
    mut rest: &'a [u8],
    syntax: LineSyntax,
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
            [b'\\', escaped, tail @ ..] if escapes(syntax, tail) => {
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
    syntax: LineSyntax,
    argument: &mut Vec<u8>,
) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        match rest {
            [] => return Err(UnbalancedQuotes),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] if escapes(syntax, tail) => {
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
        split_by(text, LineSyntax::Redis).unwrap()
    }

    fn split_by(text: &str, syntax: LineSyntax) -> Result<Vec<String>, UnbalancedQuotes> {
        let words = split_inline(text.as_bytes(), syntax)?;
        Ok(words
            .into_iter()
            .map(|word| String::from_utf8_lossy(&word).into_owned())
            .collect())
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
        // Of white space these two end no word, but they may stand behind a quote.
        assert_eq!(split("ping a\x0bb\x0c"), ["ping", "a\x0bb\x0c"]);
        assert_eq!(split("ping \"a\"\x0bb"), ["ping", "a", "b"]);
        let joined = split_by("ping \"a\"\x0bb", LineSyntax::Valkey);
        assert_eq!(joined, Ok(vec!["ping".to_owned(), "a\x0bb".to_owned()]));
        assert_eq!(split("ping\0 ignored \""), ["ping"]);
    }

    #[test]
    fn unbalanced_quotes() {
        let unbalanced = Err(UnbalancedQuotes);
        for text in ["\"a", "'a", "\"a\\\" c", "a \"", "\"a\"b\"", "b\\\"c"] {
            for syntax in [LineSyntax::Redis, LineSyntax::Valkey] {
                assert_eq!(split_by(text, syntax), unbalanced, "{text}");
            }
        }
        // Seen on Valkey 9.1.2, and refused by the others.
        for (text, joined) in [
            ("\"a\"b", "ab"),
            ("'a'b", "ab"),
            ("\"a\"\"b\"", "ab"),
            ("'a'\"b\"c'd e'", "abcd e"),
            ("\"a\"'b'c\\x41", "abc\\x41"),
            ("''\"\"", ""),
            ("\"b\\\"", "b\\"),
            ("'b\\'", "b\\"),
            ("\"b\\\"\"c", "b\"c"),
        ] {
            assert_eq!(split_by(text, LineSyntax::Redis), unbalanced, "{text}");
            let words = split_by(text, LineSyntax::Valkey);
            assert_eq!(words, Ok(vec![joined.to_owned()]), "{text}");
        }
    }
}
