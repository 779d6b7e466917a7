//! Who has waited is told of keys that are gone or of another kind as whoever the server has blocked.

use super::single::{NULL, SECOND, WaitScript};
use crate::texts::{GROUP_GONE, STREAM_GONE, ServerVersion};
use crate::waits::{WaitAction, WaitOutcome};

const NOGROUP: &[u8] =
    b"-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option\r\n";
const WRONGTYPE: &[u8] = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
const NOPERM: &[u8] = b"-NOPERM this user has no permissions to run the 'type' command\r\n";

const OF_GROUP: &str = "XREADGROUP GROUP g c BLOCK 0 STREAMS s >";

/// Returns the errors told. There is nothing else to be done.
fn told(script: &mut WaitScript) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(action) = script.waits.next_action() {
        if let WaitAction::Tell { outcome, .. } = action {
            let WaitOutcome::Reply(reply) = outcome else {
                panic!("{outcome:?}");
            };
            all.push(reply.to_vec());
        }
    }
    all
}

/// Has two wait, whose call, issued again, is refused with `error`. Returns what is tried then.
fn refused(server: ServerVersion, line: &str, error: &[u8]) -> (WaitScript, Vec<String>) {
    let mut script = WaitScript::default();
    script.waits.served_by(server);
    let (_, connection) = script.blocked(line);
    script.joins(line);
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    script.waits.answered(connection, error, script.now);
    let wants = script.wants();
    (script, wants)
}

#[test]
fn a_stream_that_goes_between_two_calls_is_told_of_as_to_the_blocked() {
    let old = ServerVersion::redis(7, 0, 15);
    for (error, kind, due) in [
        (NOGROUP, "+none\r\n", STREAM_GONE),
        (NOGROUP, "+stream\r\n", GROUP_GONE),
        (WRONGTYPE, "+string\r\n", STREAM_GONE),
    ] {
        let (mut script, wants) = refused(old, OF_GROUP, error);
        assert_eq!(wants, ["try TYPE s", "release"]);
        script.tried(&[kind.as_bytes(), error]);
        assert_eq!(told(&mut script), [due, due]);
        assert_eq!(script.waits.waiting(), 0);
    }
    // From 7.2 on who is blocked is told what one that arrives is.
    for server in [
        ServerVersion::redis(7, 2, 0),
        ServerVersion::valkey(8, 1, 0),
    ] {
        let (_, wants) = refused(server, OF_GROUP, NOGROUP);
        assert_eq!(wants, ["tell error", "tell error", "release"]);
    }
}

#[test]
fn redis_6_has_who_is_blocked_wait_for_a_stream_that_is_gone() {
    let (mut script, wants) = refused(ServerVersion::redis(6, 2, 5), OF_GROUP, NOGROUP);
    assert_eq!(wants, ["try TYPE s", "release"]);
    for _ in 0..3 {
        script.tried(&[b"+none\r\n", NOGROUP]);
        assert_eq!(script.wants(), [""; 0], "it is not issued again");
        script.pass(super::super::POLL_MICROS);
        assert_eq!(script.wants(), ["try TYPE s"]);
    }
    script.tried(&[b"+stream\r\n", NULL]);
    assert_eq!(script.wants(), ["borrow"], "it is there again");
    script.pass(super::super::POLL_MICROS);
    assert_eq!(
        script.wants(),
        ["try XREADGROUP GROUP g c BLOCK 1 STREAMS s >"]
    );
    script.tried(&[NOGROUP]);
    assert_eq!(script.wants(), ["try TYPE s"]);
    script.tried(&[b"+stream\r\n", NOGROUP]);
    assert_eq!(told(&mut script), [GROUP_GONE, GROUP_GONE]);
}

