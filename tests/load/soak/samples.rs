//! Samples of memory, descriptors and threads, which must not grow.
//!
//! There is a sample each second. The second half counts, when all buffers have reached their size: the slope is the
//! median of the slopes of all pairs (Theil–Sen), which neither a spike nor the start of the half affects.

use std::time::Duration;

use tokio::time::Instant;

use super::Soak;
use crate::figures::{median, mib, slope};
use crate::report::Report;

const EVERY: Duration = Duration::from_secs(1);
/// The allowed growth of memory in the second half, in bytes; the allocator's own variation is up to that much.
const GROWTH: f64 = 2.0 * 1024.0 * 1024.0;
/// The allowed growth in a half shorter than a minute: the allocator keeps freed memory for ten seconds, and most of the
/// variation is memory that is used and freed in that time.
const GROWTH_IN_SHORT: f64 = 3.0 * GROWTH;

#[derive(Debug)]
pub(crate) struct Samples {
    before: Option<usize>,
    threads_before: u64,
    all: Vec<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    resident: u64,
    descriptors: Option<usize>,
    threads: u64,
}

impl Samples {
    /// Takes samples until the soak is over.
    pub(crate) async fn taken(soak: &Soak) -> Self {
        let before =
            soak.world.descriptors().map(|all| all.saturating_sub(soak.world.api.open_connections()));
        let threads_before = soak.world.lasting_threads();
        let mut all = Vec::new();
        let mut due = Instant::now() + EVERY;
        while !soak.is_over() {
            tokio::time::sleep_until(due).await;
            due += EVERY;
            let (at, resident, descriptors) =
                (soak.began.elapsed(), soak.world.resident(), soak.world.descriptors());
            all.push(Sample { at, resident, descriptors, threads: soak.world.threads() });
        }
        Self { before, threads_before, all }
    }

    /// The daemon's descriptors before the load, without its connections to the API.
    pub(crate) const fn descriptors_before(&self) -> Option<usize> {
        self.before
    }

    /// The daemon's threads before the load that live as long as the daemon.
    pub(crate) const fn threads_before(&self) -> u64 {
        self.threads_before
    }

    pub(crate) fn judge(&self, report: &mut Report) {
        let (first, second) = self.all.split_at(self.all.len() / 2);
        let memory: Vec<(Duration, f64)> =
            second.iter().map(|sample| (sample.at, sample.resident as f64)).collect();
        let seconds = second.len() as f64;
        let (per_second, start) =
            (slope(&memory), median(&first.iter().map(|one| one.resident).collect::<Vec<_>>()));
        let end = median(&second.iter().map(|one| one.resident).collect::<Vec<_>>());
        let allowed = if seconds < 60.0 { GROWTH_IN_SHORT } else { GROWTH };
        report.check(
            "memory is flat: its slope over the second half",
            per_second * seconds < allowed,
            &format!(
                "{:.0} KiB an hour, {:.0} KiB in this half; {} in the middle of the first half, {} of the second",
                per_second * 3600.0 / 1024.0,
                per_second * seconds / 1024.0,
                mib(start),
                mib(end)
            ),
        );
        let descriptors = |samples: &[Sample]| {
            let counts: Vec<usize> = samples.iter().filter_map(|sample| sample.descriptors).collect();
            (!counts.is_empty()).then(|| (median(&counts), counts.iter().copied().max().unwrap_or(0)))
        };
        if let (Some(before), Some(after)) = (descriptors(first), descriptors(second)) {
            report.check(
                "descriptors are flat",
                after.0 <= before.0 + 3 + before.0 / 10,
                &format!(
                    "{} in the middle of the first half, {} of the second; {} at most",
                    before.0, after.0, after.1
                ),
            );
        }
        // A thread looks up a name for each connection to an API that is made at this moment: their number says how busy the
        // machine is. `callers::all_gone` checks that none is left.
        let threads = |samples: &[Sample]| median(&samples.iter().map(|one| one.threads).collect::<Vec<_>>());
        report.note(&format!("threads: {}, then {}", threads(first), threads(second)));
    }
}
