//! Families of metrics, from labels and numbers.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Unit;

use crate::telemetry::metrics::exposition::{Family, Labels, Series};
use crate::telemetry::metrics::histogram::Buckets;

/// Labels with these names and values.
pub(super) fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, Cow::Owned(value.to_owned()))).collect()
}

/// The status, unless there was no response.
pub(super) fn status_label(status: u16) -> Option<(&'static str, Cow<'static, str>)> {
    (status != 0).then(|| ("http_response_status_code", Cow::Owned(status.to_string())))
}

/// Durations since the moment `started`.
pub(super) const fn seconds(
    started: SystemTime,
    name: &'static str,
    help: &'static str,
    series: Vec<(Labels, Buckets)>,
) -> Family {
    Family { name, help, unit: Some(Unit::Seconds), series: Series::Histograms(series, started) }
}

/// Counts since the start.
pub(super) const fn counters(name: &'static str, help: &'static str, series: Vec<(Labels, f64)>) -> Family {
    Family { name, help, unit: None, series: Series::Counters(series) }
}

/// One count since the start.
pub(super) fn counter(name: &'static str, help: &'static str, value: f64) -> Family {
    counters(name, help, vec![(Labels::new(), value)])
}

/// Values of now.
pub(super) const fn gauges(name: &'static str, help: &'static str, series: Vec<(Labels, f64)>) -> Family {
    Family { name, help, unit: None, series: Series::Gauges(series) }
}

/// One value of now.
pub(super) fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
    gauges(name, help, vec![(Labels::new(), value)])
}

/// Moments on the wall clock, in seconds since 1970.
pub(super) const fn timestamps(name: &'static str, help: &'static str, series: Vec<(Labels, f64)>) -> Family {
    Family { name, help, unit: Some(Unit::Seconds), series: Series::Gauges(series) }
}

/// Seconds since 1970, to the millisecond.
pub(super) fn unix(moment: SystemTime) -> f64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (since.as_secs_f64() * 1e3).round() / 1e3
}

/// 1 if the condition holds, else 0.
pub(super) fn is(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}

/// A count. Counts above 2^53 are rounded.
pub(super) fn as_f64<N: TryInto<i64>>(count: N) -> f64 {
    let count = count.try_into().unwrap_or(i64::MAX);
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    let count = count as f64;
    count
}
