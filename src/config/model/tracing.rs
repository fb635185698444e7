//! `[tracing]` and the variables `OTEL_*`: where traces go, and which requests have one.

use http::HeaderMap;
use url::Url;

/// The range of the last 53 bits of a trace's identifier, which are random: 2^53.
const RANGE: f64 = 9_007_199_254_740_992.0;

/// The settings of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// The address that takes spans, OTLP over http/protobuf.
    pub endpoint: Url,
    /// The fields of each request to the collector, marked sensitive.
    pub headers: HeaderMap,
    /// The name of this service in traces.
    pub service_name: String,
    /// Further attributes of this service.
    pub attributes: Vec<(String, String)>,
    /// Which requests have a trace.
    pub sampler: Sampler,
}

/// Which requests have a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a request of a caller's trace follows the caller's decision.
    pub is_parent_based: bool,
    /// The share of the other requests, from 0 to 1.
    pub share: f64,
}

impl Sampler {
    /// Whether a request has spans. All daemons with the same share decide alike about the same trace.
    pub fn takes(self, trace_id: u128, callers_decision: Option<bool>) -> bool {
        if let (true, Some(decision)) = (self.is_parent_based, callers_decision) {
            return decision;
        }
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let number = ((trace_id & ((1 << 53) - 1)) as u64) as f64;
        self.share >= 1.0 || number < self.share * RANGE
    }

    /// Whether what has no caller is traced at all.
    pub const fn is_on(self) -> bool {
        self.share > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_decides_where_the_sampler_is_parent_based() {
        for (is_parent_based, share, decision, is_taken) in [
            (true, 0.0, Some(true), true),
            (true, 1.0, Some(false), false),
            (false, 0.0, Some(true), false),
            (false, 1.0, Some(false), true),
            (true, 1.0, None, true),
            (true, 0.0, None, false),
        ] {
            let sampler = Sampler { is_parent_based, share };
            assert_eq!(sampler.takes(7, decision), is_taken, "{sampler:?} {decision:?}");
        }
    }

    #[test]
    fn a_share_takes_about_that_share_and_the_same_traces_everywhere() {
        let sampler = Sampler { is_parent_based: true, share: 0.25 };
        let mut random = fastrand::Rng::with_seed(1);
        let traces: Vec<u128> = (0..10_000).map(|_| random.u128(..)).collect();
        let taken = traces.iter().filter(|trace| sampler.takes(**trace, None)).count();
        assert!((2300..2700).contains(&taken), "{taken}");
        let more = Sampler { share: 0.5, ..sampler };
        assert!(traces.iter().all(|trace| !sampler.takes(*trace, None) || more.takes(*trace, None)));
    }
}
