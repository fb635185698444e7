//! `bearerd keygen`: prints a new key for state files, or for a caller.

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;

use super::exit_code::{FAILED, OK};
use super::output;
use crate::config::KeyHash;
use crate::token::state::file::StateKey;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Store the key where only the daemon can read it, and name the location in proxy.toml:

  (umask 077; bearerd keygen > /etc/bearerd/state.key)

  state_key = { file = \"/etc/bearerd/state.key\" }    # or { env = \"NAME\" }

Keep the key apart from the state file and its backups: anyone who has both can read the tokens.
Without the key, the state is unreadable.

With --caller, the first line is a key for an application, which sends it in X-Api-Key or as the
password of Basic. The second line is its hash for proxy.toml, which keeps the hash alone:

  [callers.billing]
  key_hash = [\"sha256:...\"]";

#[derive(Debug, clap::Args)]
pub(super) struct Keygen {
    /// Print a new key of a caller and, on a second line, its hash for `key_hash`
    #[arg(long)]
    caller: bool,
}

/// Bytes of randomness in the key of a caller.
const KEY_BYTES: usize = 32;

/// Prints a key.
pub(super) fn keygen(keygen: &Keygen) -> u8 {
    if !keygen.caller {
        output::line(StateKey::generate().expose_secret());
        return OK;
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if rand::fill(&mut *bytes).is_err() {
        output::error_line("bearerd: the operating system gives no random bytes");
        return FAILED;
    }
    let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    output::line(format_args!("{}\n{}", &*key, KeyHash::of(key.as_bytes())));
    OK
}
