//! The version of this build and the commit that it was made from.

use std::sync::LazyLock;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, which the build takes from the variable `BEARERD_COMMIT`; `unknown` without it.
pub const COMMIT: &str = match option_env!("BEARERD_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// Version and commit, as `--version` prints them.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (commit {COMMIT})"));
    &TEXT
}
