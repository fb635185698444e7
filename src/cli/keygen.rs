//! `bearerd keygen`: prints a new key for state files.

use secrecy::ExposeSecret;

use super::exit_code::OK;
use super::output;
use crate::token::state::file::StateKey;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Store the key where only the daemon can read it, and name the location in proxy.toml:

  (umask 077; bearerd keygen > /etc/bearerd/state.key)

  state_key = { file = \"/etc/bearerd/state.key\" }    # or { env = \"NAME\" }

Keep the key apart from the state file and its backups: anyone who has both can read the tokens.
Without the key, the state is unreadable.";

/// Prints a key.
pub(super) fn keygen() -> u8 {
    output::line(StateKey::generate().expose_secret());
    OK
}
