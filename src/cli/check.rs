//! `bearerd check`: prints every problem of the configuration; with `--online`, also tests its peers.

use super::config_file;
use super::config_file::ConfigFile;
use super::exit_code::{BAD_CONFIGURATION, OK};
use super::{online, output, states};
use crate::app::Daemon;
use crate::causes::in_one_line;
use crate::config;
use crate::config::source::file;
use crate::config::source::file::Content;
use crate::config::{Diagnostics, Environment};
use crate::documentation;

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Also make one token request for each credential, and one connection to each upstream and to the shared store
    #[arg(long)]
    online: bool,
    /// Print the configuration as TOML, with defaults and overrides of the environment, secrets masked
    #[arg(long, conflicts_with = "online")]
    print: bool,
}

pub(super) async fn check(check: Check, environment: &Environment) -> u8 {
    let path = match config_file::find(check.file, environment) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let (text, outcome) = match file::read(&path).and_then(Content::into_text) {
        Ok(text) => (text.clone(), config::parse(&path, text, environment).and_then(states::check)),
        Err(error) => (String::new(), Err(Box::new(Diagnostics::unreadable(&path, &error)))),
    };
    let diagnostics = match &outcome {
        Ok(checked) => &checked.warnings,
        Err(diagnostics) => diagnostics,
    };
    if !diagnostics.problems().is_empty() {
        output::problems(diagnostics, environment);
        if outcome.is_ok() {
            output::error_line(format_args!("  see {}", documentation::of_warnings()));
        }
        output::error_line("");
    }
    let warnings = match diagnostics.warnings() {
        0 => String::new(),
        count => format!(", {}", counted(count, "warning")),
    };
    match &outcome {
        Ok(checked) => {
            let config = &checked.config;
            if let Err(error) = Daemon::try_out(config) {
                output::error_line(format_args!("{}: {}", path.display(), in_one_line(&error)));
                if let Some(help) = error.help() {
                    output::error_line(format_args!("  = help: {help}"));
                }
                return BAD_CONFIGURATION;
            }
            let summary = format!(
                "{}: ok ({}, {}{warnings})",
                path.display(),
                counted(config.routes.len(), "route"),
                counted(config.credentials.len(), "credential"),
            );
            if check.print {
                output::error_line(summary);
                output::bytes(config::print(&text, config, environment).as_bytes());
                return OK;
            }
            output::line(summary);
            if check.online { online::online(config).await } else { OK }
        }
        Err(_) => {
            let errors = counted(diagnostics.errors(), "error");
            output::error_line(format_args!("{}: {errors}{warnings}", path.display()));
            BAD_CONFIGURATION
        }
    }
}

/// A count with its noun in singular or plural.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests;
