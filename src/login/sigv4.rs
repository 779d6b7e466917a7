//! The token by which ElastiCache knows a user of IAM: a presigned request (AWS Signature Version 4) without its scheme.
//!
//! Pure: the keys and the time come from elsewhere.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::config::{IamLogin, Secret};

/// A token may be shown for this long after it was signed: the most that ElastiCache takes.
const EXPIRES_SECONDS: u32 = 900;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "elasticache";

/// Keys that sign in the name of a role or user of AWS.
#[derive(Debug, Clone)]
pub(super) struct AwsKeys {
    /// The access key's id is no secret.
    pub(super) id: String,
    pub(super) secret: Secret,
    /// Only keys that are lent for a while have a session token.
    pub(super) session: Option<Secret>,
    /// They end at this second since the epoch; `None`: not by themselves.
    pub(super) expires: Option<u64>,
}

/// Returns a token for the user of `iam`, signed by `keys` at `now`, in seconds since the epoch.
pub(super) fn token(iam: &IamLogin, keys: &AwsKeys, now: u64) -> Secret {
    let (date, time) = date_and_time(now);
    let stamp = format!("{date}T{time}Z");
    let scope = format!("{date}/{}/{SERVICE}/aws4_request", iam.region);
    let query = query(iam, keys, &stamp, &scope);
    let nothing = hex(&Sha256::digest(b""));
    let request = format!("GET\n/\n{query}\nhost:{}\n\nhost\n{nothing}", iam.cluster);
    let request = hex(&Sha256::digest(request));
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{scope}\n{request}");
    let mut key = mac(
        format!("AWS4{}", keys.secret.expose()).as_bytes(),
        date.as_bytes(),
    );
    for part in [iam.region.as_str(), SERVICE, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let signature = hex(&mac(&key, to_sign.as_bytes()));
    Secret::new(format!(
        "{}/?{query}&X-Amz-Signature={signature}",
        iam.cluster
    ))
}

/// Writes the query without its signature, in the order of its names, in which it is signed.
fn query(iam: &IamLogin, keys: &AwsKeys, stamp: &str, scope: &str) -> String {
    let credential = format!("{}/{scope}", keys.id);
    let expires = EXPIRES_SECONDS.to_string();
    let session = keys.session.as_ref().map(Secret::expose);
    let fields = [
        ("Action", Some("connect")),
        ("ResourceType", iam.serverless.then_some("ServerlessCache")),
        ("User", Some(iam.user.as_str())),
        ("X-Amz-Algorithm", Some(ALGORITHM)),
        ("X-Amz-Credential", Some(credential.as_str())),
        ("X-Amz-Date", Some(stamp)),
        ("X-Amz-Expires", Some(expires.as_str())),
        ("X-Amz-Security-Token", session),
        ("X-Amz-SignedHeaders", Some("host")),
    ];
    let written: Vec<String> = fields
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?))))
        .collect();
    written.join("&")
}

/// Escapes `text` as RFC 3986 has it, which is what a signature needs.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a time in seconds since the epoch as `20260102` and `030405`.
fn date_and_time(now: u64) -> (String, String) {
    let (days, second) = (now / 86_400, now % 86_400);
    let (year, month, day) = date(days);
    let time = format!(
        "{:02}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    (format!("{year:04}{month:02}{day:02}"), time)
}

/// Returns the civil date of a day since the epoch. It counts in years that begin in March, so that the leap day is a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

/// Reads `2026-01-02T03:04:05Z`, as AWS writes times, into seconds since the epoch; parts of a second are dropped.
pub(super) fn seconds_of(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_time = text.get(10..11)? == "T" && text.ends_with('Z');
    if !is_time || !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_767_323_045;

    fn signed(serverless: bool, session: Option<&str>) -> String {
        let iam = IamLogin {
            region: "us-east-1".to_owned(),
            cluster: "my-cache".to_owned(),
            user: "iam-user-01".to_owned(),
            serverless,
        };
        let keys = AwsKeys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session: session.map(|token| Secret::new(token.to_owned())),
            expires: None,
        };
        token(&iam, &keys, AT).expose().to_owned()
    }

    fn signature(token: &str) -> &str {
        token.rsplit_once("&X-Amz-Signature=").expect("signed").1
    }

    #[test]
    fn a_node_based_cache_has_its_known_answer() {
        assert_eq!(
            signed(false, None),
            "my-cache/?Action=connect&User=iam-user-01&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fus-east-1%2Felasticache%2Faws4_request&X-Amz-Date=20260102T030405Z\
             &X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=bfeac349ee1d596150831f38017b883380aad2f0b563a879ddf7d178e2528d0f"
        );
    }

    #[test]
    fn a_serverless_cache_has_its_known_answer() {
        assert_eq!(
            signature(&signed(true, None)),
            "e3502affcabf89b872a0bf3965f9ffc663a94c1ff502b75d6eb58f0e14902e7a"
        );
    }

    #[test]
    fn a_session_token_is_signed_too() {
        let token = signed(true, Some("FwoGZXIvYXdzEBYaDH+/=tok"));
        assert!(token.contains("&X-Amz-Security-Token=FwoGZXIvYXdzEBYaDH%2B%2F%3Dtok&"));
        assert_eq!(
            signature(&token),
            "1e5979325cc5497a42fcdc5cdb595386419a25e41eaea562cb87b94520b184c6"
        );
    }

    #[test]
    fn times_are_written_and_read() {
        for (seconds, date, time, text) in [
            (0, "19700101", "000000", "1970-01-01T00:00:00Z"),
            (AT, "20260102", "030405", "2026-01-02T03:04:05Z"),
            (951_782_399, "20000228", "235959", "2000-02-28T23:59:59Z"),
            (951_782_400, "20000229", "000000", "2000-02-29T00:00:00Z"),
            (1_709_251_199, "20240229", "235959", "2024-02-29T23:59:59Z"),
            (4_107_542_400, "21000301", "000000", "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date_and_time(seconds), (date.to_owned(), time.to_owned()));
            assert_eq!(seconds_of(text), Some(seconds), "{text}");
        }
        assert_eq!(seconds_of("2026-01-02T03:04:05.678Z"), Some(AT));
        for wrong in [
            "",
            "2026",
            "2026-01-02 03:04:05Z",
            "2026-13-02T03:04:05Z",
            "2026-01-02T03:04:05+01:00",
            "é026-01-02T03:04:05Z",
        ] {
            assert_eq!(seconds_of(wrong), None, "{wrong}");
        }
    }
}
