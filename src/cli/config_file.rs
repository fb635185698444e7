//! The `--config` flag that all commands share, and the configuration that a command reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit_code::BAD_CONFIGURATION;
use super::output;
use crate::config;
use crate::config::{Checked, Config, Credential, Environment};

#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        help = "Configuration [default: $BEARERD_CONFIG, ./proxy.toml, /etc/bearerd/proxy.toml]"
    )]
    pub(super) path: Option<PathBuf>,
}

/// The command names a credential that the configuration does not have.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has no credential `{name}`; its credentials are: {known}")]
pub(super) struct UnknownCredential {
    name: String,
    known: String,
}

/// Loads the configuration. If the configuration is invalid, prints its problems and returns the exit code.
pub(super) fn load(path: &Path, environment: &Environment) -> Result<Checked, u8> {
    config::load(path, environment).map_err(|diagnostics| {
        output::error_line(diagnostics.render(output::may_colour(environment)));
        BAD_CONFIGURATION
    })
}

/// The credential that a command names.
pub(super) fn credential<'c>(
    config: &'c Config,
    name: &str,
) -> Result<&'c Arc<Credential>, UnknownCredential> {
    let known = || config.credentials.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = config.credentials.iter().find(|credential| credential.name == name);
    found.ok_or_else(|| UnknownCredential { name: name.to_owned(), known: known() })
}
