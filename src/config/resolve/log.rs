//! `[log]`: what is written of all this.

use toml::Spanned;

use super::Resolver;
use crate::config::diagnostics::Problem;
use crate::config::{Log, LogFormat, file};

impl Resolver<'_> {
    pub(super) fn log(&mut self, log: file::Log) -> Log {
        let directives = self.environment.get("RUST_LOG").filter(|directives| !directives.is_empty());
        if directives.is_some_and(|directives| tracing_subscriber::EnvFilter::try_new(directives).is_err()) {
            self.problems.push(
                Problem::warning(None, "RUST_LOG is not understood, and `log.level` counts instead")
                    .help("write directives such as bearerd=debug,info"),
            );
        }
        let level = match log.level {
            Some(level) => {
                // A word alone that is no level would be taken for the name of a module.
                let is_word = level.get_ref().chars().all(|c| c.is_ascii_alphanumeric());
                let is_level = level.get_ref().parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
                let is_filter = tracing_subscriber::EnvFilter::try_new(level.get_ref()).is_ok();
                if !(is_level || is_filter && !is_word) {
                    self.problems.push(
                        Problem::error(level.span(), "not a log level")
                            .help("write error, warn, info, debug or trace, or directives as in RUST_LOG"),
                    );
                }
                level.into_inner()
            }
            None => "info".to_owned(),
        };
        Log {
            format: log.format.map_or(LogFormat::Auto, Spanned::into_inner),
            level,
            access: log.access.is_none_or(Spanned::into_inner),
        }
    }
}
