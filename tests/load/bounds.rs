//! The bound of memory that docs/limits.md gives, from what there is at once.

use std::path::Path;

use bearerd::config::{Environment, Limits, parse};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What there is at once, at the most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    pub connections: u64,
    /// How many of these speak TLS.
    pub tls: u64,
    /// How many have sent a part of a head.
    pub heads: u64,
    /// HTTP/1.1 answers that are not read.
    pub answers: u64,
    /// HTTP/2 streams whose answers are not read.
    pub streams: u64,
    /// Request bodies of which something is kept.
    pub bodies: u64,
}

impl Held {
    /// In bytes, with the default settings.
    pub fn bound(self) -> u64 {
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
