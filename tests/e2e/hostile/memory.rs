//! What is held for clients that read slowly or not at all, and what it costs the process.
