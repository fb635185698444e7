//! `bearerd keygen`: a new key for the state that survives restarts.

use std::io::{ErrorKind, Write};

use secrecy::ExposeSecret;

use super::exit_code::{FAILED, OK};
use super::output;
use crate::token::state::file::StateKey;

/// What `--help` says besides.
pub(super) const WHERE_TO_PUT_IT: &str = "\
Put it where only the daemon may read it, and name that place in proxy.toml:

  (umask 077; bearerd keygen > /etc/bearerd/state.key)

  state_key = { file = \"/etc/bearerd/state.key\" }    # or { env = \"NAME\" }

Keep it apart from the state file and its backups: whoever has both has the tokens. Without it
the state cannot be read any more.";

/// Unlike other output this must not be lost in silence: it usually goes to a file.
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
