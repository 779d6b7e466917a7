//! How long that may take which is sent amid a stream, and the question whose answer tells that it has come.

use crate::command::Delays;
use crate::fences::Fence;

/// Says how long requests may take that are sent amid a stream.
#[derive(Debug, Clone, Copy)]
pub struct MayTake {
    /// The server may keep them waiting for these reasons.
    pub delays: Delays,
    /// One of them may wait for as long as its client likes.
    pub blocks: bool,
    /// One of those takes something away.
    pub takes: bool,
}

impl MayTake {
    /// Stands for requests that the server answers at once.
    pub const NO_TIME: Self = Self {
        delays: Delays::NONE,
        blocks: false,
        takes: false,
    };

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            delays: self.delays.and(other.delays),
            blocks: self.blocks || other.blocks,
            takes: self.takes || other.takes,
        }
    }
}

/// Asks a question whose answer tells that all before it has come.
#[derive(Debug, Clone, Copy)]
pub struct FencePlace {
    pub(super) fence: Fence,
    /// The requests before it may take this long.
    pub(super) before: MayTake,
}
