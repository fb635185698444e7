//! `[log]`: the output, the format and the levels of the log.

use toml::Spanned;
use tracing_subscriber::filter::LevelFilter;

use super::Resolver;
use crate::config::model::levels;
use crate::config::model::log::{Log, LogFormat, LogOutput, Sampling};
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
        let level = log.level.usable().and_then(|level| {
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
        let output = log.output.usable().and_then(|output| self.log_output(output));
        Log {
            output: output.unwrap_or(LogOutput::Stderr),
            format: log.format.or(LogFormat::Auto),
            level: chosen.or(level).unwrap_or_else(|| levels::all(LevelFilter::INFO)),
            access: log.access.or(Sampling::ALL),
        }
    }
    fn log_output(&mut self, output: &Spanned<String>) -> Option<LogOutput> {
        match output.get_ref().as_str() {
            "stderr" => Some(LogOutput::Stderr),
            "stdout" => Some(LogOutput::Stdout),
            other => match other.strip_prefix("file:").filter(|path| !path.is_empty()) {
                Some(path) => Some(LogOutput::File(self.folder.join(path))),
                None => {
                    let help = "write \"stderr\", \"stdout\" or \"file:/var/log/bearerd/bearerd.log\"";
                    self.error(output.span(), "not an output of the log", help);
                    None
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    fn read(log: &str) -> Result<Log, String> {
        let text = format!(
            "[log]\n{log}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\""
        );
        let environment = Environment::from([("X", "")]);
        let checked = parse(Path::new("/etc/bearerd/proxy.toml"), text, &environment);
        checked.map(|checked| checked.config.log).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_output_is_a_stream_or_a_file_relative_to_the_configuration() {
        for (written, output) in [
            ("", LogOutput::Stderr),
            ("output = \"stderr\"", LogOutput::Stderr),
            ("output = \"stdout\"", LogOutput::Stdout),
            ("output = \"file:/var/log/b.log\"", LogOutput::File("/var/log/b.log".into())),
            ("output = \"file:b.log\"", LogOutput::File("/etc/bearerd/b.log".into())),
        ] {
            assert_eq!(read(written).unwrap().output, output, "{written}");
        }
        for wrong in ["", "file:", "/var/log/b.log", "syslog"] {
            let problems = read(&format!("output = \"{wrong}\"")).unwrap_err();
            assert!(problems.contains("not an output of the log"), "{problems}");
        }
    }

    #[test]
    fn the_access_log_has_all_requests_none_or_a_share() {
        for (written, sampling) in [
            ("", Sampling::ALL),
            ("access = true", Sampling::ALL),
            ("access = false", Sampling::OFF),
            ("access = 0.1", Sampling::new(0.1).unwrap()),
            ("access = 1", Sampling::ALL),
            ("access = 0", Sampling::OFF),
        ] {
            assert_eq!(read(written).unwrap().access, sampling, "{written}");
        }
        for wrong in ["2", "-1", "1.1", "nan", "inf", "\"yes\""] {
            let problems = read(&format!("access = {wrong}")).unwrap_err();
            assert!(problems.contains("a share of the requests from 0 to 1"), "{problems}");
        }
    }
}
