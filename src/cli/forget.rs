//! `bearerd forget`: removes a credential's state file.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use super::config_file::{ConfigFile, UnknownCredential};
use super::exit_code::{FAILED, OK};
use super::{config_file, output};

use crate::config::{Config, Environment};
use crate::token::state::file::{OpenError, RetiredState};

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
The command removes the credential's state file: the refresh token, the access token, the refused refresh
tokens, and the waits that the token endpoint requested. Use it after a change of client_id, token_url or
grant, or where the state is damaged. Then configure a new refresh token or run `bearerd login`.

Stop the daemon first: the command refuses while a daemon holds the state.";

#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    /// Name of the credential in the configuration
    credential: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unknown(#[from] UnknownCredential),
    #[error("the credential `{0}` has no state")]
    NoState(String),
    #[error("the state of the credential `{credential}` cannot be forgotten")]
    State {
        credential: String,
        #[source]
        source: OpenError,
    },
    #[error("standard input is not a terminal, so nobody can confirm")]
    NoTerminal,
    #[error("nothing was changed")]
    NotConfirmed,
}

impl Failure {
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoState(_) => Some("set server.state_dir or state_file, as the daemon has it"),
            Self::State { source: OpenError::Held(..), .. } => Some("stop the daemon first"),
            Self::State { source, .. } => Some(source.help()),
            Self::NoTerminal => Some("pass --yes"),
            Self::Unknown(_) | Self::NotConfirmed => None,
        }
    }
}

pub(super) fn forget(forget: &Forget, environment: &Environment) -> u8 {
    let path = config_file::find(forget.file.clone(), environment);
    let checked = match path.and_then(|path| config_file::load(&path, environment)) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    match run(forget, &checked.config) {
        Ok(done) => {
            output::line(done);
            OK
        }
        Err(failure) => {
            output::failure(&failure, failure.help());
            FAILED
        }
    }
}

/// Removes the state, and returns the message about the outcome.
fn run(forget: &Forget, config: &Config) -> Result<String, Failure> {
    let name = &forget.credential;
    let credential = config_file::credential(config, name)?;
    let path = &credential.state.as_ref().ok_or_else(|| Failure::NoState(name.clone()))?.path;
    let failed = |source| Failure::State { credential: name.clone(), source };
    // The lock is taken before the question, so that nobody is asked while a daemon holds the state.
    let state = RetiredState::take(path).map_err(failed)?;
    if !state.exists() {
        return Ok(format!("credential `{name}`: there is no state at {}", path.display()));
    }
    if !forget.yes {
        confirm(name, path)?;
    }
    state.remove().map_err(failed)?;
    Ok(format!("credential `{name}`: the state at {} is removed", path.display()))
}

/// Asks for confirmation on the terminal.
fn confirm(name: &str, path: &Path) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    output::error_line(format_args!(
        "This removes {} with the refresh token of the credential `{name}`, of which no other copy exists.\n\
         Type `yes` to go on:",
        path.display()
    ));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" { Ok(()) } else { Err(Failure::NotConfirmed) }
}
