//! What went wrong with TLS, in words that say what to change.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use super::TlsRole;
use crate::config::{CertificateFacts, UnixSeconds};

/// Bounds the names that are shown of a certificate that bears many.
const MOST_NAMES: usize = 8;

/// Bounds the characters shown of anything that somebody not verified yet has written into a certificate.
const MOST_TEXT: usize = 256;

/// A refusal in words, carried through rustls.
#[derive(Debug)]
struct ExplainedRefusal(String);

impl fmt::Display for ExplainedRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ExplainedRefusal {}

/// Says why the server's certificate was refused.
pub(super) fn server_certificate(
    error: Error,
    end_entity: &CertificateDer<'_>,
    asked: &ServerName<'_>,
    trust: &str,
) -> Error {
    use CertificateError as E;
    let Error::InvalidCertificate(error) = error else {
        return error;
    };
    let known = CertificateFacts::read(end_entity);
    let issuer = known.as_ref().map_or_else(String::new, |known| {
        format!(" by {:?}", short(&known.issuer))
    });
    let asked = asked.to_str();
    let text = match &error {
        E::NotValidForNameContext { presented, .. } => wrong_name(presented, &asked),
        E::ExpiredContext { not_after, .. } => format!(
            "the server's certificate expired at {}; renew it at the server, or set this machine's clock",
            UnixSeconds(not_after.as_secs())
        ),
        E::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is not good before {}; set this machine's clock, or the server's certificate",
            UnixSeconds(not_before.as_secs())
        ),
        E::UnknownIssuer => format!(
            "the server's certificate is signed{issuer}, an authority that is not known here (by {trust}); set \
             upstream.tls.ca_file to the certificate of that authority"
        ),
        E::BadSignature => format!(
            "the server's certificate is not signed by the authority it names{issuer}: an authority of the same name and \
             another key is known here (by {trust}); set upstream.tls.ca_file to the one that signed it"
        ),
        E::Revoked => "the server's certificate is revoked; renew it at the server".to_owned(),
        other => format!(
            "the server's certificate cannot be verified: {}; give the server one that is signed by an authority (by \
             {trust}) for {asked:?}",
            plain(other)
        ),
    };
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(
        ExplainedRefusal(text),
    ))))
}

fn wrong_name(presented: &[String], asked: &str) -> String {
    let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
    if names.is_empty() {
        return format!(
            "the server's certificate bears no names (subjectAltName), not even {asked:?}; give the server one that does"
        );
    }
    let more = names.len().saturating_sub(MOST_NAMES);
    let mut list: Vec<String> = names
        .iter()
        .take(MOST_NAMES)
        .map(|name| format!("{:?}", short(name)))
        .collect();
    if more > 0 {
        list.push(format!("{more} more"));
    }
    format!(
        "the server's certificate is good for {}, not for {asked:?}; set upstream.tls.server_name to a name that it is good \
         for (upstream.address stays as it is)",
        list.join(", ")
    )
}

/// Reads `DnsName("a")` and `IpAddress(1.2.3.4)` as they are told: the name alone.
fn bare_name(told: &str) -> &str {
    let inner = told
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .unwrap_or(told);
    inner.trim_matches('"')
}

/// Says for people what TLS broke on.
pub(super) fn broken(error: &Error, role: TlsRole) -> String {
    match (error, role) {
        (Error::AlertReceived(alert), TlsRole::TowardsServer { has_identity }) => format!(
            "the server ended TLS with the alert {alert:?}{}",
            alert_remedy(*alert, has_identity)
        ),
        (other, _) => format!("TLS broke: {other}"),
    }
}

fn plain(error: &CertificateError) -> String {
    match error {
        CertificateError::Other(OtherError(inner)) => inner.to_string(),
        other => short(&other.to_string()),
    }
}

/// Returns the start of a text whose length others decide.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(MOST_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Says why the handshake with the server came to nothing; `first` is what the server sent first.
pub(super) fn towards_server(error: &Error, first: &[u8], has_identity: bool) -> String {
    match error {
        Error::InvalidCertificate(error) => plain(error),
        Error::InvalidMessage(_) if !looks_like_tls(first) => format!(
            "the server answered TLS with plain bytes ({}): it speaks no TLS on this port; remove upstream.tls, or set \
             upstream.address to its TLS port",
            shown(first)
        ),
        Error::AlertReceived(alert) => format!(
            "the server ended the handshake with the TLS alert {alert:?}{}",
            alert_remedy(*alert, has_identity)
        ),
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "the server speaks neither TLS 1.2 nor 1.3; set its tls-protocols".to_owned()
        }
        other => format!("the TLS handshake with the server failed: {other}"),
    }
}

