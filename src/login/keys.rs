//! Keys of AWS, and where they come from: the environment, the security token service for a web identity, the container's endpoint.
//!
//! They are looked for in this order, as the SDKs of AWS do; the first place that is named is asked, and no other.

use std::path::Path;

use serde_json::Value;
use zeroize::Zeroizing;

use super::http::{HttpAnswer, HttpRequest, HttpScheme};
use super::on_thread::read_on_thread;
use super::sigv4::{AwsKeys, escaped, seconds_of};
use crate::config::{IamLogin, Secret, secret_in_file};

/// The agent of ECS answers here.
const ECS_AGENT: &str = "169.254.170.2";

/// A full URI may name these hosts in plain text, beside loopback: the agents of ECS and of EKS Pod Identity.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// Looks for the keys that sign the tokens of `iam`.
///
/// # Errors
/// The text says why there are none, and what to set; nothing secret.
pub(super) async fn keys(iam: &IamLogin) -> Result<AwsKeys, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(keys) = from_environment(variable) {
        return Ok(keys);
    }
    let region = iam.region.clone();
    if let Some(request) = read_on_thread(move || web_identity(variable, &region)).await?? {
        let answer = request.send().await?;
        let keys = from_sts(&answer.bytes);
        return keys_of("the security token service", keys, &answer);
    }
    let Some(request) = read_on_thread(move || container(variable)).await?? else {
        return Err(
            "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where AWS_WEB_IDENTITY_TOKEN_FILE, \
             AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
                .to_owned(),
        );
    };
    let answer = request.send().await?;
    let keys = from_container(&answer.bytes);
    keys_of("the container's endpoint", keys, &answer)
}

fn keys_of(who: &str, keys: Option<AwsKeys>, answer: &HttpAnswer) -> Result<AwsKeys, String> {
    keys.ok_or_else(|| format!("{who} answered {} and no keys", answer.status))
}

/// Returns what to ask the security token service, where there is a web identity (EKS: IAM roles for service accounts).
fn web_identity(
    variable: impl Fn(&str) -> Option<String>,
    region: &str,
) -> Result<Option<HttpRequest>, String> {
    let Some(path) = variable("AWS_WEB_IDENTITY_TOKEN_FILE") else {
        return Ok(None);
    };
    let role = variable("AWS_ROLE_ARN")
        .ok_or("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not: set it to the role")?;
    let token = secret_in_file(Path::new(&path))
        .map_err(|why| format!("AWS_WEB_IDENTITY_TOKEN_FILE: {why}"))?;
    let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "respool".to_owned());
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    let endpoint = variable("AWS_ENDPOINT_URL_STS")
        .unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com{suffix}"));
    let mut request = endpoint_of(&endpoint)
        .ok_or("AWS_ENDPOINT_URL_STS is neither https:// nor http:// at loopback")?;
    let fields = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", &role),
        ("RoleSessionName", &session),
        ("WebIdentityToken", token.expose()),
    ];
    let form = fields.map(|(name, value)| format!("{name}={}", escaped(value)));
    request.form = Some(Zeroizing::new(form.join("&")));
    Ok(Some(request))
}

/// Returns what to ask the container's endpoint; `None`: there is none.
fn container(variable: impl Fn(&str) -> Option<String>) -> Result<Option<HttpRequest>, String> {
    let mut request = if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        endpoint_of(&format!("http://{ECS_AGENT}{path}"))
            .ok_or("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with /")?
    } else if let Some(uri) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        endpoint_of(&uri).ok_or(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https:// nor http:// at loopback, 169.254.170.2, 169.254.170.23 \
             or [fd00:ec2::23]",
        )?
    } else {
        return Ok(None);
    };
    request.authorization = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => Some(
            secret_in_file(Path::new(&path))
                .map_err(|why| format!("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {why}"))?,
        ),
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new),
    };
    Ok(Some(request))
}

/// Returns the request that a URI means, where it may be asked so: in plain text nobody across a network.
fn endpoint_of(uri: &str) -> Option<HttpRequest> {
    let request = HttpRequest::of(uri)?;
    let host = request.host.as_str();
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let is_safe = request.scheme == HttpScheme::Tls || is_loopback || AGENTS.contains(&host);
    is_safe.then_some(request)
}

