//! What tests are made of.

pub mod caller;
pub mod connect_proxy;
pub mod daemon;
pub mod frames;
pub mod http2;
pub mod internet;
pub mod issuer;
pub mod raw;
pub mod tls;
pub mod upstream;
pub mod world;

pub use caller::{Caller, Reply, Request};
pub use daemon::Process;
pub use http2::Http2Caller;
pub use internet::Internet;
pub use upstream::Upstream;
pub use world::{Setup, World};

use std::time::Duration;

use tokio::time::Instant;

/// Longer than anything here takes when all is well; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
