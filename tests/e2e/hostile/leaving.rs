//! Clients that go while something of theirs waits: it does not run, and holds no place.
