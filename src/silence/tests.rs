//! Which silences are borne, and for how long.

use proptest::prelude::*;

use super::*;

const LIMITS: SilenceLimits = SilenceLimits {
    reply: Duration::from_secs(10),
    busy: Duration::from_secs(600),
};

fn seconds(number: f64) -> u64 {
    (number * 1e6) as u64
}

fn owes(delays: Delays) -> LinkSilence {
    LinkSilence {
        since_micros: seconds(100.0),
        awaited: AwaitedReply::Command(delays),
        overtaken_micros: None,
    }
}

fn at(silence: &LinkSilence, around: &ServerSigns, after: f64) -> SilenceVerdict {
    judge(silence, around, &LIMITS, seconds(100.0 + after))
}

fn unheard() -> ServerSigns {
    ServerSigns {
        heard_micros: seconds(100.0),
        ..ServerSigns::default()
    }
}

#[test]
fn a_server_that_answers_nobody_is_suspected_and_then_lost() {
    for delays in [Delays::NONE, Delays::PAUSE] {
        let silence = owes(delays);
        assert_eq!(at(&silence, &unheard(), 10.0), SilenceVerdict::Borne);
        assert_eq!(at(&silence, &unheard(), 10.1), SilenceVerdict::Suspected);
        assert_eq!(
            at(&silence, &unheard(), 12.0),
            SilenceVerdict::Suspected,
            "a command of 12 s, sent past respool"
        );
        assert_eq!(at(&silence, &unheard(), 13.4), SilenceVerdict::Lost);
    }
}

#[test]
fn what_was_not_run_is_not_counted_however_often_that_happens() {
    let stopped = |stops: &[(f64, f64)]| {
        let stops = stops
            .iter()
            .fold(RecentStops::default(), |all, (ended, length)| {
                all.and(seconds(100.0 + ended), seconds(*length))
            });
        ServerSigns { stops, ..unheard() }
    };
    let silence = owes(Delays::NONE);
    // Stopped before, it says nothing; amid the silence it is that much later.
    for (stops, lost) in [
        (&[(-1.0, 50.0)][..], 0.0),
        (&[(2.0, 50.0)], 2.0),
        (&[(5.0, 3.0)], 3.0),
        (&[(3.0, 1.5), (6.0, 1.5), (9.0, 1.5)], 4.5),
    ] {
        let around = stopped(stops);
        assert_eq!(at(&silence, &around, lost + 10.0), SilenceVerdict::Borne);
        assert_eq!(
            at(&silence, &around, lost + 10.1),
            SilenceVerdict::Suspected
        );
        assert_eq!(at(&silence, &around, lost + 13.4), SilenceVerdict::Lost);
    }
    // Behind the end of a pause, too.
    let paused = ServerSigns {
        all_paused_until: seconds(104.0),
        ..stopped(&[(9.0, 3.0)])
    };
    assert_eq!(at(&silence, &paused, 17.0), SilenceVerdict::Borne);
    assert_eq!(at(&silence, &paused, 17.1), SilenceVerdict::Suspected);
    let for_ever: Vec<(f64, f64)> = (1..100).map(|stop| (f64::from(stop) * 2.5, 1.2)).collect();
    assert_eq!(
        at(&silence, &stopped(&for_ever[..12]), 30.0),
        SilenceVerdict::Lost
    );
}

#[test]
fn a_long_command_of_anybody_explains_everybody_s_silence() {
    let around = ServerSigns {
        may_work: true,
        ..unheard()
    };
    for delays in [Delays::NONE, Delays::PAUSE, Delays::WORK, Delays::ANY] {
        for after in [12.0, 30.0, 300.0, 599.0] {
            assert_eq!(at(&owes(delays), &around, after), SilenceVerdict::Borne);
        }
        assert_eq!(at(&owes(delays), &around, 600.1), SilenceVerdict::Overdue);
    }
}

#[test]
fn a_command_that_may_be_delayed_is_borne_while_the_server_answers_elsewhere() {
    for delays in [Delays::PAUSE, Delays::WORK, Delays::ANY] {
        let silence = LinkSilence {
            overtaken_micros: Some(seconds(101.0)),
            ..owes(delays)
        };
        let around = ServerSigns {
            heard_micros: seconds(400.0),
            ..ServerSigns::default()
        };
        assert_eq!(at(&silence, &around, 305.0), SilenceVerdict::Borne);
        assert_eq!(
            at(&silence, &around, 311.0),
            SilenceVerdict::Suspected,
            "silent everywhere since"
        );
    }
}

#[test]
fn a_quick_command_that_was_passed_over_is_lost_though_the_server_answers_elsewhere() {
    let silence = LinkSilence {
        overtaken_micros: Some(seconds(101.0)),
        ..owes(Delays::NONE)
    };
    let around = |after: f64| ServerSigns {
        heard_micros: seconds(100.0 + after),
        ..ServerSigns::default()
    };
    assert_eq!(at(&silence, &around(10.9), 10.9), SilenceVerdict::Borne);
    // Its silence is its own: the server is not suspected.
    assert_eq!(at(&silence, &around(14.0), 14.0), SilenceVerdict::Borne);
    assert_eq!(at(&silence, &around(3.9), 14.0), SilenceVerdict::Suspected);
    assert_eq!(at(&silence, &around(15.0), 15.0), SilenceVerdict::Lost);
}

