//! The targets of `cargo fuzz` as property tests: the same functions, in every run of the tests.

#[path = "../harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the end-to-end tests need more of it"
)]
mod harness;
#[path = "../../fuzz/targets/mod.rs"]
mod targets;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use harness::Redis;
use targets::server::Server;
use targets::{configuration, fences, reply, request};

/// Tells how many cases are tried: so many, or `PROPTEST_CASES` if that is more.
fn at_least(cases: u32) -> u32 {
    cases.max(Config::default().cases)
}

/// Makes bytes that are fragments as often as not.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![3 => 0_u8..40, 1 => any::<u8>()];
    prop_oneof![
        4 => prop::collection::vec(small, 0..40).prop_map(|rest| [vec![1], rest].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
        1 => prop::collection::vec(prop::sample::select(b"+-:$*012\r\nab'\" ".to_vec()), 0..40)
            .prop_map(|rest| [vec![0], rest].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(at_least(4000)))]

    #[test]
    fn configuration_is_settings_or_problems(data in bytes()) {
        configuration::check(&data);
    }

    #[test]
    fn a_frame_goes_to_whom_it_is_due_or_the_connection_ends(data in bytes()) {
        fences::check(&data);
    }

    #[test]
    fn frames_of_a_server_end_at_the_same_bytes_however_they_arrive(data in bytes()) {
        reply::check(&data);
    }
}

/// Permits nothing but PING: any request is answered by one frame then, and changes nothing.
const NOTHING_BUT_PING: [&str; 6] = ["--user", "default", "on", "nopass", "-@all", "+ping"];

#[test]
fn what_the_scanner_lets_pass_a_server_takes_for_a_request() {
    let redis = Redis::start_plain(&NOTHING_BUT_PING);
    let server = Server::at(&redis.unix_path());
    let mut seen = request::Seen::default();
    let config = Config {
        cases: at_least(10_000),
        // What the server is asked depends on nothing but the bytes, which the failure shows.
        failure_persistence: None,
        ..Config::default()
    };
    let seen_ref = std::cell::RefCell::new(&mut seen);
    let run = TestRunner::new(config).run(&bytes(), |data| {
        let one = request::check(&server, &data);
        let mut seen = seen_ref.borrow_mut();
        seen.requests += one.requests;
        seen.violations += one.violations;
        seen.stricter += one.stricter;
        Ok(())
    });
    if let Err(e) = run {
        panic!("{e}");
    }
    // What is never seen is not tested.
    assert!(seen.requests > 100 && seen.violations > 100, "{seen:?}");
}