#[test]
fn redis_6_serves_who_is_blocked_from_the_other_streams() {
    let server = ServerVersion::redis(6, 2, 5);
    let line = "XREADGROUP GROUP g c BLOCK 0 STREAMS a b > >";
    let stream: &[u8] = b"+stream\r\n";
    let found = b"*1\r\n$1\r\nx\r\n";
    for (gone, error) in [(&b"+none\r\n"[..], NOGROUP), (b"+string\r\n", WRONGTYPE)] {
        let (mut script, wants) = refused(server, line, error);
        assert_eq!(wants, ["try TYPE a", "release"]);
        script.tried(&[gone, stream, error]);
        for _ in 0..3 {
            assert_eq!(script.wants(), ["try TYPE a"], "over the other one");
            script.tried(&[gone, stream, NULL]);
            assert_eq!(script.wants(), [""; 0], "they wait on");
            script.pass(super::super::POLL_MICROS);
        }
        script.wants();
        script.tried(&[gone, stream, found]);
        assert_eq!(
            script.wants(),
            ["tell x", "try TYPE a"],
            "and for the next in line there may be more"
        );
        // The one that is there has lost its group.
        script.tried(&[gone, stream, NOGROUP]);
        assert_eq!(told(&mut script), [GROUP_GONE]);
    }
    // None is there.
    let (mut script, _) = refused(server, line, NOGROUP);
    script.tried(&[b"+none\r\n", b"+string\r\n", NOGROUP]);
    assert_eq!(script.wants(), [""; 0], "they wait on");
    script.pass(super::super::POLL_MICROS);
    script.wants();
    script.tried(&[stream, stream, NULL]);
    assert_eq!(script.wants(), ["borrow"], "both are there again");
    // Redis 7.0 tells of the one that is gone.
    let (mut script, _) = refused(ServerVersion::redis(7, 0, 15), line, NOGROUP);
    script.tried(&[stream, b"+none\r\n", NOGROUP]);
    assert_eq!(told(&mut script), [STREAM_GONE, STREAM_GONE]);
}

/// Refuses the user of the oldest try that asks for kinds.
fn forbidden(script: &mut WaitScript) {
    let (attempt, _) = script.tries.remove(0);
    let mut refusal = b"+OK\r\n".to_vec();
    refusal.extend_from_slice(NOPERM);
    refusal.extend_from_slice(b"+QUEUED\r\n-EXECABORT Transaction discarded\r\n");
    script.waits.tried(attempt, &refusal, script.now);
}

#[test]
fn who_may_not_ask_for_kinds_waits_on_for_the_one_key_that_is_in_the_way() {
    let (mut script, _) = refused(ServerVersion::redis(6, 2, 5), OF_GROUP, NOGROUP);
    forbidden(&mut script);
    script.wants();
    script.tried(&[NOGROUP]);
    assert_eq!(script.wants(), [""; 0], "6.2 has it wait for its stream");
    let line = "BLMPOP 0 1 k LEFT";
    let (mut script, _) = refused(ServerVersion::valkey(9, 1, 0), line, WRONGTYPE);
    forbidden(&mut script);
    for _ in 0..3 {
        assert_eq!(script.wants(), ["try BLMPOP 0.002 1 k LEFT"]);
        script.tried(&[WRONGTYPE]);
        assert_eq!(script.wants(), [""; 0], "it waits on");
        script.pass(super::super::POLL_MICROS);
    }
    script.wants();
    script.tried(&[NULL]);
    assert_eq!(script.wants(), ["borrow"]);
    let connection = script.borrows.remove(0);
    script.waits.lent(connection, script.now);
    script.wants();
    script.waits.answered(connection, NULL, script.now);
    script.wants();
    script.waits.answered(connection, WRONGTYPE, script.now);
    assert_eq!(script.wants(), ["try TYPE k", "release"], "it may by now");
}

#[test]
fn who_may_not_ask_for_kinds_does_not_wait_for_ever_for_a_place() {
    for line in ["BLMOVE k d LEFT LEFT 0", "BRPOPLPUSH k d 0"] {
        let (mut script, _) = refused(ServerVersion::valkey(9, 1, 0), line, WRONGTYPE);
        forbidden(&mut script);
        script.wants();
        script.tried(&[WRONGTYPE]);
        assert_eq!(script.wants(), ["tell error", "tell error"]);
    }
}

#[test]
fn who_may_not_ask_for_kinds_nor_use_a_transaction_waits_on_too() {
    let line = "XREAD BLOCK 0 STREAMS k 0";
    let (mut script, _) = refused(ServerVersion::valkey(9, 1, 0), line, WRONGTYPE);
    let (attempt, _) = script.tries.remove(0);
    let refusals = [NOPERM, NOPERM, WRONGTYPE, NOPERM].concat();
    script.waits.tried(attempt, &refusals, script.now);
    assert_eq!(script.wants(), [""; 0], "it waits on");
}

