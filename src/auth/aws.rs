//! Keys of AWS, as they are told: by the environment, by the container's endpoint, by the security token service.

use serde_json::Value;
use zeroize::Zeroizing;

use super::sigv4::seconds_of;
use crate::config::Secret;

/// What signs in the name of a role or user of AWS.
#[derive(Debug, Clone)]
pub struct AwsKeys {
    /// The access key's id, which is no secret.
    pub id: String,
    /// The secret access key.
    pub secret: Secret,
    /// The session token of keys that are lent for a while.
    pub session: Option<Secret>,
    /// When they end, in seconds since the epoch; `None`: not by themselves.
    pub expires: Option<u64>,
}

/// Keys among the variables of the environment. `None`: there are none.
pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<AwsKeys> {
    let written = |name| variable(name).filter(|value| !value.is_empty());
    Some(AwsKeys {
        id: written("AWS_ACCESS_KEY_ID")?,
        secret: Secret::new(written("AWS_SECRET_ACCESS_KEY")?),
        session: written("AWS_SESSION_TOKEN").map(Secret::new),
        expires: None,
    })
}

/// Keys in the answer of a container's endpoint (ECS, EKS Pod Identity). `None`: there are none in it.
pub fn from_container(body: &[u8]) -> Option<AwsKeys> {
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

/// Keys in the answer of the security token service to AssumeRoleWithWebIdentity. `None`: there are none in it.
pub fn from_sts(body: &[u8]) -> Option<AwsKeys> {
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