/// Says what to do about an alert of the server.
fn alert_remedy(alert: AlertDescription, has_identity: bool) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired | A::NoCertificate => CLIENT_CERTIFICATE_WANTED,
        A::BadCertificate if !has_identity => CLIENT_CERTIFICATE_WANTED,
        A::HandshakeFailure if !has_identity => {
            "; it may want a client certificate (set upstream.tls.cert_file and key_file), or it shares no cipher with respool \
             (see its tls-ciphers)"
        }
        A::HandshakeFailure => "; it may share no cipher with respool (see its tls-ciphers)",
        A::BadCertificate
        | A::UnknownCA
        | A::CertificateUnknown
        | A::CertificateExpired
        | A::CertificateRevoked
        | A::UnsupportedCertificate
        | A::DecryptError
        | A::AccessDenied
            if has_identity =>
        {
            "; it does not accept respool's certificate: set upstream.tls.cert_file and key_file to one that the server's \
             authority (its tls-ca-cert-file) has signed"
        }
        A::UnrecognisedName => {
            "; it does not know the name it was asked for: set upstream.tls.server_name"
        }
        A::ProtocolVersion => "; it speaks neither TLS 1.2 nor 1.3: set its tls-protocols",
        _ => "",
    }
}

const CLIENT_CERTIFICATE_WANTED: &str =
    "; it wants a client certificate: set upstream.tls.cert_file and key_file";

/// Tells whether bytes may be the start of a TLS record.
pub(super) fn looks_like_tls(first: &[u8]) -> bool {
    matches!(first, [20..=24, 3, ..])
}

/// Shows the start of what was no TLS, on one line.
fn shown(first: &[u8]) -> String {
    let line = first.split(|byte| *byte == b'\r' || *byte == b'\n').next();
    format!("{:?}", String::from_utf8_lossy(line.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn names_are_told_as_they_are_written() {
        let text = wrong_name(
            &[
                "DnsName(\"*.a.example.com\")".into(),
                "IpAddress(10.0.0.1)".into(),
            ],
            "b.example.com",
        );
        assert!(
            text.contains("good for \"*.a.example.com\", \"10.0.0.1\", not for \"b.example.com\""),
            "{text}"
        );
        assert!(text.contains("upstream.tls.server_name"), "{text}");
        let many: Vec<String> = (0..20).map(|n| format!("DnsName(\"n{n}\")")).collect();
        assert!(
            wrong_name(&many, "x").contains("\"n7\", 12 more"),
            "{}",
            wrong_name(&many, "x")
        );
        assert!(wrong_name(&[], "x").contains("bears no names"));
    }

    #[test]
    fn what_a_stranger_wrote_is_cut() {
        let long = format!("DnsName(\"{}\")", "\u{e9}".repeat(60_000));
        let text = wrong_name(&[long], "x");
        assert!(
            text.contains("\u{e9}...\"") && text.len() < 1000,
            "{}",
            text.len()
        );
        assert_eq!(
            (short("abc"), short(&"x".repeat(256))),
            ("abc".into(), "x".repeat(256))
        );
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = "n".repeat(60_000);
        params.distinguished_name.push(DnType::CommonName, name);
        let cert = params.self_signed(&key).unwrap();
        let asked = ServerName::try_from("localhost").unwrap();
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let text = server_certificate(unknown, cert.der(), &asked, "nobody").to_string();
        assert!(
            text.contains("nnn...") && text.len() < 1000,
            "{}",
            text.len()
        );
    }

    #[test]
    fn a_failed_handshake_may_have_either_cause() {
        let text = broken(
            &Error::AlertReceived(AlertDescription::HandshakeFailure),
            TlsRole::TowardsServer {
                has_identity: false,
            },
        );
        assert!(
            text.contains("may want a client certificate") && text.contains("shares no cipher"),
            "{text}"
        );
    }

    #[test]
    fn a_plain_answer_is_told_from_a_record() {
        assert!(looks_like_tls(&[0x16, 3, 3, 0, 1]) && looks_like_tls(&[0x15, 3, 1]));
        assert!(!looks_like_tls(b"-ERR no\r\n") && !looks_like_tls(b""));
        assert_eq!(shown(b"-ERR max number\r\n-ERR"), "\"-ERR max number\"");
    }
}
