//! What the daemon hears from systemd and reports to it, by environment variables, descriptors and a socket.
//!
//! - [`sockets`]: the listening sockets that systemd passes to the daemon (`sd_listen_fds(3)`);
//! - [`service`]: the daemon's state, as systemd shows and supervises it (`sd_notify(3)`).
//!
//! Without systemd both are empty and do nothing.

pub mod service;
pub mod sockets;