/// Reads keys from the variables of the environment. `None`: there are none.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<AwsKeys> {
    let written = |name| variable(name).filter(|value| !value.is_empty());
    Some(AwsKeys {
        id: written("AWS_ACCESS_KEY_ID")?,
        secret: Secret::new(written("AWS_SECRET_ACCESS_KEY")?),
        session: written("AWS_SESSION_TOKEN").map(Secret::new),
        expires: None,
    })
}

/// Reads keys from the answer of a container's endpoint (ECS, EKS Pod Identity). `None`: there are none in it.
fn from_container(body: &[u8]) -> Option<AwsKeys> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let field = |name: &str| {
        let text = answer.get(name)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    Some(AwsKeys {
        id: field("AccessKeyId")?,
        secret: Secret::new(field("SecretAccessKey")?),
        session: field("Token").map(Secret::new),
        expires: field("Expiration").and_then(|at| seconds_of(&at)),
    })
}

/// Reads keys from the answer of the security token service to AssumeRoleWithWebIdentity. `None`: there are none in it.
fn from_sts(body: &[u8]) -> Option<AwsKeys> {
    let answer = Zeroizing::new(String::from_utf8(body.to_vec()).ok()?);
    let field = |name: &str| {
        // Its values hold nothing that XML would have to escape.
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        (!text.is_empty()).then(|| text.trim().to_owned())
    };
    Some(AwsKeys {
        id: field("AccessKeyId")?,
        secret: Secret::new(field("SecretAccessKey")?),
        session: field("SessionToken").map(Secret::new),
        expires: field("Expiration").and_then(|at| seconds_of(&at)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let request = container(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })?;
        Ok(request.map(|request| {
            let authorization = request.authorization.as_ref().map_or("", Secret::expose);
            let (host, port, path) = (&request.host, request.port, &request.path);
            format!("{:?} {host} {port} {path} {authorization}", request.scheme)
        }))
    }

    #[test]
    fn the_endpoint_is_the_one_that_the_environment_names() {
        let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        let relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "tok");
        for (variables, expected) in [
            (&[][..], None),
            (&[token], None),
            (
                &[(relative, "/v2/credentials/x")],
                Some("Plain 169.254.170.2 80 /v2/credentials/x "),
            ),
            (
                &[(full, "http://169.254.170.23/v1/credentials"), token],
                Some("Plain 169.254.170.23 80 /v1/credentials tok"),
            ),
            (
                &[(full, "http://[fd00:ec2::23]/v1/credentials")],
                Some("Plain fd00:ec2::23 80 /v1/credentials "),
            ),
            (
                &[(full, "http://localhost:8080/x?y=z")],
                Some("Plain localhost 8080 /x?y=z "),
            ),
            (&[(full, "http://[::1]:81")], Some("Plain ::1 81 / ")),
            (
                &[(full, "https://keys.example.com/x")],
                Some("Tls keys.example.com 443 /x "),
            ),
        ] {
            assert_eq!(asked(variables), Ok(expected.map(str::to_owned)));
        }
    }

    #[test]
    fn keys_are_not_asked_for_in_plain_text_across_a_network() {
        for uri in [
            "http://10.0.0.1/x",
            "http://example.com/x",
            "http://169.254.170.2.example.com/x",
            "http://127.0.0.1@example.com/x",
            "https://127.0.0.1@example.com/x",
            "https:///x",
            "http://[127.0.0.1]/x",
            "http://127.0.0.1:80@example.com/x",
            "ftp://127.0.0.1/x",
            "http://127.0.0.1:x/",
            "",
        ] {
            let asked = asked(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)]);
            assert!(
                asked.is_err_and(|why| why.starts_with("AWS_CONTAINER")),
                "{uri}"
            );
        }
    }

    #[test]
    fn a_web_identity_is_shown_to_the_service_of_its_region() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "a.b-c_d+/=\n").expect("written");
        let path = file.path().to_string_lossy().into_owned();
        let asked = |region: &str, variables: &[(&str, &str)]| {
            let request = web_identity(
                |name| {
                    let found = variables.iter().find(|(known, _)| *known == name)?;
                    Some(found.1.to_owned())
                },
                region,
            )?;
            Ok::<_, String>(request.map(|request| {
                let form = request.form.as_ref().map_or("", |form| form.as_str());
                format!(
                    "{:?} {} {} {} {form}",
                    request.scheme, request.host, request.port, request.path
                )
            }))
        };
        let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", path.as_str());
        let role = ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x");
        assert_eq!(asked("eu-central-1", &[role]), Ok(None));
        let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx\
                    &RoleSessionName=respool&WebIdentityToken=a.b-c_d%2B%2F%3D";
        let expected = |host: &str| Ok(Some(format!("Tls {host} 443 / {form}")));
        assert_eq!(
            asked("eu-central-1", &[token, role]),
            expected("sts.eu-central-1.amazonaws.com")
        );
        assert_eq!(
            asked("cn-north-1", &[token, role]),
            expected("sts.cn-north-1.amazonaws.com.cn")
        );
        let elsewhere = ("AWS_ENDPOINT_URL_STS", "https://sts.example.com");
        assert_eq!(
            asked("eu-central-1", &[token, role, elsewhere]),
            expected("sts.example.com")
        );
        for (variables, expected) in [
            (&[token][..], "AWS_ROLE_ARN is not"),
            (
                &[token, role, ("AWS_ENDPOINT_URL_STS", "http://example.com")],
                "AWS_ENDPOINT_URL_STS is neither",
            ),
            (
                &[role, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/file")],
                "AWS_WEB_IDENTITY_TOKEN_FILE: the file cannot be read",
            ),
        ] {
            let why = asked("eu-central-1", variables).expect_err("refused");
            assert!(why.contains(expected), "{why}");
        }
    }

    fn shown(keys: Option<AwsKeys>) -> Option<(String, String, Option<String>, Option<u64>)> {
        let text = |secret: Secret| secret.expose().to_owned();
        let keys = keys?;
        Some((
            keys.id.clone(),
            text(keys.secret),
            keys.session.map(text),
            keys.expires,
        ))
    }

    #[test]
    fn keys_are_read_wherever_they_are_told() {
        let expected = |expires| {
            let text = |text: &str| text.to_owned();
            Some((text("AKID"), text("abc+/="), Some(text("tok+/=")), expires))
        };
        let environment = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("AKID".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("abc+/=".to_owned()),
            "AWS_SESSION_TOKEN" => Some("tok+/=".to_owned()),
            _ => None,
        };
        assert_eq!(shown(from_environment(environment)), expected(None));
        let body = br#"{"AccessKeyId":"AKID","SecretAccessKey":"abc+/=","Token":"tok+/=",
            "Expiration":"2026-01-02T03:04:05Z","RoleArn":"arn:aws:iam::1:role/x"}"#;
        assert_eq!(shown(from_container(body)), expected(Some(1_767_323_045)));
        let body = b"<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">
            <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKID</AccessKeyId>
            <SecretAccessKey>abc+/=</SecretAccessKey><SessionToken>tok+/=</SessionToken>
            <Expiration>2026-01-02T03:04:05Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>";
        assert_eq!(shown(from_sts(body)), expected(Some(1_767_323_045)));
    }

    #[test]
    fn an_answer_without_keys_is_none() {
        for body in [
            &b""[..],
            b"{}",
            b"[]",
            b"{\"AccessKeyId\":\"a\"}",
            b"{\"AccessKeyId\":1,\"SecretAccessKey\":2}",
            b"\xff",
        ] {
            assert!(shown(from_container(body)).is_none());
        }
        for body in [
            &b""[..],
            b"<Error/>",
            b"<AccessKeyId>a</AccessKeyId>",
            b"<AccessKeyId>a<SecretAccessKey>b",
            b"\xff",
        ] {
            assert!(shown(from_sts(body)).is_none());
        }
        let half = |name: &str| (name == "AWS_ACCESS_KEY_ID").then(|| "a".to_owned());
        assert!(shown(from_environment(half)).is_none());
        assert!(shown(from_environment(|_| Some(String::new()))).is_none());
    }
}
