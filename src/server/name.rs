//! What a server calls itself.

use crate::texts::{ServerProduct, ServerVersion};

/// Names a server as it calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName {
    /// The server is this one.
    pub version: ServerVersion,
    /// The server writes its version so.
    pub text: String,
}

impl ServerName {
    /// Reads the version of `product`; `None`: `text` is no version.
    pub fn of(product: ServerProduct, text: String) -> Option<Self> {
        let version = ServerVersion::parse(product, &text)?;
        Some(Self { version, text })
    }
}
