//! Where keys of AWS come from: the environment, the container's endpoint, a web identity.
//!
//! In this order, as the SDKs of AWS look for them; the first place that is named is asked, and no other.

use std::path::Path;

use zeroize::Zeroizing;

use super::aside::aside;
use super::fetch::{Body, Fetch, Wire, fetch};
use crate::auth::{AwsKeys, escaped, from_container, from_environment, from_sts};
use crate::config::{Iam, Secret, secret_in_file};

/// Where the agent of ECS answers.
const ECS_AGENT: &str = "169.254.170.2";

/// Hosts that a full URI may name in plain text, beside loopback: the agents of ECS and of EKS Pod Identity.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// Keys for the tokens of `iam`.
///
/// # Errors
/// Why there are none, and what to set; nothing secret.
pub(super) async fn keys(iam: &Iam) -> Result<AwsKeys, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(keys) = from_environment(variable) {
        return Ok(keys);
    }
    let region = iam.region.clone();
    if let Some(assume) = aside(move || web_identity(variable, &region)).await?? {
        let body = fetch(assume).await?;
        return told("the security token service", from_sts(&body.bytes), &body);
    }
    let from_container = match aside(move || container(variable)).await?? {
        Some(fetch) => fetch,
        None => {
            return Err(
                "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where AWS_WEB_IDENTITY_TOKEN_FILE, \
                 AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
                    .to_owned(),
            );
        }
    };
    let body = fetch(from_container).await?;
    told(
        "the container's endpoint",
        self::from_container(&body.bytes),
        &body,
    )
}

fn told(who: &str, keys: Option<AwsKeys>, body: &Body) -> Result<AwsKeys, String> {
    keys.ok_or_else(|| format!("{who} answered {} and no keys", body.status))
}

/// What to ask the security token service, where there is a web identity (EKS: IAM roles for service accounts).
fn web_identity(
    variable: impl Fn(&str) -> Option<String>,
    region: &str,
) -> Result<Option<Fetch>, String> {
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
    let mut fetch = endpoint_of(&endpoint)
        .ok_or("AWS_ENDPOINT_URL_STS is neither https:// nor http:// at loopback")?;
    let fields = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", &role),
        ("RoleSessionName", &session),
        ("WebIdentityToken", token.expose()),
    ];
    let form = fields.map(|(name, value)| format!("{name}={}", escaped(value)));
    fetch.form = Some(Zeroizing::new(form.join("&")));
    Ok(Some(fetch))
}

/// What to ask the container's endpoint; `None`: there is none.
fn container(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Fetch>, String> {
    let mut fetch = if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
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
    fetch.authorization = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => Some(
            secret_in_file(Path::new(&path))
                .map_err(|why| format!("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {why}"))?,
        ),
        None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new),
    };
    Ok(Some(fetch))
}

/// The request that a URI means, where it may be asked so: in plain text nobody across a network.
fn endpoint_of(uri: &str) -> Option<Fetch> {
    let fetch = Fetch::of(uri)?;
    let host = fetch.host.as_str();
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    (fetch.wire == Wire::Tls || is_loopback || AGENTS.contains(&host)).then_some(fetch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let fetch = container(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })?;
        Ok(fetch.map(|fetch| {
            let authorization = fetch.authorization.as_ref().map_or("", Secret::expose);
            let (host, port, path) = (&fetch.host, fetch.port, &fetch.path);
            format!("{:?} {host} {port} {path} {authorization}", fetch.wire)
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
            let fetch = web_identity(
                |name| {
                    let found = variables.iter().find(|(known, _)| *known == name)?;
                    Some(found.1.to_owned())
                },
                region,
            )?;
            Ok::<_, String>(fetch.map(|fetch| {
                let form = fetch.form.as_ref().map_or("", |form| form.as_str());
                format!(
                    "{:?} {} {} {} {form}",
                    fetch.wire, fetch.host, fetch.port, fetch.path
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
}
