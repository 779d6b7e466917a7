//! Where keys of AWS come from: the environment, the container's endpoint, a web identity.
//!
//! In this order, as the SDKs of AWS look for them; the first place that is named is asked, and no other.

use std::path::Path;

use super::fetch::{Body, Fetch, fetch};
use crate::auth::{AwsKeys, from_container, from_environment};
use crate::config::{Address, Iam, Secret, secret_in_file};

/// Where the agent of ECS answers.
const ECS_AGENT: &str = "169.254.170.2";

/// Hosts that a full URI may name in plain text, beside loopback: the agents of ECS and of EKS Pod Identity.
const AGENTS: [&str; 3] = [ECS_AGENT, "169.254.170.23", "fd00:ec2::23"];

/// Keys for the tokens of `iam`.
///
/// # Errors
/// Why there are none, and what to set; nothing secret.
pub(super) async fn keys(_iam: &Iam) -> Result<AwsKeys, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(keys) = from_environment(variable) {
        return Ok(keys);
    }
    if variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() && variable("AWS_ROLE_ARN").is_some() {
        return Err(
            "a web identity (AWS_WEB_IDENTITY_TOKEN_FILE) is not supported in this version: give the pod its role by EKS Pod \
             Identity, or print the token by upstream.password_command"
                .to_owned(),
        );
    }
    let from_container = match container(variable)? {
        Some(fetch) => fetch,
        None => {
            return Err(
                "no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where AWS_CONTAINER_CREDENTIALS_FULL_URI or \
                 AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
                    .to_owned(),
            );
        }
    };
    of_container(fetch(from_container).await?)
}

fn of_container(body: Body) -> Result<AwsKeys, String> {
    from_container(&body.bytes).ok_or_else(|| {
        format!(
            "the container's endpoint answered {} and no keys",
            body.status
        )
    })
}

/// What to ask the container's endpoint; `None`: there is none.
fn container(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Fetch>, String> {
    let mut fetch = if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        let host = ECS_AGENT.to_owned();
        Fetch::get(Address::Tcp { host, port: 80 }, path)
    } else if let Some(uri) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
        full_uri(&uri).ok_or(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI is not http:// at loopback, 169.254.170.2, 169.254.170.23 or [fd00:ec2::23]",
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

/// The request that a URI in plain text means, where it names a host that may be asked so.
fn full_uri(uri: &str) -> Option<Fetch> {
    let rest = uri.strip_prefix("http://")?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':').unwrap_or("80"))
        }
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let address = Address::Tcp {
        host: host.to_owned(),
        port: port.parse().ok()?,
    };
    (is_loopback || AGENTS.contains(&host)).then(|| Fetch::get(address, path.to_owned()))
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
            format!("{}{} {authorization}", fetch.address, fetch.path)
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
                Some("169.254.170.2:80/v2/credentials/x "),
            ),
            (
                &[(full, "http://169.254.170.23/v1/credentials"), token],
                Some("169.254.170.23:80/v1/credentials tok"),
            ),
            (
                &[(full, "http://[fd00:ec2::23]/v1/credentials")],
                Some("[fd00:ec2::23]:80/v1/credentials "),
            ),
            (
                &[(full, "http://localhost:8080/x?y=z")],
                Some("localhost:8080/x?y=z "),
            ),
            (&[(full, "http://[::1]:81")], Some("[::1]:81/ ")),
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
            "https://127.0.0.1/x",
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
}
