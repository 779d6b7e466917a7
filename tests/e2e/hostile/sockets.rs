//! The hard total of sockets at the server, counted in the kernel's table.
