//! A histogram of durations that one thread writes and any thread reads.
//!
//! The classic buckets are those of OpenTelemetry's HTTP semantic conventions. The native buckets are Prometheus' with
//! schema 3: eight to a doubling, so that a quantile is known to 9 %.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the classic buckets, in seconds; one more bucket has no bound.
pub const BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same in microseconds.
const BOUNDS_MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];
/// The schema of the native buckets: 2³ for each doubling.
pub const SCHEMA: i32 = 3;
const PER_OCTAVE: i32 = 1 << SCHEMA;
/// The first native bucket ends at 2⁻¹⁵ s, about 31 µs, and takes all that is shorter.
const FIRST_KEY: i32 = -15 * PER_OCTAVE;
/// The last native bucket ends at 2⁹ s, and takes all that is longer.
const LAST_KEY: i32 = 9 * PER_OCTAVE;
const NATIVE: usize = (LAST_KEY - FIRST_KEY) as usize + 1;
/// The fractions of a doubling at which native buckets end, 2^(i/8) for i from 1, as the mantissa bits of an `f64`.
const MANTISSAS: [u64; 7] = [
    0x0001_72b8_3c7d_517b,
    0x0003_06fe_0a31_b715,
    0x0004_bfda_d536_2a27,
    0x0006_a09e_667f_3bcd,
    0x0008_ace5_422a_a0db,
    0x000a_e89f_995a_d3ad,
    0x000d_5818_dcfb_a487,
];

/// Durations in buckets.
#[derive(Debug)]
pub struct Histogram {
    classic: [AtomicU64; BOUNDS.len() + 1],
    native: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// The buckets of one or more histograms at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// The count of each classic bucket, not cumulative; the last has no upper bound.
    pub classic: [u64; BOUNDS.len() + 1],
    native: Vec<u64>,
    /// The sum, in seconds.
    pub sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            classic: Default::default(),
            native: (0..NATIVE).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Adds a duration. Called by one thread only.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs().saturating_mul(1_000_000_000);
        let nanos = seconds.saturating_add(duration.subsec_nanos().into());
        add(&self.classic[classic_index(nanos)], 1);
        add(&self.native[native_index(duration.as_secs_f64())], 1);
        add(&self.sum_nanos, nanos);
    }

    /// Adds the counts to `buckets`.
    #[expect(clippy::cast_precision_loss, reason = "a sum of seconds is rounded anyway")]
    pub fn add_to(&self, buckets: &mut Buckets) {
        let pairs = buckets.classic.iter_mut().zip(&self.classic);
        for (sum, count) in pairs.chain(buckets.native.iter_mut().zip(&self.native)) {
            *sum += count.load(Ordering::Relaxed);
        }
        buckets.sum += self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
    }
}

/// Adds to a counter that this thread alone writes: a load and a store, and no locked instruction.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn classic_index(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1000);
    BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len())
}

/// The index of the native bucket: the first whose upper bound is not less than the value.
fn native_index(seconds: f64) -> usize {
    let bits = seconds.to_bits();
    let mantissa = bits & ((1 << 52) - 1);
    // Of a value that is not negative; a subnormal one is far below the first bucket.
    let exponent = i32::try_from(bits >> 52).unwrap_or(i32::MAX) - 1023;
    let steps = MANTISSAS.iter().filter(|bound| mantissa > **bound).count();
    let above = i32::from(mantissa > 0) + i32::try_from(steps).unwrap_or_default();
    let key = exponent.saturating_mul(PER_OCTAVE).saturating_add(above);
    usize::try_from(key.clamp(FIRST_KEY, LAST_KEY) - FIRST_KEY).unwrap_or_default()
}

impl Default for Buckets {
    fn default() -> Self {
        Self { classic: Default::default(), native: vec![0; NATIVE], sum: 0.0 }
    }
}

/// The upper bounds of the native buckets but the last, which has none.
pub fn native_bounds() -> &'static [Duration] {
    static BOUNDS: LazyLock<Vec<Duration>> =
        LazyLock::new(|| (FIRST_KEY..LAST_KEY).map(upper_bound).collect());
    &BOUNDS
}

