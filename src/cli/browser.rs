//! Opens a browser, if there is one.

use std::process::{Command, Stdio};

use url::Url;

use super::output;

/// What systemd says to bearerd alone.
const FROM_SYSTEMD: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// Opens the address in a browser, and prints a note if that fails.
pub(super) fn open(url: &Url) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    command.arg(url.as_str()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for name in FROM_SYSTEMD {
        command.env_remove(name);
    }
    // Some openers return only when the browser ends.
    let opening = tokio::task::spawn_blocking(move || {
        let is_open = command.status().is_ok_and(|status| status.success());
        if !is_open {
            output::error_line(format_args!(
                "({opener} could not open a browser: open the address yourself.)"
            ));
        }
    });
    drop(opening);
}
