//! The harness: bearerd as a process between a scripted authorization server and a scripted API, over real sockets.
//!
//! A test describes a daemon with a [`Setup`], starts a [`World`], and finishes it. Finishing checks the invariants that
//! hold in every test: exactly one current token on each request, never the caller's own, the configured `Host`, no
//! ambiguous framing, one token request at a time, and no secret in any output.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "a test ends by panicking, and its tasks end with it"
)]

pub mod caller;
pub mod configuration;
pub mod connect_proxy;
pub mod frames;
pub mod http2_caller;
pub mod internet;
pub mod issuer;
pub mod process;
pub mod raw;
pub mod request;
pub mod setup;
pub mod tls_caller;
pub mod upstream;
pub mod world;

pub use caller::{Caller, Reply};
pub use configuration::Configuration;
pub use http2_caller::Http2Caller;
pub use internet::Internet;
pub use process::Process;
pub use request::Request;
pub use setup::Setup;
pub use upstream::Upstream;
pub use world::World;

use std::time::Duration;

use tokio::time::Instant;

/// Longer than any step of a passing test takes, on a loaded machine too.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Longer than a step takes that waits for no timer, on a loaded machine too. What the step must not wait for takes at least
/// three times as long.
pub const PROMPT: Duration = Duration::from_secs(5);

/// Waits until a condition holds.
///
/// # Panics
///
/// If the condition does not hold within [`STEP_TIMEOUT`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < STEP_TIMEOUT, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Checks that a condition holds now and for this time, where nothing else shows that something does not happen.
///
/// # Panics
///
/// If the condition ceases to hold.
pub async fn remains(what: &str, time: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    loop {
        assert!(holds().await, "did not remain: {what}");
        if started.elapsed() >= time {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50).min(time)).await;
    }
}
