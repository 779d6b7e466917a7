//! What one client's work costs the others in time.
