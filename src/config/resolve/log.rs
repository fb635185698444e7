//! `[log]`: the format and the levels of the log.

use toml::Spanned;
use tracing_subscriber::filter::LevelFilter;

use super::Resolver;
use crate::config::model::levels;
use crate::config::model::log::{Log, LogFormat, Sampling};
use crate::config::source::schema;

impl Resolver<'_> {
    pub(super) fn log(&mut self, log: schema::Log) -> Log {
        let chosen = levels::chosen(self.environment).unwrap_or_else(|_| {
            self.warning(
                None,
                "RUST_LOG holds no log levels; `log.level` applies",
                "write directives such as bearerd=debug,info",
            );
            None
        });
        let level = log.level.and_then(|level| {
            let text = level.get_ref();
            // A single word would be read as the name of a module.
            let is_word = text.chars().all(|c| c.is_ascii_alphanumeric());
            let is_level = text.parse::<LevelFilter>().is_ok();
            let levels = levels::read(text).ok().filter(|_| is_level || !is_word);
            if levels.is_none() {
                let help = "write error, warn, info, debug or trace, or directives as in RUST_LOG";
                self.error(level.span(), "not a log level", help);
            }
            levels
        });
        Log {
            format: log.format.map_or(LogFormat::Auto, Spanned::into_inner),
            level: chosen.or(level).unwrap_or_else(|| levels::all(LevelFilter::INFO)),
            access: log.access.map_or(Sampling::ALL, Spanned::into_inner),
        }
    }
}