fn upper_bound(key: i32) -> Duration {
    Duration::from_secs_f64(2f64.powf(f64::from(key) / f64::from(PER_OCTAVE)))
}

impl Buckets {
    /// Adds the counts of other buckets.
    pub fn add(&mut self, other: &Self) {
        let pairs = self.classic.iter_mut().zip(&other.classic);
        for (sum, count) in pairs.chain(self.native.iter_mut().zip(&other.native)) {
            *sum += count;
        }
        self.sum += other.sum;
    }

    /// The count of each native bucket, in the order of [`native_bounds`]; one more bucket has no upper bound.
    pub fn native_counts(&self) -> &[u64] {
        &self.native
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.classic.iter().sum()
    }

    /// The native buckets that are not empty: spans of (gap, length) and the differences between neighbours' counts, as
    /// Prometheus has them.
    pub fn native(&self) -> (Vec<(i32, u32)>, Vec<i64>) {
        let (mut spans, mut deltas) = (Vec::<(i32, u32)>::new(), Vec::new());
        let (mut next, mut before) = (0, 0);
        for (key, count) in (FIRST_KEY..).zip(&self.native) {
            if *count == 0 {
                continue;
            }
            match spans.last_mut() {
                Some((_, length)) if key == next => *length += 1,
                Some(_) => spans.push((key - next, 1)),
                None => spans.push((key, 1)),
            }
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            deltas.push(count - before);
            (next, before) = (key + 1, count);
        }
        (spans, deltas)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[Duration]) -> Buckets {
        let histogram = Histogram::default();
        for duration in durations {
            histogram.observe(*duration);
        }
        let mut buckets = Buckets::default();
        histogram.add_to(&mut buckets);
        buckets
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_that_it_ends() {
        for (index, bound) in BOUNDS.iter().enumerate() {
            let at = Duration::from_secs_f64(*bound);
            assert_eq!(of(&[at]).classic[index], 1, "{bound}");
            assert_eq!(of(&[at + Duration::from_nanos(1)]).classic[index + 1], 1, "{bound}");
        }
        assert_eq!(of(&[Duration::MAX]).classic[BOUNDS.len()], 1);
    }

    #[test]
    fn spans_and_deltas_name_the_buckets_that_are_not_empty() {
        // 1 s ends bucket 0; 2 s ends bucket 8; a little more than 1 s lies in bucket 1.
        let seconds = [1.0, 1.0, 1.01, 2.0].map(Duration::from_secs_f64);

        let (spans, deltas) = of(&seconds).native();

        assert_eq!(spans, [(0, 2), (6, 1)]);
        assert_eq!(deltas, [2, -1, 0]);
        assert_eq!(of(&[]).native(), (Vec::new(), Vec::new()));
    }

    #[test]
    fn buckets_are_added_and_have_a_bound_each_but_the_last() {
        let (mut sum, other) = (of(&[Duration::from_secs(1)]), of(&[Duration::from_secs(1), Duration::MAX]));
        sum.add(&other);
        assert_eq!((sum.count(), sum.native_counts().len()), (3, native_bounds().len() + 1));
        let one = native_bounds().iter().position(|bound| *bound == Duration::from_secs(1)).unwrap();
        assert_eq!((sum.native_counts()[one], sum.native_counts().last()), (2, Some(&1)));
        assert!(of(&[]).sum.abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn a_native_bucket_holds_what_lies_between_its_bounds(nanos in 40_000_u64..500_000_000_000) {
            let seconds = Duration::from_nanos(nanos).as_secs_f64();
            let key = f64::from(FIRST_KEY + i32::try_from(native_index(seconds)).unwrap());
            let upper = 2f64.powf(key / 8.0);
            let lower = 2f64.powf((key - 1.0) / 8.0);
            prop_assert!(seconds <= upper * (1.0 + 1e-12) && seconds > lower * (1.0 - 1e-12), "{lower} {seconds} {upper}");
        }
    }
}
