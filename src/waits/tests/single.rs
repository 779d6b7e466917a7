//! Single rules of blocked clients, each shown by itself.
