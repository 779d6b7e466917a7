//! Who may ask the endpoint, and who may change something: by the name it is asked by, the site a browser was on, the token.

use base64ct::{Base64, Encoding as _};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use subtle::ConstantTimeEq as _;

use crate::config::{AdminSettings, PasswordDigest};
use crate::telemetry::AdminRefusal;

/// Credentials that are longer are not looked at, in bytes.
const LONGEST: usize = 4096;

/// Says what a request must show to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestNeeds {
    /// It must show nothing: it is a probe, or there is nothing to see.
    Nothing,
    /// It must show what whoever reads must show.
    Reading,
    /// It must show what whoever changes something must show.
    Changing,
}

/// Says why a request is refused: what is counted, and what it is told.
pub(super) type RefusedRequest = (AdminRefusal, StatusCode, &'static str);

/// Checks whether what has these `needs` may be done for this request.
pub(super) fn check<T>(
    request: &Request<T>,
    admin: &AdminSettings,
    needs: RequestNeeds,
    is_unix: bool,
) -> Result<(), RefusedRequest> {
    // A page of another site whose name was made to lead here asks by that name; it cannot reach a unix socket.
    if !is_unix && !is_known(request, admin) {
        return Err((
            AdminRefusal::Host,
            StatusCode::FORBIDDEN,
            "refused: asked by a name that is none of admin.hosts\n",
        ));
    }
    let takes_token = match needs {
        RequestNeeds::Nothing => false,
        RequestNeeds::Reading => admin.read_token,
        RequestNeeds::Changing => true,
    };
    if let Some(token) = admin.token.as_ref().filter(|_| takes_token)
        && !shows(request.headers(), token)
    {
        return Err((
            AdminRefusal::Token,
            StatusCode::UNAUTHORIZED,
            "refused: this takes the token of the configuration (admin.token_file)\n",
        ));
    }
    if needs == RequestNeeds::Changing && !is_same_site(request.headers()) {
        return Err((
            AdminRefusal::Origin,
            StatusCode::FORBIDDEN,
            "refused: the request comes from another site\n",
        ));
    }
    Ok(())
}

fn is_known<T>(request: &Request<T>, admin: &AdminSettings) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let of_header = match (hosts.next(), hosts.next()) {
        // No browser leaves it out.
        (None, _) => true,
        (Some(host), None) => host.to_str().is_ok_and(|host| admin.is_known_as(host)),
        (Some(_), Some(_)) => false,
    };
    let of_target = request.uri().authority();
    of_header && of_target.is_none_or(|authority| admin.is_known_as(authority.as_str()))
}

/// Tells whether the token is shown: as `Bearer`, or as the password of `Basic` by a browser that has asked its user. How long the
/// comparison takes tells nothing: digests are compared, and all of them.
fn shows(headers: &HeaderMap, token: &PasswordDigest) -> bool {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return false;
    };
    let Some((scheme, credentials)) = value
        .to_str()
        .ok()
        .filter(|text| text.len() <= LONGEST)
        .and_then(|text| text.split_once(' '))
    else {
        return false;
    };
    let credentials = credentials.trim();
    let is_it = |shown: &[u8]| bool::from(PasswordDigest::of(shown).0.ct_eq(&token.0));
    if scheme.eq_ignore_ascii_case("bearer") {
        return is_it(credentials.as_bytes());
    }
    let mut buffer = zeroize::Zeroizing::new([0; LONGEST]);
    let decoded = Base64::decode(credentials, buffer.as_mut_slice());
    let password = decoded.ok().and_then(|user_and_password| {
        let colon = user_and_password.iter().position(|byte| *byte == b':')?;
        user_and_password.get(colon + 1..)
    });
    scheme.eq_ignore_ascii_case("basic") && password.is_some_and(is_it)
}

