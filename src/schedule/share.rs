//! Bounds a client's share of a shared connection: how many of its requests may be at the server at once.
//!
//! Pure: it is told how long the server took. What a client has sent stands before whatever others send next, and cannot be
//! taken back when it leaves; so it sends no more than the server answers in `SHARE_MICROS`, and the rest of its pipeline
//! waits with respool. Directly the server takes 16 KiB of one client's requests at a time, some 180 scripts.

use super::reply_times::blend;

/// One client's requests may be worth this much of the server's time.
const SHARE_MICROS: u64 = 5_000;

/// A client that sends no more than this at once is not measured at all, and its share does not matter to it.
const FEW: u32 = 16;

/// Requests of a client may be at the server up to this number however slow they are, so that it has the next at hand. A request
/// with a megabyte of reply is as slow as that: sixteen of them stood before everybody else's for 12 milliseconds.
const FEWEST: u32 = 2;

/// Bounds a client's requests at the server before the first of them was answered.
const FIRST: u32 = 64;

/// Bounds a client's requests at the server, however quick they were before, while others use the connection: the next may be
/// slow.
const MOST_BESIDE_OTHERS: u64 = 256;

/// Bounds a client's requests at the server while nobody else uses the connection. Redis answers some 450 GETs at a time: with
/// this many it always has the next at hand.
const MOST_ALONE: u64 = 1_024;

/// Says who else uses the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCompany {
    /// Nobody else has used it lately.
    Alone,
    /// Somebody else has used it lately.
    Others,
}

/// Says whose requests the server was busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyCause {
    /// It was busy with the client's alone.
    Own,
    /// It was busy with others', too, and what each of them took is not told apart.
    Mixed,
}

/// Says what one read of a connection has brought a client with a long pipeline.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredRequests {
    /// It has brought this many replies to its requests.
    pub replies: u32,
    /// The server was busy with them for this long.
    pub spent_micros: u64,
    /// A request and its reply are under way for this long.
    pub round_trip_micros: u64,
    /// The connection owed all clients this number of replies before it.
    pub due: u32,
    /// Says who else uses the connection.
    pub company: LinkCompany,
    /// Says whose requests the server was busy with.
    pub cause: BusyCause,
}

/// Bounds one client's share of a connection: how many of its requests may be at the server.
#[derive(Debug, Clone, Copy)]
pub struct ClientShare {
    /// One of its replies takes the server this many nanoseconds; 0 while that is not known.
    cost_nanos: u32,
    window: u32,
}

impl Default for ClientShare {
    fn default() -> Self {
        Self {
            cost_nanos: 0,
            window: FIRST,
        }
    }
}

impl ClientShare {
    /// Returns how many of its requests may be at the server.
    #[inline]
    pub fn window(self) -> u32 {
        self.window
    }

    /// Tells whether the share may matter to a client with so many requests at the server. It does not where each has sixteen
    /// of them, as pools of pipelining clients have, once that many were seen to be quick.
    #[inline]
    pub fn matters(self, outstanding: u32) -> bool {
        outstanding >= FEW.min(self.window) && outstanding >= self.window / 4
    }

    /// Notes that some of its requests were answered. The window follows at once when it shrinks; it grows by what was
    /// answered, so that requests that turn slow are noticed in time. What is under way keeps nobody waiting and comes on
    /// top. Several with long pipelines have a share together: forty of them with one each had others wait for 25
    /// milliseconds. Where others' requests may have been the slow ones the window does not fall below [`FEW`].
    pub fn answered(&mut self, answered: &AnsweredRequests) {
        let (replies, spent) = (answered.replies, answered.spent_micros);
        let round_trip = answered.round_trip_micros;
        let cost = match self.cost_nanos {
            0 => spent * 1000 / u64::from(replies.max(1)),
            known => blend(u64::from(known), spent, u64::from(replies)),
        };
        self.cost_nanos = u32::try_from(cost.max(1)).unwrap_or(u32::MAX);
        let most = round_trip
            + match answered.company {
                LinkCompany::Alone => MOST_ALONE,
                LinkCompany::Others => MOST_BESIDE_OTHERS,
            };
        // As many as have windows like this one, by what is due.
        let rivals = u64::from((answered.due / self.window).max(1));
        let worth = (SHARE_MICROS / rivals + round_trip) * 1000 / u64::from(self.cost_nanos);
        let worth = u32::try_from(worth.min(most)).unwrap_or(u32::MAX);
        let fewest = match answered.cause {
            BusyCause::Own => FEWEST,
            BusyCause::Mixed => FEW.min(self.window),
        };
        let grown = self.window.saturating_add(replies);
        self.window = worth.min(grown).max(fewest);
    }
}

