//! `[log]`: the format and the levels of the log.

use std::path::PathBuf;

use tracing_subscriber::filter::Targets;

/// The settings of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Where the log is written.
    pub output: LogOutput,
    /// The format.
    pub format: LogFormat,
    /// Levels from `RUST_LOG`, else from the file.
    pub level: Targets,
    /// Which requests are logged.
    pub access: Sampling,
}

/// Where the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

/// The format of log events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// Human-readable lines.
    Text,
}

/// Which exchanges the access log contains, of those in which nothing went wrong: a share from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling(f64);

impl Sampling {
    /// Every exchange.
    pub const ALL: Self = Self(1.0);
    /// No access log.
    pub const OFF: Self = Self(0.0);

    /// This share of exchanges; `None` unless from 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The share, from 0 to 1.
    pub const fn share(self) -> f64 {
        self.0
    }

    /// Whether there is an access log.
    pub const fn is_on(self) -> bool {
        self.0 > 0.0
    }

    /// Whether the log contains an exchange, by a random number from 0 to below 1.
    pub fn takes(self, random: impl FnOnce() -> f64) -> bool {
        self.0 >= 1.0 || random() < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_zero_to_one() {
        for share in [0.0, 0.1, 1.0] {
            assert_eq!(Sampling::new(share).map(Sampling::is_on), Some(share > 0.0));
        }
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Sampling::new(wrong), None);
        }
    }

    #[test]
    fn a_share_decides_by_the_random_number() {
        let tenth = Sampling::new(0.1).unwrap();
        assert!(tenth.takes(|| 0.05) && !tenth.takes(|| 0.1));
        assert!(Sampling::ALL.takes(|| unreachable!("all are taken")) && !Sampling::OFF.takes(|| 0.0));
    }
}
