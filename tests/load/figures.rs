//! Medians, percentiles and slopes.

use std::time::Duration;

/// The median; of an even number the lower of the two.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    quantile(values, 0.5)
}

/// The quantile: this part of the values is not above it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index below the length")]
pub(crate) fn quantile<T: Copy + PartialOrd>(values: &[T], part: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let index = (part * sorted.len() as f64).ceil() as usize;
    sorted[index.clamp(1, sorted.len()) - 1]
}

/// The growth per second: the median of the slopes of all pairs (Theil–Sen), which a spike does not affect.
pub(crate) fn slope(values: &[(Duration, f64)]) -> f64 {
    let slopes: Vec<f64> = values
        .iter()
        .enumerate()
        .flat_map(|(index, (at, value))| {
            values[index + 1..]
                .iter()
                .map(move |(later, after)| (after - value) / later.saturating_sub(*at).as_secs_f64())
        })
        .collect();
    if slopes.is_empty() { 0.0 } else { median(&slopes) }
}

/// Formats milliseconds.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// Formats bytes as MiB.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