#[test]
fn a_stream_in_the_way_of_another_is_left_out() {
    let line = "XREAD BLOCK 0 STREAMS a b 0 0";
    let found = b"*1\r\n$1\r\nx\r\n";
    for (server, told) in [
        (ServerVersion::redis(6, 2, 5), "tell x"),
        (ServerVersion::redis(7, 0, 15), "tell x"),
        // It runs the call again, over both.
        (ServerVersion::redis(8, 2, 3), "tell error"),
        (ServerVersion::valkey(9, 1, 0), "tell error"),
    ] {
        let (mut script, wants) = refused(server, line, WRONGTYPE);
        assert_eq!(wants, ["try TYPE a", "release"]);
        let kinds: [&[u8]; 2] = [b"+stream\r\n", b"+string\r\n"];
        script.tried(&[kinds[0], kinds[1], WRONGTYPE]);
        for _ in 0..3 {
            assert_eq!(script.wants(), ["try TYPE a"], "over the other one");
            script.tried(&[kinds[0], kinds[1], NULL]);
            assert_eq!(script.wants(), [""; 0], "they wait on");
            script.pass(super::super::POLL_MICROS);
        }
        script.wants();
        script.tried(&[kinds[0], kinds[1], found]);
        assert_eq!(script.wants(), [told, told]);
    }
}

#[test]
fn a_key_in_the_way_of_another_is_left_out_where_the_server_passes_over_it() {
    let line = "BLMPOP 0 2 k j LEFT";
    let kinds: [&[u8]; 2] = [b"+string\r\n", b"+list\r\n"];
    let (mut script, _) = refused(ServerVersion::redis(7, 0, 15), line, WRONGTYPE);
    script.tried(&[kinds[0], b"+none\r\n", WRONGTYPE]);
    assert_eq!(script.wants(), ["try TYPE k"]);
    script.tried(&[kinds[0], kinds[1], b"*1\r\n$1\r\nx\r\n"]);
    assert_eq!(
        script.wants(),
        ["tell x", "try TYPE k"],
        "the first in line has it, and there may be more"
    );
    script.tried(&[b"+none\r\n", kinds[1], NULL]);
    assert_eq!(script.wants(), ["borrow"], "nothing is in the way");
    let (mut script, _) = refused(ServerVersion::redis(8, 2, 3), line, WRONGTYPE);
    script.tried(&[kinds[0], b"+none\r\n", WRONGTYPE]);
    assert_eq!(script.wants(), [""; 0], "they wait on");
    script.pass(super::super::POLL_MICROS);
    script.wants();
    script.tried(&[kinds[0], kinds[1], WRONGTYPE]);
    assert_eq!(script.wants(), ["tell error", "tell error"]);
}

/// Makes a BLPOP over so many keys.
fn over(count: usize) -> String {
    let keys: Vec<String> = (0..count).map(|at| format!("k{at}")).collect();
    format!("BLPOP {} 0", keys.join(" "))
}

#[test]
fn who_waits_for_very_many_keys_is_not_told_of_them_either() {
    for count in [65, 1024] {
        for server in [
            ServerVersion::redis(7, 0, 15),
            ServerVersion::redis(8, 2, 3),
        ] {
            let (mut script, wants) = refused(server, &over(count), WRONGTYPE);
            assert_eq!(wants, ["try TYPE k0", "release"]);
            let mut kinds = vec![&b"+string\r\n"[..]; count];
            kinds.push(WRONGTYPE);
            for _ in 0..3 {
                script.tried(&kinds);
                assert_eq!(script.wants(), [""; 0], "they wait on");
                script.pass(super::super::POLL_MICROS * 2);
                assert_eq!(script.wants(), ["try TYPE k0"]);
            }
            // The last is a list again: the server has it served, or refuses the call that it makes again.
            kinds[count - 1] = b"+list\r\n";
            script.tried(&kinds);
            if server.is_from((7, 2)) {
                assert_eq!(script.wants(), ["tell error", "tell error"]);
                continue;
            }
            assert_eq!(script.wants(), ["try TYPE k0"], "over that one");
            kinds[count] = b"*1\r\n$1\r\nx\r\n";
            script.tried(&kinds);
            assert_eq!(script.wants(), ["tell x", "try TYPE k0"]);
        }
    }
}

