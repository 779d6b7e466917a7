//! Which server it is, and of what version: what every text that differs is chosen by.

/// Tells who makes the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerProduct {
    /// It is Redis, or whatever calls itself so.
    Redis,
    /// It is Valkey, which is Redis up to 7.2.
    Valkey,
}

impl ServerProduct {
    /// Returns its name as it stands in HELLO, and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }
}

/// Tells which server it is, and its version. Two of them are equal when nothing that respool says differs between
/// them, except for a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerVersion {
    /// Tells who makes it.
    pub product: ServerProduct,
    /// Holds major, minor and patch.
    pub numbers: (u8, u8, u8),
}

impl Default for ServerVersion {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl ServerVersion {
    /// Stands for a server that has not said what it is.
    pub const UNKNOWN: Self = Self::redis(7, 0, 0);

    pub const fn redis(major: u8, minor: u8, patch: u8) -> Self {
        Self {
            product: ServerProduct::Redis,
            numbers: (major, minor, patch),
        }
    }

    pub const fn valkey(major: u8, minor: u8, patch: u8) -> Self {
        Self {
            product: ServerProduct::Valkey,
            numbers: (major, minor, patch),
        }
    }

    /// Reads a version as the server writes it, `9.1.2` or `8.0.0-rc1`. `None`: it begins with no number.
    pub fn parse(product: ServerProduct, text: &str) -> Option<Self> {
        let number = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_digit());
            part[..end.unwrap_or(part.len())].parse().ok()
        };
        let mut parts = text.split('.');
        let major = parts.next().and_then(number)?;
        let mut next = || parts.next().and_then(number).unwrap_or(0);
        Some(Self {
            product,
            numbers: (major, next(), next()),
        })
    }

    /// Tells whether it is a Valkey.
    pub fn is_valkey(self) -> bool {
        self.product == ServerProduct::Valkey
    }

    /// Tells whether it is a Redis from `redis` (major, minor) on, or a Valkey that descends from it: what Redis had at
    /// 7.2 every Valkey has, and nothing that came to Redis later.
    pub fn is_from(self, redis: (u8, u8)) -> bool {
        match self.product {
            ServerProduct::Redis => self.line() >= redis,
            ServerProduct::Valkey => redis <= (7, 2),
        }
    }

    /// Tells whether it is a Valkey from `valkey` (major, minor) on.
    pub fn is_valkey_from(self, valkey: (u8, u8)) -> bool {
        self.is_valkey() && self.line() >= valkey
    }

    /// Tells whether it ends with a fault when a client is unblocked whose call it has put off for a pause (Redis 6.2
    /// and 7.0; 7.2 and every Valkey answer that there is none to unblock).
    pub fn faults_on_unblock(self) -> bool {
        !self.is_from((7, 2))
    }

    fn line(self) -> (u8, u8) {
        (self.numbers.0, self.numbers.1)
    }

    /// Packs it into one number, so that threads can share it without a lock. It is never 0.
    pub fn to_bits(self) -> u32 {
        let product = match self.product {
            ServerProduct::Redis => 1,
            ServerProduct::Valkey => 2,
        };
        let (major, minor, patch) = self.numbers;
        u32::from_be_bytes([product, major, minor, patch])
    }

    /// Returns the server of [`Self::to_bits`]. Of any other number [`Self::UNKNOWN`].
    #[inline]
    fn from_bits(bits: u32) -> Self {
        let [product, major, minor, patch] = bits.to_be_bytes();
        match product {
            1 => Self::redis(major, minor, patch),
            2 => Self::valkey(major, minor, patch),
            _ => Self::UNKNOWN,
        }
    }
}

/// Holds a version as threads share it: each request carries it along, and few look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackedVersion(u32);

impl PackedVersion {
    /// Takes that of these [`ServerVersion::to_bits`].
    #[inline]
    pub fn of_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Tells which server it is.
    #[inline]
    pub fn version(self) -> ServerVersion {
        ServerVersion::from_bits(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_servers_write_it() {
        let read = |text| ServerVersion::parse(ServerProduct::Redis, text).map(|read| read.numbers);
        for (text, numbers) in [
            ("7.0.15", Some((7, 0, 15))),
            ("8.0.0-rc1", Some((8, 0, 0))),
            ("255.255.255", Some((255, 255, 255))),
            ("7.300", Some((7, 0, 0))),
            ("9", Some((9, 0, 0))),
            ("", None),
            ("unstable", None),
            ("999.1", None),
        ] {
            assert_eq!(read(text), numbers, "{text}");
        }
    }

    #[test]
    fn a_valkey_has_what_redis_had_at_7_2_and_nothing_later() {
        let valkey = ServerVersion::valkey(9, 1, 2);
        assert!(valkey.is_from((7, 0)) && valkey.is_from((7, 2)) && !valkey.is_from((7, 4)));
        assert!(valkey.is_valkey_from((8, 1)) && !valkey.is_valkey_from((9, 2)));
        let redis = ServerVersion::redis(8, 2, 3);
        assert!(redis.is_from((7, 4)) && !redis.is_from((8, 4)) && !redis.is_valkey_from((7, 2)));
        assert!(!ServerVersion::redis(6, 2, 5).is_from((7, 0)));
    }

    #[test]
    fn one_number_tells_all_of_it() {
        for version in [
            ServerVersion::UNKNOWN,
            ServerVersion::redis(6, 2, 5),
            ServerVersion::valkey(9, 1, 2),
        ] {
            assert_eq!(ServerVersion::from_bits(version.to_bits()), version);
            assert_ne!(version.to_bits(), 0);
        }
        assert_eq!(ServerVersion::from_bits(0), ServerVersion::UNKNOWN);
    }
}
