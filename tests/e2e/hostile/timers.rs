//! Which silence closes a client, and which does not.
