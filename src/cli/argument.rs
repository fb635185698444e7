//! Values of arguments that several commands have.

use std::time::Duration;

use crate::config::source::units;

/// A duration as in the configuration, such as `30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<units::Duration>().map(|duration| duration.0)
}
