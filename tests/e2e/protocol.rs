//! Input that violates the protocol, or strains it: the text is Redis' own, that client is closed, nobody else notices.
//!
//! What Redis says is not written down here: the same bytes are sent to a real server at the same time.

use std::time::Duration;

use crate::harness::{Client, PATIENCE, Redis, Respool, Value, encode, eventually, show};

/// Redis refuses a line that has not ended after so many bytes.
const LONGEST_LINE: usize = 64 * 1024;

/// Makes inputs after which Redis closes the connection by itself.
fn violations() -> Vec<Vec<u8>> {
    let counts = [
        "*+1",
        "*01",
        "*1x",
        "*",
        "* 1",
        "*1 ",
        "*-0",
        "*--1",
        "*abc",
        "*1.0",
        "*0x1",
        "*00",
        "*2147483648",
        "*9223372036854775807",
        "*9223372036854775808",
        "*18446744073709551617",
        "*99999999999999999999999999",
    ];
    let lengths = [
        "$+4",
        "$04",
        "$-1",
        "$-2",
        "$-0",
        "$",
        "$ 4",
        "$4 ",
        "$4x",
        "$abc",
        "$4.0",
        "$536870913",
        "$2147483648",
        "$9223372036854775807",
        "$9223372036854775808",
        "$99999999999999999999999999",
    ];
    let other_kinds = [
        ":5", "*0", "*1", "*-1", "+PING", "-x", "PING", "", " $4", "_", "%1",
    ];
    let mut inputs = Vec::new();
    for count in counts {
        inputs.push(format!("{count}\r\n$4\r\nPING\r\n").into_bytes());
    }
    for length in lengths {
        inputs.push(format!("*1\r\n{length}\r\nPING\r\n").into_bytes());
        inputs.push(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n{length}\r\nPING\r\n").into_bytes());
    }
    for kind in other_kinds {
        inputs.push(format!("*1\r\n{kind}\r\n").into_bytes());
        inputs.push(format!("*2\r\n$3\r\nGET\r\n{kind}\r\n").into_bytes());
    }
    for inline in [
        "GET \"a\r\n",
        "GET 'a\r\n",
        "\"\r\n",
        "GET \"a\n",
        "POST / HTTP/1.1\r\n",
        "Host: example.com\r\n",
        "post x\r\n",
        "HOST:\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    ] {
        inputs.push(inline.as_bytes().to_vec());
    }
    inputs.push(encode(&["POST", "/"]));
    inputs.push(encode(&["host:"]));
    // Exactly what Redis reads before it refuses, so that its own closing does not reset the connection.
    inputs.push(vec![b'a'; LONGEST_LINE + 1]);
    inputs.push([b"*".as_slice(), &[b'1'; LONGEST_LINE]].concat());
    inputs.push([b"*1\r\n$".as_slice(), &[b'1'; LONGEST_LINE]].concat());
    inputs.push([b"GET ".as_slice(), &[b'k'; LONGEST_LINE]].concat());
    inputs
}

/// Lists inputs that are odd and allowed; each is sent with a QUIT after it.
const ODDITIES: [&str; 21] = [
    "*0\r\n",
    "*-1\r\n",
    "*-2147483648\r\n",
    "*-9223372036854775808\r\n",
    "\r\n",
    "\n",
    "   \r\n",
    "\t\r\n",
    "\r\n\r\n\r\nPING\r\n\r\n",
    "*0\r\n*0\r\nPING\r\n*0\r\n",
    "PING\n",
    "PING\r\n",
    "  PING  \r\n",
    "SET a \"b c\\x41\\n\\\"\"\nGET a\n",
    "SET a 'b\\'c\\n'\r\nGET a\r\n",
    "*1\r\n$0\r\n\r\n",
    "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    "*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n",
    "*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nPING\r\n",
    "MULTI\r\n*0\r\n\r\nPING\r\n*-1\r\nEXEC\r\n",
    "NOSUCH a b\r\nGET\r\nGET a b c\r\n",
];

/// Lists some that are tried behind other things.
const FEW_VIOLATIONS: [&str; 5] = [
    "*1\r\n:5\r\n",
    "*1\r\n$+4\r\n",
    "*x\r\n",
    "GET \"a\r\n",
    "*1\r\n$-1\r\n",
];

/// Works on the same respool through everything, a pipeline always in flight.
struct Bystander {
    client: Client,
    next: u64,
}

impl Bystander {
    const DEPTH: u64 = 20;

    fn start(respool: &Respool) -> Self {
        let mut bystander = Self {
            client: respool.client(),
            next: 0,
        };
        for id in 0..Self::DEPTH {
            bystander.client.send(encode(&["ECHO", &id.to_string()]));
        }
        bystander
    }

    /// Reads the oldest reply and sends another request.
    #[track_caller]
    fn step(&mut self) {
        assert_eq!(
            self.client.reply(),
            Value::bulk(self.next.to_string()),
            "a bystander's reply"
        );
        self.client
            .send(encode(&["ECHO", &(self.next + Self::DEPTH).to_string()]));
        self.next += 1;
    }
}

/// Tells everything that comes back for these bytes until the other side closes.
fn exchange(mut client: Client, bytes: &[u8]) -> Vec<u8> {
    // What the other side closed upon may well leave it no reader for the rest.
    let _ = client.try_send(bytes);
    client.read_to_end()
}

/// Sends each input directly and through respool, with a bystander at work.
#[track_caller]
fn compare_all(inputs: &[Vec<u8>], redis: &Redis, respool: &Respool) {
    let mut bystander = Bystander::start(respool);
    let mut differences = Vec::new();
    for input in inputs {
        bystander.step();
        let direct = exchange(redis.client(), input);
        let proxied = exchange(respool.client(), input);
        if direct != proxied {
            let (input, direct, ours) = (show(input), show(&direct), show(&proxied));
            differences.push(format!(
                "{input}\n    direct:  {direct}\n    respool: {ours}"
            ));
        }
        bystander.step();
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert_undisturbed(respool, bystander);
}

#[track_caller]
fn assert_undisturbed(respool: &Respool, mut bystander: Bystander) {
    bystander.step();
    respool.assert_alive();
    eventually(
        || respool.clients_of("default") == 1,
        "only the bystander is counted",
    );
    drop(bystander);
    eventually(|| respool.clients_of("default") == 0, "nobody is counted");
}

#[test]
fn a_violation_gets_the_servers_text_and_costs_one_client() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    compare_all(&violations(), &redis, &respool);
}

#[test]
fn a_violation_after_valid_requests_comes_after_their_replies() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let before = [
        b"PING\r\n*2\r\n$3\r\nGET\r\n$4\r\nnone\r\nGET\r\n".to_vec(),
        encode(&["SELECT", "3"]),
        [encode(&["MULTI"]), encode(&["SET", "a", "b"])].concat(),
    ];
    let inputs: Vec<_> = before
        .iter()
        .flat_map(|b| FEW_VIOLATIONS.map(|v| [b, v.as_bytes()].concat()))
        .collect();
    compare_all(&inputs, &redis, &respool);
}

