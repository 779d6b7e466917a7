//! What respool needs to know of a certificate: until when it is good, whose it is, who says so.
//!
//! Nothing is verified here; that is TLS' own.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::name::DirectoryString;
use x509_cert::name::Name;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A point of time, in seconds since the epoch; shown as `2026-01-02T03:04:05Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// Returns the seconds of `time`; 0 for a clock set before the epoch.
    pub fn of(time: SystemTime) -> Self {
        Self(
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} s after the epoch", self.0),
        }
    }
}

/// Holds what is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The certificate is good from then on.
    pub not_before: UnixSeconds,
    /// It is good until then.
    pub not_after: UnixSeconds,
    /// Holds the common name (CN) of its subject; `None` where there is none, or several.
    pub common_name: Option<String>,
    /// Names who signed it, as `CN=...,O=...`.
    pub issuer: String,
}

impl CertificateFacts {
    /// Reads what is known of a certificate in DER; `None`: it is none, or one of a kind that is not understood.
    pub fn read(der: &[u8]) -> Option<Self> {
        // `Raw`: serial numbers and times as authorities of a company's own write them.
        let certificate = CertificateInner::<Raw>::from_der(der).ok()?;
        let inner = certificate.tbs_certificate();
        let seconds = |time: x509_cert::time::Time| UnixSeconds(time.to_unix_duration().as_secs());
        Some(Self {
            not_before: seconds(inner.validity().not_before),
            not_after: seconds(inner.validity().not_after),
            common_name: common_name(inner.subject()),
            issuer: inner.issuer().to_string(),
        })
    }

    /// Says what is wrong with it at `now`, in words; `None`: nothing.
    pub(super) fn untimely(&self, now: UnixSeconds) -> Option<String> {
        if now > self.not_after {
            Some(format!("expired at {}", self.not_after))
        } else if now < self.not_before {
            Some(format!("is not good before {}", self.not_before))
        } else {
            None
        }
    }
}

fn common_name(subject: &Name) -> Option<String> {
    let mut names = subject.iter().filter(|part| part.oid == COMMON_NAME);
    let only = names.next()?;
    if names.next().is_some() {
        return None;
    }
    let text = DirectoryString::try_from(&only.value).ok()?;
    Some(text.value().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common_names: &[&str]) -> rcgen::Certificate {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            parameters
                .distinguished_name
                .push(rcgen::DnType::CommonName, *name);
        }
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 2);
        parameters.not_after = rcgen::date_time_ymd(2077, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap()
    }

    #[test]
    fn name_and_times_are_read_past_the_turn_of_the_time_format() {
        let read = CertificateFacts::read(certificate(&["billing"]).der()).unwrap();
        assert_eq!(read.common_name.as_deref(), Some("billing"));
        assert_eq!(read.issuer, "CN=billing");
        assert_eq!(read.not_before.to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(read.not_after.to_string(), "2077-12-31T00:00:00Z");
        assert_eq!(read.untimely(UnixSeconds(read.not_after.0)), None);
        assert_eq!(
            read.untimely(UnixSeconds(read.not_after.0 + 1)).as_deref(),
            Some("expired at 2077-12-31T00:00:00Z")
        );
        assert!(
            read.untimely(UnixSeconds(0))
                .unwrap()
                .starts_with("is not good before")
        );
    }

    #[test]
    fn a_certificate_without_a_name_has_none_and_what_is_no_certificate_is_none() {
        let nameless = CertificateFacts::read(certificate(&[]).der()).unwrap();
        assert_eq!(nameless.common_name, None);
        let der = certificate(&["a"]);
        for end in 0..der.der().len() {
            assert_eq!(CertificateFacts::read(&der.der()[..end]), None);
        }
        assert_eq!(CertificateFacts::read(b"-----BEGIN CERTIFICATE-----"), None);
    }
}
