//! The arguments of `CLIENT KILL` and `CLIENT LIST`, parsed as the server at hand parses them and with its texts.
//!
//! Errors are the text of the reply without the leading `-` and without the line end; it is the first mistake from the left.
//! Redis knows few filters, and other ones for either command. Valkey has had one grammar for both since 8.1, and since 9.0
//! one with many more words.

use super::{ClientFilter, ClientTraits, ClientType, KillFilter, ListFilter};
use crate::resp::parse_integer;
use crate::resp::speak::until_nul;
use crate::texts::ServerVersion;

const SYNTAX: &[u8] = b"ERR syntax error";
const BAD_ID: &[u8] = b"ERR client-id should be greater than 0";

/// Lists what Valkey 9 knows as letters of `flags`.
const FLAGS: &[u8] = b"bcdeirtuxABEIMNOPRSTU";
/// Lists what it knows as letters of `capa`.
const CAPABILITIES: &[u8] = b"r";

impl KillFilter {
    /// Parses what follows `CLIENT KILL`.
    ///
    /// # Errors
    /// The server's text, see the head of this file.
    pub fn parse(server: ServerVersion, args: &[&[u8]]) -> Result<Self, Vec<u8>> {
        let mut clients = ClientFilter::default();
        read_kill(server, args, &mut clients)?;
        Ok(Self {
            clients,
            is_old_form: args.len() == 1,
        })
    }

    /// Returns what the server is to be asked before what follows `CLIENT KILL` is answered; see [`ListFilter::question`].
    pub fn question(server: ServerVersion, args: &[&[u8]]) -> Option<Vec<u8>> {
        let mut clients = ClientFilter::default();
        // What is wrong further to the right is said only if nothing of this is.
        let _ = read_kill(server, args, &mut clients);
        clients.question("KILL")
    }
}

impl ListFilter {
    /// Parses what follows `CLIENT LIST`.
    ///
    /// # Errors
    /// The server's text, see the head of this file.
    pub fn parse(server: ServerVersion, args: &[&[u8]]) -> Result<Self, Vec<u8>> {
        if let [option, ids @ ..] = args
            && !ids.is_empty()
            && !is_unified(server)
            && is(option, "id")
        {
            let id =
                |id: &&[u8]| parse_integer(id).ok_or_else(|| b"ERR Invalid client ID".to_vec());
            return ids.iter().map(id).collect::<Result<_, _>>().map(Self::Ids);
        }
        let mut clients = ClientFilter::default();
        read_list(server, args, &mut clients)?;
        Ok(Self::Clients(Box::new(clients)))
    }

    /// Returns the request by which the server is asked, before what follows `CLIENT LIST` is answered, for what it alone knows: which
    /// users and databases there are. It answers with an error if something about those is wrong, and that is the first mistake; else it
    /// concerns nobody. `None`: there is nothing to ask.
    pub fn question(server: ServerVersion, args: &[&[u8]]) -> Option<Vec<u8>> {
        let mut clients = ClientFilter::default();
        // What is wrong further to the right is said only if nothing of this is.
        let _ = read_list(server, args, &mut clients);
        clients.question("LIST")
    }
}

fn read_kill(
    server: ServerVersion,
    args: &[&[u8]],
    clients: &mut ClientFilter,
) -> Result<(), Vec<u8>> {
    match args {
        [] if server.is_from((7, 0)) => {
            Err(b"ERR wrong number of arguments for 'client|kill' command".to_vec())
        }
        [] => Err(SYNTAX.to_owned()),
        [addr] => {
            clients.is.addr = Some((*addr).into());
            Ok(())
        }
        filters => {
            clients.skip_me = true;
            match is_unified(server) {
                true => unified(server, filters, clients),
                false => pairs(server, filters, clients),
            }
        }
    }
}

