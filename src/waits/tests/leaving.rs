//! Blocked clients whose server is left, or is a primary no more.

use super::single::WaitScript;
use crate::waits::POLL_MICROS;

#[test]
fn a_call_is_ended_and_issued_anew_on_another_connection() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
    script.waits.vacate(connection, script.now);
    script.waits.vacate(connection, script.now);
    assert_eq!(script.wants(), ["unblock"], "once");
    script
        .waits
        .answered(connection, crate::texts::UNBLOCKED, script.now);
    assert_eq!(script.wants(), ["release", "borrow"]);
    let other = script.borrows.remove(0);
    script.waits.lent(other, script.now);
    assert_eq!(script.wants(), ["issue BLPOP a 0"]);
    script.waits.vacate(connection, script.now);
    assert_eq!(script.wants(), [""; 0], "it is not there any more");
}

#[test]
fn an_element_that_came_first_is_told_all_the_same() {
    let mut script = WaitScript::default();
    let (_, connection) = script.blocked("BLPOP a 0");
    script.wants();
    script.waits.vacate(connection, script.now);
    script.wants();
    let element = crate::resp::speak::encode_request(&["a", "1"]);
    script.waits.answered(connection, &element, script.now);
    assert_eq!(script.wants(), ["tell a 1", "release"]);
    assert_eq!(script.waits.waiting(), 0);
}

#[test]
fn who_has_waited_does_not_learn_that_a_server_was_demoted() {
    let forced = b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";
    let readonly = b"-READONLY You can't write against a read only replica.\r\n";
    for answer in [&forced[..], readonly] {
        let mut script = WaitScript::default();
        let (_, connection) = script.blocked("BLPOP a 0");
        script.wants();
        script.waits.answered(connection, answer, script.now);
        assert!(!script.wants().iter().any(|want| want.starts_with("tell")));
        assert_eq!(script.waits.waiting(), 1);
        script.pass(POLL_MICROS);
        assert!(!script.wants().is_empty(), "it is asked for again");
    }
    // Whoever comes now learns it, as directly.
    let mut script = WaitScript::default();
    script.arrive("BLPOP a 0");
    script.wants();
    let (attempt, _) = script.tries.remove(0);
    let refused = [b"+OK\r\n", &readonly[..], b"-EXECABORT no\r\n"].concat();
    script.waits.tried(attempt, &refused, script.now);
    assert_eq!(script.wants(), ["tell error"]);
}
