//! `bearerd audit verify`: verifies the chain of an audit trail.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use clap::Subcommand;
use secrecy::ExposeSecret;

use super::config_file::{self, ConfigFile};
use super::exit_code::{FAILED, OK};
use super::output;
use crate::config::Environment;
use crate::config::model::secret::{Secret, SecretError, SecretSource};
use crate::telemetry::audit::chain::Digest;
use crate::telemetry::audit::verify::Verification;

/// The text below the options of `--help`.
const HELP: &str = "\
Give the files of one trail together, the oldest first. Each line has a digest of the line before it: the
command names each line that does not follow the line before. What it cannot find: lines that were removed
from the end, a last line that was altered and, without a key, a chain that was made anew.

Exit codes: 0 the chain is whole, 1 it is not, or a file cannot be read.";

#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find lines that were altered or removed
    #[command(after_help = HELP)]
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// Files of the trail, the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// File with the key of the chain; given more than once, any of the keys may fit
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Configuration with the key of the chain
    #[arg(short = 'c', long = "config", value_name = "FILE", conflicts_with = "keys")]
    config: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Key(#[from] SecretError),
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
}

pub(super) fn audit(audit: Audit, environment: &Environment) -> u8 {
    let Command::Verify(verify) = audit.command;
    let digests = match verify.config.clone() {
        Some(path) => {
            let path = config_file::find(ConfigFile { path: Some(path) }, environment);
            match path.and_then(|path| config_file::load(&path, environment)) {
                Ok(checked) => Ok(vec![digest(checked.config.audit.key.as_ref())]),
                Err(code) => return code,
            }
        }
        None => keyed(&verify.keys, environment),
    };
    match digests.and_then(|digests| run(&verify.files, &digests)) {
        Ok(true) => OK,
        Ok(false) => FAILED,
        Err(failure) => {
            output::failure(&failure, None);
            FAILED
        }
    }
}

fn digest(key: Option<&Secret>) -> Digest {
    Digest::new(key.map(|key| key.initial().expose_secret().as_bytes()))
}

/// The digests with these keys; without one, the plain hash.
fn keyed(keys: &[PathBuf], environment: &Environment) -> Result<Vec<Digest>, Failure> {
    if keys.is_empty() {
        return Ok(vec![digest(None)]);
    }
    let load = |path: &PathBuf| {
        let key = Secret::load(&SecretSource::File(path.clone()), "".as_ref(), environment)?;
        Ok(digest(Some(&key)))
    };
    keys.iter().map(load).collect()
}

/// Verifies the files. Answers whether the chain is whole.
fn run(files: &[PathBuf], digests: &[Digest]) -> Result<bool, Failure> {
    let mut verification = Verification::new(digests);
    let mut is_whole = true;
    for path in files {
        let failed = |source| Failure::File { path: path.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let mut faults = 0;
        let lines = verification
            .file(BufReader::new(file), |line, remark| {
                // A trail begins somewhere.
                if remark.is_fault() || line > 1 {
                    output::line(format_args!("{}:{line}: {}", path.display(), remark.message()));
                }
                faults += u64::from(remark.is_fault());
            })
            .map_err(failed)?;
        is_whole &= faults == 0;
        let verdict = if faults == 0 { "whole".to_owned() } else { format!("{faults} faults") };
        output::line(format_args!("{}: {lines} lines: {verdict}", path.display()));
    }
    Ok(is_whole)
}
