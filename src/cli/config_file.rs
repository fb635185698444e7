//! The `--config` flag that all commands share, and the configuration that a command reads.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{OsStringValueParser, TypedValueParser};

use super::exit_code::BAD_CONFIGURATION;
use super::output;
use crate::config;
use crate::config::source::file;
use crate::config::source::file::Content;
use crate::config::{Checked, Config, Credential, Environment, NoPath};
use crate::documentation;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigFile {
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        value_parser = OsStringValueParser::new().try_map(path),
        help = "Configuration [default: $BEARERD_CONFIG, ./proxy.toml, /etc/bearerd/proxy.toml]"
    )]
    pub(super) path: Option<PathBuf>,
}

/// The path of a file; clap would call an empty one missing. An unset variable of a shell leaves nothing or blanks.
fn path(text: OsString) -> Result<PathBuf, &'static str> {
    match text.to_str() {
        Some("") => Err("the path is empty"),
        Some(blanks) if blanks.trim().is_empty() => Err("the path holds only blanks"),
        _ => Ok(text.into()),
    }
}

/// The command names a credential that the configuration does not have.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has no credential `{name}`; its credentials are: {known}")]
pub(super) struct UnknownCredential {
    name: String,
    known: String,
}

/// Finds the configuration. If there is none, prints why and returns the exit code.
pub(super) fn find(file: ConfigFile, environment: &Environment) -> Result<PathBuf, u8> {
    config::find(file.path, environment).map_err(|error| {
        output::failure(&error, Some(error.help()));
        if error == NoPath::NoFile {
            output::error_line(format_args!("  quick starts: {}", documentation::front_page()));
        }
        BAD_CONFIGURATION
    })
}

/// Loads the configuration. If the configuration is invalid, prints its problems and returns the exit code.
pub(super) fn load(path: &Path, environment: &Environment) -> Result<Checked, u8> {
    check(path, file::read(path), environment)
}

/// Checks the configuration that was read. If the configuration is invalid, prints its problems and returns the exit code.
pub(super) fn check(
    path: &Path,
    read: io::Result<Content>,
    environment: &Environment,
) -> Result<Checked, u8> {
    config::check(path, read, environment).map_err(|diagnostics| {
        output::problems(&diagnostics, environment);
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
