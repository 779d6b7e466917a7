//! Measures how quickly the server answers on one connection, from its own replies, and what that makes of what is due there.
//!
//! Pure: it is told the time and the counts. A connection is left for another one only when that helps. Two thousand quick
//! requests wait as long on one connection as on four, and cost more there; one that stands behind a script or a large reply
//! waits for nobody else's work elsewhere.

/// Another connection is looked for when what is due on this one would take longer than this.
const LONG_MICROS: u64 = 2_000;

/// Requests that take the server less than this each are quick: however many are due, more connections only dilute them.
const QUICK_NANOS: u64 = 40_000;

/// A connection on which replies are due and none has come for this long is silent. Shorter ones are mostly the machine's: at
/// 4 ms, on a busy one, connections were opened beside quick ones, and a command cost 15 % more.
const SILENT_MICROS: u64 = 30_000;

/// It is silent after this long where no reply has shown yet how far away the server is.
const FIRST_REPLY_MICROS: u64 = 100_000;

/// Against one read of the connection, what was measured before weighs as much as this number of replies.
const MEMORY_REPLIES: u64 = 64;

/// One read may show at most this many times what was measured before: once is the machine, again and again the server.
const MOST_TIMES: u64 = 4;

/// Less than this is as quick as can be measured.
const LEAST_NANOS: u64 = 10_000;

/// Measures how quickly the server answers on one connection.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTimes {
    /// The server last answered then, or the first of what is due was appended then if that was later.
    since_micros: u64,
    /// Each reply takes this many nanoseconds.
    cost_nanos: u64,
    /// No request and its reply were under way for less; it is `u64::MAX` while none was yet.
    round_trip_micros: u64,
}

impl Default for ReplyTimes {
    fn default() -> Self {
        Self {
            since_micros: 0,
            cost_nanos: 0,
            round_trip_micros: u64::MAX,
        }
    }
}

/// Says what a request sent on a connection now would wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionLoad {
    /// It waits for nothing that another connection would spare it.
    Light,
    /// It waits for requests that will take the server about so many microseconds.
    Heavy(u64),
    /// It waits for a reply that has been due for so many microseconds, unless it has arrived and was not read yet.
    Silent(u64),
}

impl ReplyTimes {
    /// Notes that something is due where nothing was.
    pub fn begin(&mut self, now_micros: u64) {
        self.since_micros = now_micros;
    }

    /// Notes that a read has brought `replies` replies, of which the first was asked for at `asked_micros` if that is known.
    /// Returns for how many microseconds the server was busy with them.
    pub fn answered(&mut self, now_micros: u64, replies: u64, asked_micros: Option<u64>) -> u64 {
        let mut since = self.since_micros;
        if let Some(asked) = asked_micros {
            let latency = now_micros.saturating_sub(asked);
            // On its way it keeps nobody waiting.
            since = since.max(asked + self.round_trip_micros.min(latency));
            self.round_trip_micros = self.round_trip_micros.min(latency);
        }
        self.since_micros = now_micros;
        let spent = now_micros.saturating_sub(since);
        let each = spent.saturating_mul(1000) / replies.max(1);
        let each = each.min(MOST_TIMES * self.cost_nanos.max(LEAST_NANOS));
        let weight = replies.min(MEMORY_REPLIES);
        self.cost_nanos =
            (self.cost_nanos * MEMORY_REPLIES + each * weight) / (MEMORY_REPLIES + weight);
        spent
    }

    /// Returns what a request sent now would wait for behind `due` others.
    #[inline]
    pub fn load(&self, now_micros: u64, due: u64) -> ConnectionLoad {
        if due == 0 {
            return ConnectionLoad::Light;
        }
        let silent = now_micros.saturating_sub(self.since_micros);
        if silent > SILENT_MICROS {
            let expected = match self.round_trip_micros {
                u64::MAX => FIRST_REPLY_MICROS,
                round_trip => round_trip,
            };
            if silent.saturating_sub(expected) > SILENT_MICROS {
                return ConnectionLoad::Silent(silent);
            }
        }
        let wait = due * self.cost_nanos / 1000;
        if self.cost_nanos > QUICK_NANOS && wait > LONG_MICROS {
            return ConnectionLoad::Heavy(wait);
        }
        ConnectionLoad::Light
    }

