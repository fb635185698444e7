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
pub(super) struct Latencies(Mutex<BTreeMap<String, Samples>>);

/// The samples of a route.
#[derive(Debug, Default)]
struct Samples {
    /// The counts of the latest sample.
    latest: Counts,
    /// What each sample has beyond the one before it, the oldest first.
    added: VecDeque<Counts>,
}

/// The counts of the buckets that are not empty, with their places. Most routes have few such buckets, and in an interval
/// fewer.
#[derive(Debug, Default)]
struct Counts(Box<[(usize, u64)]>);

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
            // The counts of another route of the same name begin anew.
            let kept = samples.remove(name).filter(|kept| kept.latest.may_become(&histogram.counts));
            next.insert(name.to_owned(), Samples::followed_by(kept, &histogram.counts));
        }
        *samples = next;
    }

    /// The latencies of a route up to now.
    pub(super) fn recent(&self, name: &str, now: &Histogram) -> Recent {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = samples.get(name).filter(|kept| kept.latest.may_become(&now.counts));
        let median = |counts: &[u64]| quantile(now.bounds, counts, 50);
        let mut all = now.counts.clone();
        let mut medians = Vec::new();
        if let Some(Samples { latest, added }) = kept {
            latest.subtract_from(&mut all);
            medians.extend(added.iter().map(|counts| median(&counts.in_buckets(all.len()))));
            medians.push(median(&all));
            for counts in added {
                counts.add_to(&mut all);
            }
        }
        Recent { median: median(&all), p99: quantile(now.bounds, &all, 99), medians }
    }
}

impl Samples {
    /// The samples with one more.
    fn followed_by(samples: Option<Self>, counts: &[u64]) -> Self {
        let latest = Counts::of(counts);
        let Some(mut samples) = samples else { return Self { latest, added: VecDeque::new() } };
        let mut added = counts.to_vec();
        samples.latest.subtract_from(&mut added);
        if samples.added.len() == SAMPLES - 1 {
            samples.added.pop_front();
        }
        samples.added.push_back(Counts::of(&added));
        Self { latest, ..samples }
    }
}

impl Counts {
    fn of(buckets: &[u64]) -> Self {
        Self(buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect())
    }

    /// Whether these buckets can follow the counts at a later moment.
    fn may_become(&self, buckets: &[u64]) -> bool {
        self.0.iter().all(|(at, count)| buckets.get(*at).is_some_and(|later| later >= count))
    }

    fn add_to(&self, buckets: &mut [u64]) {
        for (at, count) in &self.0 {
            buckets[*at] += count;
        }
    }

    fn subtract_from(&self, buckets: &mut [u64]) {
        for (at, count) in &self.0 {
            buckets[*at] -= count;
        }
    }

    fn in_buckets(&self, number: usize) -> Vec<u64> {
        let mut buckets = vec![0; number];
        self.add_to(&mut buckets);
        buckets
    }
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
    fn a_route_without_requests_keeps_no_counts_and_one_with_requests_those_of_its_buckets() {
        let latencies = Latencies::default();
        let kept = || -> usize {
            let samples = latencies.0.lock().unwrap();
            samples
                .values()
                .flat_map(|kept| kept.added.iter().chain([&kept.latest]))
                .map(|counts| counts.0.len())
                .sum()
        };
        for _ in 0..SAMPLES * 2 {
            sample(&latencies, [0, 0, 0]);
        }
        assert_eq!(kept(), 0);

        for _ in 0..SAMPLES * 2 {
            sample(&latencies, [0, 3, 0]);
        }
        assert_eq!(kept(), 1);
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
