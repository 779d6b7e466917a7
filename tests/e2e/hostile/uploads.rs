//! Requests that arrive in part: what they may hold, and for how long.