#[test]
fn the_rest_of_a_reply_is_lost_if_the_server_answers_elsewhere_whatever_it_works_on() {
    let rest = |overtaken: Option<f64>| LinkSilence {
        awaited: AwaitedReply::Rest,
        overtaken_micros: overtaken.map(|after| seconds(100.0 + after)),
        ..owes(Delays::ANY)
    };
    let around = |after: f64| ServerSigns {
        heard_micros: seconds(100.0 + after),
        may_work: true,
        ..ServerSigns::default()
    };
    assert_eq!(
        at(&rest(Some(1.0)), &around(10.9), 10.9),
        SilenceVerdict::Borne
    );
    assert_eq!(
        at(&rest(Some(1.0)), &around(14.0), 14.0),
        SilenceVerdict::Borne
    );
    assert_eq!(
        at(&rest(Some(1.0)), &around(15.0), 15.0),
        SilenceVerdict::Lost
    );
    // Between two parts of a long reply it may have begun something that takes long.
    assert_eq!(at(&rest(None), &around(0.0), 599.0), SilenceVerdict::Borne);
    assert_eq!(
        at(&rest(None), &around(0.0), 600.1),
        SilenceVerdict::Overdue
    );
    assert_eq!(at(&rest(None), &unheard(), 13.4), SilenceVerdict::Lost);
}

/// The server writes at most 64 KiB to a client before it goes on to others.
#[test]
fn the_rest_of_a_reply_has_its_time_anew_when_something_long_was_run_before_it() {
    let mut overtaken = OvertakenSilence::default();
    let around = |heard: f64, may_work: bool| ServerSigns {
        heard_micros: seconds(100.0 + heard),
        may_work,
        ..ServerSigns::default()
    };
    let mut verdict = |around: &ServerSigns, after: f64| {
        let (since_micros, now) = (seconds(100.0), seconds(100.0 + after));
        let silence = LinkSilence {
            since_micros,
            awaited: AwaitedReply::Rest,
            overtaken_micros: overtaken.look(since_micros, around, now),
        };
        judge(&silence, around, &LIMITS, now)
    };
    // Somebody is answered after the last part, and then a script is run for long.
    assert_eq!(verdict(&around(0.1, true), 0.2), SilenceVerdict::Borne);
    for after in [3.0, 9.0, 14.0, 60.0] {
        assert_eq!(verdict(&around(0.1, true), after), SilenceVerdict::Borne);
    }
    // It has ended, and others were read first.
    assert_eq!(verdict(&around(60.1, false), 60.2), SilenceVerdict::Borne);
    assert_eq!(verdict(&around(70.0, true), 70.0), SilenceVerdict::Borne);
    assert_eq!(verdict(&around(73.6, true), 73.6), SilenceVerdict::Lost);
}

#[test]
fn a_pause_is_borne_to_its_end_by_what_it_holds_back() {
    let writes = ServerSigns {
        writes_paused_until: seconds(1000.0),
        ..unheard()
    };
    let all = ServerSigns {
        all_paused_until: seconds(1000.0),
        ..unheard()
    };
    for (after, verdict) in [
        (899.0, SilenceVerdict::Borne),
        (909.0, SilenceVerdict::Borne),
        (914.0, SilenceVerdict::Lost),
    ] {
        assert_eq!(at(&owes(Delays::PAUSE), &writes, after), verdict);
    }
    assert_eq!(at(&owes(Delays::NONE), &writes, 14.0), SilenceVerdict::Lost);
    assert_eq!(at(&owes(Delays::NONE), &all, 899.0), SilenceVerdict::Borne);
    assert_eq!(at(&owes(Delays::NONE), &all, 914.0), SilenceVerdict::Lost);
}

proptest! {
    #[test]
    fn silence_everywhere_ends_within_its_bounds(
        heard in 0..50u64, since in 0..50u64, overtaken in proptest::option::of(0..50u64), delays in 0..4u8,
        reply in 1..20u64, busy in 1..100u64, may_work: bool, more in 1..200u64,
    ) {
        let delays = [Delays::NONE, Delays::WORK, Delays::PAUSE, Delays::ANY][usize::from(delays)];
        let limits = SilenceLimits { reply: Duration::from_micros(3 * reply), busy: Duration::from_micros(busy) };
        let overtaken_micros = overtaken.filter(|at| *at >= since);
        let silence = LinkSilence { since_micros: since, awaited: AwaitedReply::Command(delays), overtaken_micros };
        let around = ServerSigns { heard_micros: heard, may_work, ..ServerSigns::default() };
        let latest = since.max(heard).max(overtaken_micros.unwrap_or(0));
        let verdict = |now| judge(&silence, &around, &limits, now);
        // A verdict never grows milder while nothing is heard.
        let rank = |verdict| match verdict { SilenceVerdict::Borne => 0, SilenceVerdict::Suspected => 1, SilenceVerdict::Lost => 2, SilenceVerdict::Overdue => 3 };
        let mut worst = 0;
        for now in latest..latest + more {
            prop_assert!(rank(verdict(now)) >= worst);
            worst = rank(verdict(now));
        }
        prop_assert!(rank(verdict(latest + 3 * reply.max(busy) + reply + 1)) >= 2);
        if !may_work {
            prop_assert!(rank(verdict(latest + 4 * reply + 1)) >= 2);
        }
        prop_assert_eq!(verdict(since + 3 * reply), SilenceVerdict::Borne, "nobody is cut off before reply_timeout");
        let blocked = LinkSilence { awaited: AwaitedReply::Wait, ..silence };
        prop_assert_eq!(judge(&blocked, &around, &limits, u64::MAX), SilenceVerdict::Borne);
    }
}