/// Tells whether a browser, if it is one, was told to do this by our own page: any site could make it POST here.
fn is_same_site(headers: &HeaderMap) -> bool {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let is_own_fetch = headers
        .get("sec-fetch-site")
        .is_none_or(|site| site == "same-origin" || site == "none");
    let is_own_origin = headers.get(header::ORIGIN).is_none_or(|origin| {
        let origin = text(origin);
        let host = headers.get(header::HOST).and_then(text);
        let of_origin = origin
            .as_deref()
            .and_then(|origin| origin.split_once("://"));
        of_origin.is_some_and(|(_, of_origin)| host.as_deref() == Some(of_origin))
    });
    is_own_fetch && is_own_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    fn guarded() -> AdminSettings {
        AdminSettings {
            token: Some(PasswordDigest::of(b"sesame")),
            ..AdminSettings::default()
        }
    }

    fn why(
        request: &Request<()>,
        admin: &AdminSettings,
        needs: RequestNeeds,
    ) -> Option<AdminRefusal> {
        check(request, admin, needs, false)
            .err()
            .map(|(why, _, _)| why)
    }

    #[test]
    fn what_changes_something_takes_the_token_and_reading_where_wanted() {
        let plain = asked(&[]);
        let mut admin = guarded();
        assert_eq!(
            why(&plain, &admin, RequestNeeds::Changing),
            Some(AdminRefusal::Token)
        );
        assert_eq!(why(&plain, &admin, RequestNeeds::Reading), None);
        admin.read_token = true;
        assert_eq!(
            why(&plain, &admin, RequestNeeds::Reading),
            Some(AdminRefusal::Token)
        );
        assert_eq!(
            why(&plain, &admin, RequestNeeds::Nothing),
            None,
            "probes have none"
        );
        assert_eq!(
            why(&plain, &AdminSettings::default(), RequestNeeds::Changing),
            None
        );
    }

    #[test]
    fn the_token_is_shown_whole_and_once() {
        let admin = guarded();
        let with = |value: &str| {
            why(
                &asked(&[("authorization", value)]),
                &admin,
                RequestNeeds::Changing,
            )
        };
        // "x:sesame", ":sesame"
        for right in [
            "Bearer sesame",
            "bearer  sesame",
            "Basic eDpzZXNhbWU=",
            "Basic OnNlc2FtZQ==",
        ] {
            assert_eq!(with(right), None, "{right}");
        }
        let long = format!("Bearer {}", "s".repeat(LONGEST));
        // "sesame", "sesame:x"
        for wrong in [
            "sesame",
            "Bearer",
            "Bearer sesam",
            "Bearer sesame2",
            "Digest sesame",
            "Basic c2VzYW1l",
            "Basic c2VzYW1lOng=",
            "Basic sesame",
            "Basic !",
            &long,
        ] {
            assert_eq!(with(wrong), Some(AdminRefusal::Token), "{wrong}");
        }
        let twice = asked(&[
            ("authorization", "Bearer x"),
            ("authorization", "Bearer sesame"),
        ]);
        assert_eq!(
            why(&twice, &admin, RequestNeeds::Changing),
            Some(AdminRefusal::Token)
        );
    }

    #[test]
    fn other_names_and_other_sites_are_refused() {
        let open = AdminSettings::default();
        let by = |host: &str| why(&asked(&[("host", host)]), &open, RequestNeeds::Nothing);
        assert_eq!(by("127.0.0.1:9180"), None);
        assert_eq!(by("evil.example.com:9180"), Some(AdminRefusal::Host));
        let twice = asked(&[("host", "127.0.0.1"), ("host", "evil.example.com")]);
        assert_eq!(
            why(&twice, &open, RequestNeeds::Nothing),
            Some(AdminRefusal::Host)
        );
        let target = Request::builder()
            .uri("http://evil.example.com/status")
            .header("host", "127.0.0.1")
            .body(())
            .expect("a request");
        assert_eq!(
            why(&target, &open, RequestNeeds::Nothing),
            Some(AdminRefusal::Host)
        );
        let unix = asked(&[("host", "whatever")]);
        assert!(check(&unix, &open, RequestNeeds::Changing, true).is_ok());
        for (name, value) in [
            ("origin", "http://evil.example.com"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let request = asked(&[("host", "127.0.0.1:9180"), (name, value)]);
            assert_eq!(
                why(&request, &open, RequestNeeds::Changing),
                Some(AdminRefusal::Origin)
            );
            assert_eq!(why(&request, &open, RequestNeeds::Reading), None);
        }
        let own = asked(&[
            ("host", "127.0.0.1:9180"),
            ("origin", "http://127.0.0.1:9180"),
            ("sec-fetch-site", "same-origin"),
        ]);
        assert_eq!(why(&own, &open, RequestNeeds::Changing), None);
    }
}
