//! `bearerd keygen`: prints a new key for state files.

use std::io::{ErrorKind, Write};

use secrecy::ExposeSecret;

use super::exit_code::{FAILED, OK};
use super::output;
use crate::token::state::file::StateKey;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Store the key where only the daemon can read it, and name the location in proxy.toml:

  (umask 077; bearerd keygen > /etc/bearerd/state.key)

  state_key = { file = \"/etc/bearerd/state.key\" }    # or { env = \"NAME\" }

Keep the key apart from the state file and its backups: anyone who has both can read the tokens.
Without the key, the state is unreadable.";

/// Prints a key. Unlike other output, the key usually goes to a file, so a failed write is an error.
pub(super) fn keygen() -> u8 {
    let mut out = std::io::stdout().lock();
    let key = StateKey::generate();
    match writeln!(out, "{}", key.expose_secret()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            output::error_line(format_args!("bearerd: the key was not written: {error}"));
            FAILED
        }
        _ => OK,
    }
}
