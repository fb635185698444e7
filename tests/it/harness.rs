//! The binary under test, for the harness of `testkit`.

use std::path::Path;

pub(crate) use testkit::harness::*;

/// The daemon's binary.
pub(crate) const BEARERD: &str = env!("CARGO_BIN_EXE_bearerd");

/// The description of a daemon; a test adds to it.
pub(crate) fn daemon() -> Setup {
    Setup::new(BEARERD)
}

/// Starts the binary with these arguments, this environment, and no input.
pub(crate) fn spawn(arguments: &[&str], environment: &[(String, String)], folder: &Path) -> Process {
    command(arguments, environment, folder).start()
}

/// The start of the binary; a test adds to it.
pub(crate) fn command(
    arguments: &[&str],
    environment: &[(String, String)],
    folder: &Path,
) -> process::Launch {
    process::Launch::new(BEARERD, folder).arguments(arguments).environment(environment)
}
