//! Frames that nobody asked for, blocks that end otherwise than they should, requests that servers read differently.
