//! Opening a browser, where there is one.

use std::process::{Command, Stdio};

use url::Url;

use crate::cli::output;

/// Opens it, and says so if it cannot; nothing depends on it.
pub(super) fn open(url: &Url) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Some come back only when the browser ends.
    let opening = tokio::task::spawn_blocking(move || {
        let is_open = command.status().is_ok_and(|status| status.success());
        if !is_open {
            output::error_line(format_args!("(No browser could be opened with {opener}: open it yourself.)"));
        }
    });
    drop(opening);
}