#[test]
fn a_violation_behind_a_blocking_call_comes_after_its_reply() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    let call = encode(&["BLPOP", "none", "0.01"]);
    for violation in FEW_VIOLATIONS {
        bystander.step();
        // Redis 8.2 looks at what is wrong behind a call that has waited only when more comes: here it comes later.
        let mut direct = redis.client();
        direct.send(&call);
        let reply = direct.reply_bytes();
        let expected = [reply, exchange(direct, violation.as_bytes())].concat();
        let whole = [&call, violation.as_bytes()].concat();
        let proxied = exchange(respool.client(), &whole);
        assert_eq!(show(&proxied), show(&expected), "{violation:?}");
    }
    assert_undisturbed(&respool, bystander);
}

#[test]
fn odd_but_allowed_input_is_answered_as_by_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let inputs: Vec<_> = ODDITIES
        .iter()
        .map(|o| [o.as_bytes(), b"QUIT\r\n"].concat())
        .collect();
    compare_all(&inputs, &redis, &respool);
}

#[test]
fn frames_may_be_split_at_every_byte() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    let input = [
        &encode(&["SET", "a", "b\r\nc"])[..],
        b"GET a\r\n\r\n*0\r\n",
        &encode(&["MULTI"]),
        &encode(&["GET", "a"]),
        &encode(&["EXEC"]),
        b"*1\r\n:5\r\n",
    ]
    .concat();
    let direct = exchange(redis.client(), &input);
    for cut in 1..input.len() {
        let mut client = respool.client();
        client.send(&input[..cut]);
        // Replies of other clients pass in between; the first part has long been read then, mostly.
        bystander.step();
        let proxied = exchange(client, &input[cut..]);
        assert_eq!(show(&proxied), show(&direct), "cut after {cut} bytes");
    }
    let mut client = respool.client();
    for byte in &input {
        client.send([*byte]);
    }
    assert_eq!(show(&client.read_to_end()), show(&direct), "byte by byte");
    assert_undisturbed(&respool, bystander);
}

