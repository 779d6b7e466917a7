//! Keys that become ones of another kind under clients that wait for them: nobody is told so whom the server would have blocked.

use crate::harness::{Client, Redis, Respool, encode, encode_line, eventually, show};

/// Lists popping calls, how their keys are filled, and what tells of their kind.
const POPS: [(&str, &str, &str); 4] = [
    ("BLPOP", "RPUSH", "llen"),
    ("BRPOP", "RPUSH", "llen"),
    ("BZPOPMIN", "ZADD", "zcard"),
    ("BZPOPMAX", "ZADD", "zcard"),
];

/// Tells what clients get that wait for a key while it is one of another kind, and others that wait for others. Through respool one call is
/// blocked for all of them.
fn got(
    redis: &Redis,
    connect: &dyn Fn() -> Client,
    (pop, push, look): (&str, &str, &str),
    through: bool,
) -> Vec<Vec<u8>> {
    redis.flush();
    redis.cmd(&["CONFIG", "RESETSTAT"]);
    let push = |key: &str, elements: [&str; 2]| {
        let [first, second] = elements;
        match push {
            "ZADD" => redis.cmd(&[push, key, "1", first, "2", second]),
            _ => redis.cmd(&[push, key, first, second]),
        };
    };
    let wait = |keys: &str| {
        let mut client = connect();
        client.send(encode_line(&format!("{pop} {keys} 0")));
        client
    };
    let mut waiting = Vec::new();
    for (at, keys) in ["k", "k", "j k"].into_iter().enumerate() {
        waiting.push(wait(keys));
        let blocked = if through { 1 } else { at as u64 + 1 };
        // Each has tried in a transaction, and what the tries are answered comes before the answer to PING.
        let are_waiting = || {
            redis.info_number("blocked_clients") == blocked
                && (!through || redis.calls("exec") > at as u64)
        };
        eventually(are_waiting, "it waits");
        connect().ping();
    }
    redis.cmd(&["SET", "k", "x"]);
    waiting.push(wait("other"));
    let have_learnt = || match through {
        // The call for all has been refused, and the key has been found in the way more than once.
        true => redis.calls(look) >= 8 && redis.info_number("blocked_clients") == 1,
        false => redis.info_number("blocked_clients") == 4,
    };
    eventually(
        || have_learnt() || waiting.iter_mut().any(Client::has_reply),
        "the call for all is made again",
    );
    let mut all = vec![wait("k").reply_bytes()];
    push("j", ["a", "b"]);
    all.push(waiting[2].reply_bytes());
    push("other", ["c", "d"]);
    all.push(waiting[3].reply_bytes());
    redis.cmd(&["DEL", "k"]);
    push("k", ["e", "f"]);
    all.push(waiting[0].reply_bytes());
    all.push(waiting[1].reply_bytes());
    all.push(format!("{:?}", redis.cmd(&["EXISTS", "k", "j", "other"])).into());
    all
}

#[test]
fn who_waits_for_keys_is_not_told_when_one_becomes_one_of_another_kind() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    for pop in POPS {
        let direct = got(&redis, &|| redis.client(), pop, false);
        let through = got(&redis, &|| respool.client(), pop, true);
        for (at, (direct, through)) in direct.iter().zip(&through).enumerate() {
            assert!(
                direct == through,
                "{pop:?}, {at}\n  directly {}\n  through  {}",
                show(direct),
                show(through)
            );
        }
    }
}

/// There are more calls over very many keys, each with keys of its own, than connections can be lent: whoever waits goes on while all of its keys
/// are of another kind, and is served when one is a list again.
#[test]
fn who_waits_for_very_many_keys_waits_on_while_all_are_of_another_kind() {
    const CLIENTS: usize = 6;
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .top("workers = 1")
        .upstream("max_connections = 4\nshared_connections = 1")
        .start();
    // Whose kinds are asked for, and more than those.
    for count in [65, 1100] {
        redis.flush();
        redis.cmd(&["CONFIG", "RESETSTAT"]);
        let keys_of = |client: usize| (0..count).map(move |at| format!("{client}-{at}"));
        let mut waiting: Vec<Client> = (0..CLIENTS)
            .map(|number| {
                let keys = keys_of(number);
                let words = std::iter::once("BLPOP".to_owned()).chain(keys);
                let mut client = respool.client();
                client.send(encode(&words.chain(["0".to_owned()]).collect::<Vec<_>>()));
                client
            })
            .collect();
        // Each has tried in a transaction, and what the tries are answered comes before the answer to PING.
        eventually(|| redis.calls("exec") >= CLIENTS as u64, "all wait");
        respool.client().ping();
        for client in 0..CLIENTS {
            let pairs = keys_of(client).flat_map(|key| [key, "x".to_owned()]);
            let words = std::iter::once("MSET".to_owned()).chain(pairs);
            redis.cmd(&words.collect::<Vec<_>>());
        }
        // Whose call stays at the server is not refused: the others are tried again and again.
        let before = redis.calls("blpop");
        let have_tried = || redis.calls("blpop") >= before + 4 * CLIENTS as u64;
        eventually(
            || have_tried() || waiting.iter_mut().any(Client::has_reply),
            "they are tried again",
        );
        for client in &mut waiting {
            assert!(!client.has_reply(), "{}", show(&client.reply_bytes()));
        }
        for (number, client) in waiting.iter_mut().enumerate() {
            let key = format!("{number}-0");
            redis.cmd(&["DEL", &key]);
            redis.cmd(&["RPUSH", &key, "element"]);
            assert_eq!(client.reply_bytes(), encode(&[&key, "element"]));
        }
    }
}
