//! Log levels, for everything or for each module, as in `RUST_LOG`.

use thiserror::Error;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::environment::Environment;

/// The text holds no log levels.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("no level, and no modules with levels")]
pub struct NotUnderstood;

/// Reads directives such as `bearerd=debug,info`.
///
/// # Errors
///
/// If there is no directive, or one has an unknown level or names a span.
pub fn read(directives: &str) -> Result<Targets, NotUnderstood> {
    let mut directives = directives.split(',').map(str::trim).filter(|one| !one.is_empty()).peekable();
    directives.peek().ok_or(NotUnderstood)?;
    directives.try_fold(quiet(), |all, directive| {
        let one: Targets = directive.parse().map_err(|_| NotUnderstood)?;
        match one.default_level() {
            _ if directive.contains('[') => Err(NotUnderstood),
            Some(level) => Ok(all.with_default(level)),
            None => Ok(all.with_targets(one)),
        }
    })
}

/// The levels in `RUST_LOG`; `None` if the variable is unset or empty.
///
/// # Errors
///
/// If the variable holds no log levels.
pub fn chosen(environment: &Environment) -> Result<Option<Targets>, NotUnderstood> {
    if environment.is_not_text("RUST_LOG") {
        return Err(NotUnderstood);
    }
    environment.get("RUST_LOG").filter(|directives| !directives.is_empty()).map(read).transpose()
}

/// Events of this level and more severe ones, from all modules.
pub fn all(level: LevelFilter) -> Targets {
    quiet().with_default(level)
}

/// Without the verifier's events: the daemon logs certificate errors itself, with the peer.
fn quiet() -> Targets {
    Targets::new().with_target("rustls_platform_verifier", LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_longest_module_name_decides_and_a_bare_level_applies_to_the_rest() {
        let levels = read("info, hyper=off,,bearerd::proxy=debug,bearerd=warn,").unwrap();
        for (module, level, is_written) in [
            ("bearerd::proxy::pool", Level::DEBUG, true),
            ("bearerd::token", Level::INFO, false),
            ("bearerd::token", Level::WARN, true),
            ("hyper::proto", Level::ERROR, false),
            ("rustls", Level::INFO, true),
            ("rustls", Level::DEBUG, false),
        ] {
            assert_eq!(levels.would_enable(module, &level), is_written, "{module} {level}");
        }
    }

    #[test]
    fn empty_directives_are_skipped_and_wrong_ones_refused() {
        assert_eq!(read("warn").unwrap(), read("warn,").unwrap());
        assert_eq!(read("warn").unwrap(), all(LevelFilter::WARN));
        for wrong in ["", ",", "bearerd=loud", "bearerd[request]=debug", "bearerd[{status}]=debug,info"] {
            assert_eq!(read(wrong), Err(NotUnderstood), "{wrong:?}");
        }
        assert!(!read("trace").unwrap().would_enable("rustls_platform_verifier", &Level::ERROR));
        assert!(
            read("rustls_platform_verifier=warn")
                .unwrap()
                .would_enable("rustls_platform_verifier", &Level::WARN)
        );
        assert_eq!(chosen(&Environment::from([("RUST_LOG", "")])).unwrap(), None);
    }
}