fn read_list(
    server: ServerVersion,
    args: &[&[u8]],
    clients: &mut ClientFilter,
) -> Result<(), Vec<u8>> {
    match args {
        [] => Ok(()),
        [_] => Err(SYNTAX.to_owned()),
        filters if is_unified(server) => unified(server, filters, clients),
        [option, class] if is(option, "type") => {
            clients.is.class = Some(class_of(server, class)?);
            Ok(())
        }
        _ => Err(SYNTAX.to_owned()),
    }
}

/// Tells whether KILL and LIST have one grammar.
fn is_unified(server: ServerVersion) -> bool {
    server.is_valkey_from((8, 1))
}

/// Reads the filters of Redis' KILL: the last of one given twice holds.
fn pairs(server: ServerVersion, args: &[&[u8]], filter: &mut ClientFilter) -> Result<(), Vec<u8>> {
    for pair in args.chunks(2) {
        let &[option, value] = pair else {
            return Err(SYNTAX.to_owned());
        };
        if is(option, "id") {
            filter.is.ids = ids_of_kill(server, value)?;
        } else if is(option, "maxage") && server.is_from((7, 4)) {
            filter.max_age_s = Some(seconds("maxage", value)?);
        } else {
            common(server, filter, option, value)?;
        }
    }
    Ok(())
}

/// Reads one pair that every server understands in the same way.
fn common(
    server: ServerVersion,
    filter: &mut ClientFilter,
    option: &[u8],
    value: &[u8],
) -> Result<(), Vec<u8>> {
    if is(option, "type") {
        filter.is.class = Some(class_of(server, value)?);
    } else if is(option, "addr") {
        filter.is.addr = Some(value.into());
    } else if is(option, "laddr") {
        filter.is.laddr = Some(value.into());
    } else if is(option, "user") {
        filter.is.user = Some(value.into());
        filter.unsure.push([option.into(), value.into()]);
    } else if is(option, "skipme") && is(value, "yes") {
        filter.skip_me = true;
    } else if is(option, "skipme") && is(value, "no") {
        filter.skip_me = false;
    } else {
        return Err(SYNTAX.to_owned());
    }
    Ok(())
}

/// Reads the one id of Redis' KILL. Before 7.0 any number will do, and 0 stands for everybody.
fn ids_of_kill(server: ServerVersion, value: &[u8]) -> Result<Option<Vec<u64>>, Vec<u8>> {
    let number = parse_integer(value);
    if server.is_from((7, 0)) {
        let id = number.and_then(positive).ok_or_else(|| BAD_ID.to_owned())?;
        return Ok(Some(vec![id]));
    }
    match number {
        None => Err(b"ERR value is not an integer or out of range".to_vec()),
        Some(0) => Ok(None),
        Some(number) => Ok(Some(positive(number).into_iter().collect())),
    }
}

/// Reads the filters of Valkey, for KILL and LIST.
fn unified(
    server: ServerVersion,
    args: &[&[u8]],
    filter: &mut ClientFilter,
) -> Result<(), Vec<u8>> {
    let has_more_words = server.is_valkey_from((9, 0));
    let mut rest = args;
    while let [option, behind @ ..] = rest {
        if is(option, "id") {
            rest = take_ids(&mut filter.is, behind)?;
            continue;
        }
        if is(option, "not-id") && has_more_words {
            rest = take_ids(&mut filter.is_not, behind)?;
            continue;
        }
        let [value, behind @ ..] = behind else {
            return Err(SYNTAX.to_owned());
        };
        rest = behind;
        if is(option, "maxage") {
            filter.max_age_s = Some(seconds("maxage", value)?);
        } else if is(option, "idle") && has_more_words {
            filter.idle_s = Some(seconds("idle", value)?);
        } else if !(has_more_words && take_trait(server, filter, option, value)?) {
            common(server, filter, option, value)?;
        }
    }
    filter.is.order_ids();
    filter.is_not.order_ids();
    Ok(())
}

