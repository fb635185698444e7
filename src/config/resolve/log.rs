//! `[log]`: what is written of all this.

use toml::Spanned;
use tracing_subscriber::filter::LevelFilter;

use super::Resolver;
use crate::config::model::levels;
use crate::config::model::log::{Log, LogFormat};
use crate::config::source::diagnostics::Problem;
use crate::config::source::schema;

impl Resolver<'_> {
    pub(super) fn log(&mut self, log: schema::Log) -> Log {
        let chosen = levels::chosen(self.environment).unwrap_or_else(|_| {
            self.problems.push(
                Problem::warning(None, "RUST_LOG is not understood, and `log.level` counts instead")
                    .help("write directives such as bearerd=debug,info"),
            );
            None
        });
        let level = log.level.and_then(|level| {
            // A word alone that is no level would be taken for the name of a module.
            let is_word = level.get_ref().chars().all(|c| c.is_ascii_alphanumeric());
            let is_level = level.get_ref().parse::<LevelFilter>().is_ok();
            let levels = levels::read(level.get_ref()).ok().filter(|_| is_level || !is_word);
            if levels.is_none() {
                self.problems.push(
                    Problem::error(level.span(), "not a log level")
                        .help("write error, warn, info, debug or trace, or directives as in RUST_LOG"),
                );
            }
            levels
        });
        Log {
            format: log.format.map_or(LogFormat::Auto, Spanned::into_inner),
            level: chosen.or(level).unwrap_or_else(|| levels::all(LevelFilter::INFO)),
            access: log.access.is_none_or(Spanned::into_inner),
        }
    }
}
