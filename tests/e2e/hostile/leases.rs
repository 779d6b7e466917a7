//! Lent connections stay where they are used: no worker dials what another has just closed.