/// Takes all numbers that stand here. Returns what stands behind them.
fn take_ids<'a, 'b>(
    traits: &mut ClientTraits,
    mut words: &'a [&'b [u8]],
) -> Result<&'a [&'b [u8]], Vec<u8>> {
    let ids = traits.ids.get_or_insert_default();
    while let [word, behind @ ..] = words
        && let Some(number) = parse_integer(word)
    {
        ids.push(positive(number).ok_or_else(|| BAD_ID.to_owned())?);
        words = behind;
    }
    Ok(words)
}

/// Takes a pair of words that came with Valkey 9. Returns false where it is none.
fn take_trait(
    server: ServerVersion,
    filter: &mut ClientFilter,
    option: &[u8],
    value: &[u8],
) -> Result<bool, Vec<u8>> {
    let (plain, is_not) = match option.split_at_checked(4) {
        Some((prefix, plain)) if is(prefix, "not-") => (plain, true),
        _ => (option, false),
    };
    let of = |word| is(plain, word);
    // Whether there is such a user or database is the server's to say.
    if of("db") || (of("user") && is_not) {
        filter.unsure.push([option.into(), value.into()]);
    }
    let traits = if is_not {
        &mut filter.is_not
    } else {
        &mut filter.is
    };
    if of("name") {
        traits.name = Some(value.into());
    } else if of("lib-name") {
        traits.lib_name = Some(value.into());
    } else if of("lib-ver") {
        traits.lib_ver = Some(value.into());
    } else if of("ip") {
        traits.ip = Some(value.into());
    } else if of("flags") {
        let which = if is_not { "NOT-FLAGS" } else { "provided" };
        traits.flags = Some(all_of("flags", which, value, FLAGS)?);
    } else if of("capa") {
        let which = if is_not { "NOT-CAPA" } else { "provided" };
        traits.capabilities = Some(all_of("capa", which, value, CAPABILITIES)?);
    } else if of("db") {
        let which = if is_not { "NOT-DB" } else { "DB" };
        let number = parse_integer(value).and_then(|number| i32::try_from(number).ok());
        let number = number
            .ok_or_else(|| format!("ERR {which} is not an integer or out of range").into_bytes())?;
        // One that there cannot be the server refuses.
        traits.database = Some(u32::try_from(number).unwrap_or(u32::MAX));
    } else if !is_not {
        return Ok(false);
    } else if of("type") {
        traits.class = Some(class_of(server, value)?);
    } else if of("addr") {
        traits.addr = Some(value.into());
    } else if of("laddr") {
        traits.laddr = Some(value.into());
    } else if of("user") {
        traits.user = Some(value.into());
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Returns letters, if all of them are known.
fn all_of(what: &str, which: &str, value: &[u8], known: &[u8]) -> Result<Box<[u8]>, Vec<u8>> {
    if value.iter().all(|letter| known.contains(letter)) {
        return Ok(value.into());
    }
    let text = format!("ERR Unknown {what} found in the {which} filter: ");
    Err([text.as_bytes(), until_nul(value)].concat())
}

fn class_of(server: ServerVersion, name: &[u8]) -> Result<ClientType, Vec<u8>> {
    const NAMES: [(&str, ClientType); 6] = [
        ("normal", ClientType::Normal),
        ("slave", ClientType::Replica),
        ("replica", ClientType::Replica),
        ("pubsub", ClientType::Pubsub),
        ("master", ClientType::Master),
        ("primary", ClientType::Master),
    ];
    // The last of them is a word of Valkey's.
    let known = NAMES.len() - usize::from(!is_unified(server));
    NAMES[..known]
        .iter()
        .find(|(known, _)| is(name, known))
        .map(|&(_, class)| class)
        .ok_or_else(|| [b"ERR Unknown client type '", until_nul(name), b"'"].concat())
}

/// Tells whether `word` is `name`, in any case.
fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn seconds(option: &str, value: &[u8]) -> Result<u64, Vec<u8>> {
    let number = parse_integer(value)
        .ok_or_else(|| format!("ERR {option} is not an integer or out of range").into_bytes())?;
    positive(number).ok_or_else(|| format!("ERR {option} should be greater than 0").into_bytes())
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|&number| number > 0)
}
