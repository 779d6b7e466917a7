//! What a reply of the server holds, where it is understood rather than passed on.

use redis_protocol::resp3::types::OwnedFrame;

/// Pairs the fields of a map, which in RESP2 is a flat array.
pub fn pairs(frame: &OwnedFrame) -> Vec<(&OwnedFrame, &OwnedFrame)> {
    match frame {
        OwnedFrame::Map { data, .. } => data.iter().collect(),
        OwnedFrame::Array { data, .. } => data
            .chunks_exact(2)
            .map(|pair| (&pair[0], &pair[1]))
            .collect(),
        _ => Vec::new(),
    }
}

/// Returns the bytes of a string.
pub fn text(frame: &OwnedFrame) -> Option<&[u8]> {
    match frame {
        OwnedFrame::BlobString { data, .. } | OwnedFrame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}
