//! The latencies of routes over the last minutes, from histograms that count since the start.
//!
//! The histograms are sampled every few seconds. The difference of two samples is the histogram of the time between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The time between two samples.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// The samples that are kept: five minutes.
const SAMPLES: usize = 30;

/// How often requests took how long, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The upper bounds of the buckets, rising. One more bucket has no bound.
    pub bounds: &'static [Duration],
    /// The requests in each bucket.
    pub counts: Vec<u64>,
}

/// The samples of all routes, by the route's name.
#[derive(Debug, Default)]
pub(super) struct Latencies(Mutex<BTreeMap<String, VecDeque<Vec<u64>>>>);

/// The latencies of one route over the last minutes, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recent {
    /// The median; `None` without a request.
    pub(super) median: Option<f64>,
    /// The 99th percentile.
    pub(super) p99: Option<f64>,
    /// The median of each interval, the oldest first.
    pub(super) medians: Vec<Option<f64>>,
}

impl Latencies {
    /// Takes a sample of each route. The samples of other routes are dropped.
    pub(super) fn sample<'a>(&self, routes: impl Iterator<Item = (&'a str, &'a Histogram)>) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::new();
        for (name, histogram) in routes {
            let mut kept = samples.remove(name).unwrap_or_default();
            // The counts of another route of the same name begin anew.
            let continues = kept.back().is_none_or(|last| is_later(last, &histogram.counts));
            if !continues {
                kept.clear();
            }
            if kept.len() == SAMPLES {
                kept.pop_front();
            }
            kept.push_back(histogram.counts.clone());
            next.insert(name.to_owned(), kept);
        }
        *samples = next;
    }

    /// The latencies of a route up to now.
    pub(super) fn recent(&self, name: &str, now: &Histogram) -> Recent {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept =
            samples.get(name).filter(|kept| kept.back().is_some_and(|last| is_later(last, &now.counts)));
        let none = VecDeque::new();
        let kept = kept.unwrap_or(&none);
        let since = |earlier: Option<&Vec<u64>>, later: &[u64]| -> Vec<u64> {
            let before = |at: usize| earlier.and_then(|counts| counts.get(at)).copied().unwrap_or_default();
            later.iter().enumerate().map(|(at, count)| count.saturating_sub(before(at))).collect()
        };
        let all = since(kept.front(), &now.counts);
        let ends = kept.iter().skip(1).map(Vec::as_slice).chain([now.counts.as_slice()]);
        let intervals = kept.iter().zip(ends).map(|(begin, end)| since(Some(begin), end));
        Recent {
            median: quantile(now.bounds, &all, 50),
            p99: quantile(now.bounds, &all, 99),
            medians: intervals.map(|counts| quantile(now.bounds, &counts, 50)).collect(),
        }
    }
}

/// Whether the counts of a later moment can follow those of an earlier one.
fn is_later(earlier: &[u64], later: &[u64]) -> bool {
    earlier.len() == later.len() && earlier.iter().zip(later).all(|(before, after)| before <= after)
}

/// The time in milliseconds within which so many of a hundred requests were answered, interpolated within its bucket;
/// `None` without a request.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn quantile(bounds: &[Duration], counts: &[u64], percent: u64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = all as f64 * percent as f64 / 100.0;
    let mut below = 0.0;
    let mut from = Duration::ZERO;
    for (at, count) in counts.iter().enumerate() {
        // Requests beyond the last bound took at least that long.
        let to = bounds.get(at).copied().unwrap_or(from);
        let within = *count as f64;
        if within > 0.0 && below + within >= rank {
            let share = ((rank - below) / within).clamp(0.0, 1.0);
            let exact = (from + (to.saturating_sub(from)).mul_f64(share)).as_secs_f64() * 1e3;
            return Some((exact * 10.0).round() / 10.0);
        }
        below += within;
        from = to;
    }
    Some(from.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[Duration] = &[Duration::from_millis(10), Duration::from_millis(100)];

    fn histogram(counts: [u64; 3]) -> Histogram {
        Histogram { bounds: BOUNDS, counts: counts.to_vec() }
    }

    fn sample(latencies: &Latencies, counts: [u64; 3]) {
        latencies.sample([("/", &histogram(counts))].into_iter());
    }

    #[test]
    fn percentiles_are_those_of_requests_within_the_samples() {
        let latencies = Latencies::default();
        sample(&latencies, [1000, 0, 0]);
        assert_eq!(latencies.recent("/", &histogram([1000, 0, 0])).median, None);

        let recent = latencies.recent("/", &histogram([1000, 10, 0]));

        assert_eq!((recent.median, recent.p99), (Some(55.0), Some(99.1)));
        assert_eq!(recent.medians, [Some(55.0)]);
        assert_eq!(latencies.recent("/other", &histogram([2, 0, 0])).median, Some(5.0), "without a sample");
    }

    #[test]
    fn a_series_has_a_median_for_each_interval_and_forgets_the_oldest() {
        let latencies = Latencies::default();
        sample(&latencies, [0, 0, 0]);
        sample(&latencies, [4, 0, 0]);
        sample(&latencies, [4, 0, 1]);
        let recent = latencies.recent("/", &histogram([4, 0, 1]));
        assert_eq!(recent.medians, [Some(5.0), Some(100.0), None]);

        for _ in 0..SAMPLES * 2 {
            sample(&latencies, [4, 0, 1]);
        }
        let recent = latencies.recent("/", &histogram([4, 0, 1]));
        assert_eq!((recent.medians.len(), recent.median), (SAMPLES, None));
    }

    #[test]
    fn counts_that_begin_anew_have_no_past() {
        let latencies = Latencies::default();
        sample(&latencies, [9, 9, 9]);
        assert_eq!(latencies.recent("/", &histogram([1, 0, 0])).median, Some(5.0));
        sample(&latencies, [1, 0, 0]);
        assert_eq!(latencies.recent("/", &histogram([1, 0, 0])).median, None);
    }
}
