//! The files of the operator's endpoint's own unix sockets, as they are looked at while it serves.

use std::io;

use super::socket_file::{BoundFile, GONE, REPLACED};

/// Holds the file of the endpoint's unix socket.
#[derive(Debug)]
pub struct EndpointFile {
    /// Names the setting that has its address.
    key: &'static str,
    file: BoundFile,
}

impl EndpointFile {
    pub(super) fn new(key: &'static str, file: BoundFile) -> Self {
        Self { key, file }
    }

    /// Says what is wrong with it now, if it is gone or another's.
    pub fn trouble(&self) -> Option<String> {
        let error = self.file.access().err()?;
        let (key, path) = (self.key, self.file.path().display());
        // Its address cannot be changed by a reload, as a listener's can.
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("{GONE}; restart respool"),
            io::ErrorKind::Other => format!("{REPLACED}; remove that file and restart respool"),
            _ => error.to_string(),
        };
        Some(format!(
            "{key}: nobody can connect to unix:{path} any more: {why}"
        ))
    }
}
