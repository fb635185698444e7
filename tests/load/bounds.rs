//! The bound of memory in docs/understand/limits.md.

use std::path::Path;

use bearerd::config::{Environment, Limits, parse};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The greatest numbers of connections, heads, answers and bodies at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) connections: u64,
    /// Connections that speak TLS.
    pub(crate) tls: u64,
    /// Connections with a partial head.
    pub(crate) heads: u64,
    /// HTTP/1.1 answers that are not read.
    pub(crate) answers: u64,
    /// HTTP/2 streams whose answers are not read.
    pub(crate) streams: u64,
    /// Request bodies that are kept for a replay.
    pub(crate) bodies: u64,
}

impl Held {
    /// The bound in bytes, with the default settings.
    pub(crate) fn bound(self) -> u64 {
        let limits = defaults();
        let header_bytes = limits.header_bytes as u64;
        16 * MIB
            + (self.bodies * limits.replay_body as u64).min(limits.replay_total as u64)
            + self.connections * 32 * KIB
            + self.tls * 64 * KIB
            + self.heads * header_bytes
            + self.answers * 256 * KIB
            + self.streams * 256 * KIB
    }
}

fn defaults() -> Limits {
    let text = "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n".to_owned();
    let checked = parse(Path::new("proxy.toml"), text, &Environment::from([])).expect("a good configuration");
    checked.config.server.limits
}