#[test]
fn forty_kilobytes_of_nested_arrays_overflow_nothing() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    // The reply to the first nested header is all that counts: what follows is reset with the connection.
    let expected = exchange(redis.client(), b"*1\r\n*1\r\n");
    for _ in 0..20 {
        let mut client = respool.client();
        let _ = client.try_send(b"*1\r\n".repeat(10_000));
        let got = client.read_to_end();
        assert!(got.is_empty() || got == expected, "got {}", show(&got));
        bystander.step();
    }
    let ours = exchange(respool.client(), b"*1\r\n*1\r\n");
    assert_eq!(show(&ours), show(&expected));
    assert_undisturbed(&respool, bystander);
}

#[test]
fn an_endless_line_ends_at_its_limit() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    let before = respool.resident_bytes();
    for start in ["a", "*", "*1\r\n$"] {
        let mut client = respool.client();
        client.send(start);
        let mut sent = 0;
        // Buffers of the kernel take a few megabytes that respool never reads.
        while client.try_send([b'1'; 16 * 1024]).is_ok() {
            sent += 16 * 1024;
            assert!(
                sent < 256 << 20,
                "a line that began with {start:?} was read for 256 MiB"
            );
        }
        bystander.step();
    }
    let grown = respool.resident_bytes().saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "an endless line grew the process by {grown} bytes"
    );
    assert_undisturbed(&respool, bystander);
}

#[test]
fn a_promise_of_much_costs_no_memory() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    let before = respool.resident_bytes();
    let promises = [
        "*2147483647\r\n",
        "*1000000\r\n$3\r\nDEL\r\n$1\r\na\r\n",
        "*2\r\n$4\r\nECHO\r\n$536870912\r\nabc",
    ];
    let mut waiting: Vec<_> = (0..60)
        .map(|i| {
            let mut client = respool.client();
            client.send(promises[i % promises.len()]);
            client
        })
        .collect();
    for client in &mut waiting {
        bystander.step();
        assert_eq!(
            client.reply_within(Duration::from_millis(1)),
            None,
            "the request is not complete"
        );
    }
    let grown = respool.resident_bytes().saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "60 unfinished requests grew the process by {grown} bytes"
    );
    drop(waiting);
    assert_undisturbed(&respool, bystander);
}

#[test]
fn a_request_over_max_request_is_refused_as_by_the_server() {
    let redis = Redis::start(&["--proto-max-bulk-len", "1mb"]);
    let respool = Respool::with(&redis)
        .limits("max_request = \"1MiB\"")
        .start();
    let bystander = Bystander::start(&respool);
    let input = format!("*2\r\n$4\r\nECHO\r\n${}\r\n", (1 << 20) + 1);
    let direct = exchange(redis.client(), input.as_bytes());
    let proxied = exchange(respool.client(), input.as_bytes());
    assert_eq!(show(&proxied), show(&direct));
    assert_undisturbed(&respool, bystander);
}