    /// Returns the shortest time that a request and its reply were under way; 0 where that is not known.
    pub fn round_trip_micros(&self) -> u64 {
        match self.round_trip_micros {
            u64::MAX => 0,
            known => known,
        }
    }
}

/// Returns the cost of a reply after `replies` of them took `spent_micros`: the more there were, the more they count.
pub(super) fn blend(before_nanos: u64, spent_micros: u64, replies: u64) -> u64 {
    let known = before_nanos.saturating_mul(MEMORY_REPLIES);
    known.saturating_add(spent_micros.saturating_mul(1000)) / (MEMORY_REPLIES + replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves each of `count` requests, which are asked for and answered together, in `cost_micros`.
    fn serve(times: &mut ReplyTimes, now: &mut u64, count: u64, cost_micros: u64) {
        let asked = *now;
        times.begin(asked);
        *now += 50 + count * cost_micros;
        times.answered(*now, count, Some(asked));
    }

    #[test]
    fn many_quick_requests_are_no_reason_to_go_elsewhere() {
        let (mut times, mut now) = (ReplyTimes::default(), 1_000);
        for _ in 0..100 {
            serve(&mut times, &mut now, 2_000, 5);
        }
        times.begin(now);
        assert_eq!(times.load(now + 1_000, 2_000), ConnectionLoad::Light);
    }

    #[test]
    fn a_machine_that_stands_still_for_a_moment_is_no_reason_either() {
        let (mut times, mut now) = (ReplyTimes::default(), 1_000);
        for _ in 0..20 {
            for _ in 0..20 {
                serve(&mut times, &mut now, 50, 5);
            }
            serve(&mut times, &mut now, 50, 400);
            times.begin(now);
            assert_eq!(times.load(now, 50), ConnectionLoad::Light);
        }
    }

    #[test]
    fn a_few_slow_ones_are() {
        let (mut times, mut now) = (ReplyTimes::default(), 1_000);
        serve(&mut times, &mut now, 1, 1);
        for _ in 0..20 {
            serve(&mut times, &mut now, 15, 330);
        }
        times.begin(now);
        assert!(matches!(
            times.load(now + 100, 15),
            ConnectionLoad::Heavy(2_000..)
        ));
        assert_eq!(times.load(now + 100, 1), ConnectionLoad::Light);
        assert_eq!(times.load(now + 100_000, 0), ConnectionLoad::Light);
    }

    #[test]
    fn one_that_does_not_answer_is_silent_but_not_while_bytes_travel() {
        let (mut times, mut now) = (ReplyTimes::default(), 1_000);
        serve(&mut times, &mut now, 1, 1);
        times.begin(now);
        assert_eq!(times.load(now + 20_000, 1), ConnectionLoad::Light);
        assert_eq!(times.load(now + 40_000, 1), ConnectionLoad::Silent(40_000));

        let mut far = ReplyTimes::default();
        far.begin(0);
        assert_eq!(far.load(50_000, 1), ConnectionLoad::Light);
        far.answered(50_000, 1, Some(0));
        far.begin(60_000);
        assert_eq!(far.load(110_000, 1), ConnectionLoad::Light);
        assert_eq!(far.load(200_000, 1), ConnectionLoad::Silent(140_000));
    }

    #[test]
    fn a_far_server_is_not_taken_for_a_slow_one() {
        let (mut times, mut now) = (ReplyTimes::default(), 0);
        for _ in 0..100 {
            let asked = now;
            times.begin(asked);
            now += 50_000;
            times.answered(now, 16, Some(asked));
        }
        times.begin(now);
        assert_eq!(times.load(now + 1_000, 1_000), ConnectionLoad::Light);
    }
}