/// Returns with how many requests outstanding who may have `most` goes on: a quarter of them is sent at a time, while the
/// server is busy with the rest.
#[inline]
pub fn goes_on_at(most: u32) -> u32 {
    most - (most / 4).max(1).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes what a read of `replies` brings where nobody else has anything due.
    fn read(replies: u32, spent_micros: u64, company: LinkCompany) -> AnsweredRequests {
        AnsweredRequests {
            replies,
            spent_micros,
            round_trip_micros: 0,
            due: 0,
            company,
            cause: BusyCause::Own,
        }
    }

    /// Answers a client with an endless pipeline of requests that take the server `cost_micros` each. Returns how much stood
    /// before others at most.
    fn settle(
        share: &mut ClientShare,
        cost_micros: u64,
        company: LinkCompany,
        rounds: usize,
    ) -> u64 {
        let mut most = 0;
        for _ in 0..rounds {
            let window = share.window();
            most = most.max(u64::from(window) * cost_micros);
            share.answered(&read(window, u64::from(window) * cost_micros, company));
        }
        most
    }

    #[test]
    fn many_with_long_pipelines_have_one_share_together() {
        const COST_MICROS: u64 = 3;
        let mut shares = [ClientShare::default(); 40];
        for _ in 0..200 {
            for at in 0..shares.len() {
                let window = shares[at].window();
                let due = shares.iter().map(|share| share.window()).sum();
                let answered = AnsweredRequests {
                    due,
                    cause: BusyCause::Mixed,
                    ..read(window, u64::from(window) * COST_MICROS, LinkCompany::Others)
                };
                shares[at].answered(&answered);
            }
        }
        let due: u32 = shares.iter().map(|share| share.window()).sum();
        assert!(
            u64::from(due) * COST_MICROS <= SHARE_MICROS * 3 / 2,
            "{shares:?}"
        );
        assert!(
            shares.iter().all(|share| share.window() >= FEW),
            "{shares:?}"
        );
    }

    #[test]
    fn slow_requests_are_worth_their_share_of_time() {
        let mut share = ClientShare::default();
        let most = settle(&mut share, 330, LinkCompany::Others, 50);
        assert!((14..=15).contains(&share.window()), "{share:?}");
        assert!(most <= u64::from(FIRST) * 330, "{most} microseconds");

        let mut share = ClientShare::default();
        settle(&mut share, 100, LinkCompany::Others, 50);
        assert!((45..=50).contains(&share.window()), "{share:?}");
    }

    #[test]
    fn very_slow_ones_are_worth_hardly_more_than_one_and_still_measured() {
        let mut share = ClientShare::default();
        settle(&mut share, 4_000, LinkCompany::Others, 50);
        assert_eq!(share.window(), FEWEST);
        assert!(share.matters(FEWEST));
        settle(&mut share, 1, LinkCompany::Others, 500);
        assert_eq!(share.window(), 256, "it is quick again");
    }

    #[test]
    fn who_stands_beside_slow_ones_keeps_a_few() {
        let mut share = ClientShare::default();
        for _ in 0..50 {
            share.answered(&AnsweredRequests {
                cause: BusyCause::Mixed,
                ..read(16, 40_000, LinkCompany::Others)
            });
        }
        assert_eq!(share.window(), FEW);
    }

    #[test]
    fn quick_requests_are_held_back_by_nothing_but_the_most() {
        let mut share = ClientShare::default();
        settle(&mut share, 1, LinkCompany::Alone, 10);
        assert_eq!(share.window(), 1_024);
        settle(&mut share, 1, LinkCompany::Others, 1);
        assert_eq!(share.window(), 256);
    }

    #[test]
    fn requests_that_turn_slow_are_noticed_in_the_first_window() {
        let mut share = ClientShare::default();
        settle(&mut share, 1, LinkCompany::Others, 100);
        let most = settle(&mut share, 330, LinkCompany::Others, 1);
        assert!(most <= 256 * 330);
        settle(&mut share, 330, LinkCompany::Others, 3);
        assert!(share.window() <= 2 * FEW, "{share:?}");
    }

    #[test]
    fn a_far_server_is_kept_busy() {
        let mut share = ClientShare::default();
        for _ in 0..100 {
            let window = share.window();
            share.answered(&AnsweredRequests {
                round_trip_micros: 50_000,
                ..read(window, u64::from(window), LinkCompany::Others)
            });
        }
        assert!(share.window() >= 50_000, "{share:?}");
    }

    proptest! {
        #[test]
        fn the_window_is_never_too_small_nor_grows_past_what_was_answered(
            reads in prop::collection::vec((0u32..5_000, 0u64..2_000_000, 0u64..200_000, 0u32..10_000, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut share = ClientShare::default();
            for (replies, spent_micros, round_trip_micros, due, alone, own) in reads {
                let before = share.window();
                let company = if alone { LinkCompany::Alone } else { LinkCompany::Others };
                let cause = if own { BusyCause::Own } else { BusyCause::Mixed };
                share.answered(&AnsweredRequests { replies, spent_micros, round_trip_micros, due, company, cause });
                prop_assert!(share.window() >= FEWEST);
                prop_assert!(share.window() <= before.max(FEWEST).saturating_add(replies));
                prop_assert!(goes_on_at(share.window()) < share.window());
            }
        }
    }
}
