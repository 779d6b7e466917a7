//! Secrets and the digests of passwords: wiped on drop, never printed.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Holds a secret: it is wiped on drop and never printed.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Makes a secret of `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Holds the SHA-256 of a password, as Redis keeps it in its ACLs.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordDigest(pub [u8; 32]);

impl PasswordDigest {
    /// Returns the digest of `password`.
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// Reads 64 hexadecimal digits, which may stand behind the `#` of an ACL rule.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').unwrap_or(text).as_bytes();
        let mut bytes = [0; 32];
        let pairs = digits.chunks_exact(2);
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<digest>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_redis_writes_them() {
        let hex = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let secret = PasswordDigest::of(b"secret");
        assert!(PasswordDigest::from_hex(hex).as_ref() == Some(&secret));
        assert!(PasswordDigest::from_hex(&format!("#{hex}")).as_ref() == Some(&secret));
        assert!(PasswordDigest::from_hex(&hex.to_uppercase()).as_ref() == Some(&secret));
        for wrong in [
            "",
            "#",
            &hex[1..],
            &format!("{hex}0"),
            &hex.replace('2', "g"),
        ] {
            assert!(PasswordDigest::from_hex(wrong).is_none(), "{wrong}");
        }
        assert!(!format!("{secret:?}").contains("2b"));
    }
}
