//! What CLIENT TRACKING and its like ask for.

use super::transaction::Tracking;
use crate::command::same_word;
use crate::resp::Request;

/// Says what a request about tracking asks.
#[derive(Debug, PartialEq, Eq)]
pub enum TrackingRequest {
    /// It is CLIENT TRACKING: on or off; and the places of the ids behind REDIRECT.
    Switch(Option<Tracking>, Vec<usize>),
    /// It is CLIENT GETREDIR or CLIENT TRACKINGINFO, which tell an id.
    Redirection,
    /// It is CLIENT CACHING.
    Caching,
}

impl TrackingRequest {
    /// Reads the options as Redis does: up to the first it does not know.
    pub fn by(request: &Request<'_>) -> Self {
        let words: Vec<&[u8]> = request.arguments().collect();
        match words.as_slice() {
            [_, sub, switch, ..] if same_word(sub, b"tracking") => {
                let (mut broadcasts, mut targets) = (false, Vec::new());
                let mut at = 3;
                while let Some(option) = words.get(at) {
                    if same_word(option, b"redirect") && at + 1 < words.len() {
                        targets.push(at + 1);
                        at += 1;
                    } else if same_word(option, b"prefix") && at + 1 < words.len() {
                        at += 1;
                    } else if same_word(option, b"bcast") {
                        broadcasts = true;
                    } else if ![&b"optin"[..], b"optout", b"noloop"]
                        .iter()
                        .any(|known| same_word(option, known))
                    {
                        break;
                    }
                    at += 1;
                }
                let on = same_word(switch, b"on").then_some(Tracking {
                    broadcasts,
                    redirect: None,
                });
                Self::Switch(on, targets)
            }
            [_, sub, ..] if same_word(sub, b"caching") => Self::Caching,
            _ => Self::Redirection,
        }
    }

    /// Tells whether it names a client to which invalidations are redirected, or is told which: its client `redirects`, or does not.
    pub(super) fn names_a_client(&self, redirects: bool) -> bool {
        match self {
            Self::Switch(_, targets) => !targets.is_empty(),
            Self::Redirection => redirects,
            Self::Caching => false,
        }
    }

    /// Tells whether it changes nothing where tracking is off.
    pub(super) fn changes_nothing(&self) -> bool {
        match self {
            Self::Switch(on, _) => on.is_none(),
            Self::Redirection | Self::Caching => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;

    fn asked(line: &str) -> TrackingRequest {
        let words: Vec<&str> = line.split(' ').collect();
        TrackingRequest::by(&Request::new(&encode_request(&words)))
    }

    fn on(broadcasts: bool) -> Option<Tracking> {
        Some(Tracking {
            broadcasts,
            redirect: None,
        })
    }

    #[test]
    fn options_are_read_as_redis_reads_them() {
        for (line, expected) in [
            ("CLIENT TRACKING on", (on(false), vec![])),
            ("client tracking OFF", (None, vec![])),
            ("client tracking maybe", (None, vec![])),
            ("client tracking ON bcast PREFIX bcast", (on(true), vec![])),
            ("client tracking ON prefix bcast", (on(false), vec![])),
            ("client tracking ON REDIRECT 7 NOLOOP", (on(false), vec![4])),
            (
                "client tracking ON prefix redirect redirect 7",
                (on(false), vec![6]),
            ),
            (
                "client tracking ON redirect 7 redirect 8",
                (on(false), vec![4, 6]),
            ),
            ("client tracking ON foo redirect 7", (on(false), vec![])),
            ("client tracking ON redirect", (on(false), vec![])),
            ("client tracking off redirect 9", (None, vec![4])),
        ] {
            let (on, targets) = expected;
            assert_eq!(asked(line), TrackingRequest::Switch(on, targets), "{line}");
        }
        assert_eq!(asked("client caching yes"), TrackingRequest::Caching);
        assert_eq!(asked("client getredir"), TrackingRequest::Redirection);
        assert_eq!(asked("client trackinginfo"), TrackingRequest::Redirection);
    }
}