#[test]
fn where_there_are_too_many_keys_to_ask_they_wait_until_none_is_in_the_way() {
    let line = over(1025);
    let call = line.replace(" 0", " 0.002");
    for server in [
        ServerVersion::redis(7, 0, 15),
        ServerVersion::valkey(9, 1, 0),
    ] {
        let (mut script, wants) = refused(server, &line, WRONGTYPE);
        assert_eq!(wants, [format!("try {call}"), "release".to_owned()]);
        for _ in 0..3 {
            script.tried(&[WRONGTYPE]);
            assert_eq!(script.wants(), [""; 0], "they wait on");
            script.pass(super::super::POLL_MICROS * 2);
            assert_eq!(script.wants(), [format!("try {call}")]);
        }
        script.tried(&[NULL]);
        assert_eq!(script.wants(), ["borrow"]);
    }
}

#[test]
fn who_may_not_ask_for_kinds_is_told_what_is_likely() {
    let (mut script, _) = refused(ServerVersion::redis(7, 0, 15), OF_GROUP, NOGROUP);
    forbidden(&mut script);
    assert_eq!(
        script.wants(),
        ["try XREADGROUP GROUP g c BLOCK 1 STREAMS s >"]
    );
    script.tried(&[NOGROUP]);
    assert_eq!(told(&mut script), [STREAM_GONE, STREAM_GONE]);
}

#[test]
fn who_has_waited_is_not_told_that_its_key_is_of_another_kind() {
    for (line, key, kind) in [
        ("BLMOVE k d LEFT LEFT 0", "k", "+list\r\n"),
        ("BZMPOP 0 1 k MIN", "k", "+zset\r\n"),
        ("XREAD BLOCK 0 STREAMS k 0", "k", "+stream\r\n"),
    ] {
        let (mut script, wants) = refused(ServerVersion::valkey(9, 1, 0), line, WRONGTYPE);
        assert_eq!(wants, [&format!("try TYPE {key}"), "release"]);
        script.tried(&[b"+hash\r\n", WRONGTYPE]);
        assert_eq!(script.wants(), [""; 0], "it waits on");
        script.arrive(line);
        script.wants();
        script.tried(&[WRONGTYPE]);
        assert_eq!(script.wants(), ["tell error"], "a newcomer learns of it");
        script.pass(super::super::POLL_MICROS);
        assert_eq!(script.wants(), [format!("try TYPE {key}")]);
        // What it waited for is there, and has nowhere to go.
        script.tried(&[kind.as_bytes(), WRONGTYPE]);
        assert_eq!(script.wants(), ["tell error", "tell error"]);
    }
}

#[test]
fn tries_that_ask_for_the_kinds_of_long_keys_take_their_share_and_no_more() {
    const SECONDS: u64 = 30;
    let (calls, bytes) = (60, 60_000);
    let mut script = WaitScript::default();
    script.waits.served_by(ServerVersion::redis(6, 2, 5));
    for call in 0..calls {
        let key = format!("{call:0bytes$}");
        script.joins(&format!("XREADGROUP GROUP g c BLOCK 0 STREAMS {key} >"));
    }
    script.wants();
    script.borrows.clear();
    let mut asked = 0;
    while script.now < SECONDS * SECOND {
        let due = script.waits.next_due().expect("they are tried");
        script.pass(due.saturating_sub(script.now).max(1));
        loop {
            script.wants();
            match script.tries.first() {
                Some((_, 1)) => script.tried(&[NOGROUP]),
                Some(_) => {
                    asked += 1;
                    script.tried(&[b"+none\r\n", NOGROUP]);
                }
                None => break,
            }
        }
    }
    // Each reads the name twice, half a gigabyte in a second, and may do so for a fiftieth of the time.
    let most = 500_000_000 / 50 * SECONDS as usize / (2 * bytes);
    assert!(asked > most / 4, "{asked}");
    assert!(asked <= most + calls, "{asked} of {most}");
}