#[test]
fn large_values_pass_whole() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis).plain_clients().start();
    let mut bystander = Bystander::start(&respool);
    let mut client = respool.client();
    // Around the size at which a request travels alone (64 KiB), and far above it.
    for size in [
        0,
        1,
        16 * 1024,
        65_480,
        65_536,
        65_600,
        100 * 1024,
        1 << 20,
        20 << 20,
    ] {
        let value: Vec<u8> = (0..size).map(|i: usize| (i * 7 % 251) as u8).collect();
        assert_eq!(
            client.cmd(&[b"SET", b"big".as_slice(), &value]),
            Value::ok(),
            "{size} bytes"
        );
        let got = client.cmd(&["GET", "big"]);
        assert!(
            got == Value::bulk(&value),
            "{size} bytes came back as {got:?}"
        );
        bystander.step();
    }
    let mut writer = client.writer();
    let value = vec![b'x'; 300_000];
    let pipeline = [
        encode(&["SELECT", "2"]),
        encode(&[b"SET", b"k".as_slice(), &value]),
        encode(&["STRLEN", "k"]),
    ];
    writer.send(pipeline.concat());
    assert_eq!(
        [client.reply(), client.reply(), client.reply()],
        [Value::ok(), Value::ok(), Value::Int(300_000)]
    );
    drop((client, writer));
    assert_undisturbed(&respool, bystander);
}

#[test]
fn half_a_request_and_an_end_leave_nothing_behind() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let bystander = Bystander::start(&respool);
    for half in [
        "*2\r\n$4\r\nEC",
        "*1",
        "GET",
        "MULTI\r\nSET a",
        "*2\r\n$4\r\nECHO\r\n$300000\r\nabc",
    ] {
        let mut client = respool.client();
        client.send(half);
        client.finish_sending();
        let _ = client.read_to_end();
        let mut client = respool.client();
        client.send(half);
        client.abort();
    }
    assert_undisturbed(&respool, bystander);
}

#[test]
fn a_client_that_half_closes_still_gets_its_replies_as_from_the_server() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    // Redis frees a client at its end of stream; replies already written are what arrives.
    for connect in [&(|| redis.client()) as &dyn Fn() -> Client, &|| {
        respool.client()
    }] {
        let mut client = connect();
        client.set_patience(PATIENCE);
        client.send(encode(&["PING"]));
        assert_eq!(client.reply(), Value::simple("PONG"));
        client.finish_sending();
        client.expect_end();
    }
}

#[test]
fn a_tls_hello_on_the_plain_port_harms_nobody() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let mut bystander = Bystander::start(&respool);
    // The head of a ClientHello: binary, no line end.
    let mut client = respool.client();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    bystander.step();
    drop(client);
    assert_undisturbed(&respool, bystander);
}

#[test]
fn who_wants_no_reply_to_the_next_request_is_told_nothing_of_what_is_none() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    for violation in FEW_VIOLATIONS {
        for mode in ["SKIP", "OFF"] {
            let mut client = respool.client();
            client.send(
                [
                    &encode(&["CLIENT", "REPLY", mode])[..],
                    violation.as_bytes(),
                ]
                .concat(),
            );
            // Directly it is left open, and not a word is said.
            assert_eq!(show(&client.read_to_end()), "", "{mode}: {violation:?}");
        }
        let mut client = respool.client();
        let skips = encode(&["CLIENT", "REPLY", "SKIP"]);
        client.send([&skips[..], &encode(&["PING"]), violation.as_bytes()].concat());
        let told = show(&client.read_to_end());
        assert!(told.starts_with("-ERR Protocol error"), "{told}");
    }
}
