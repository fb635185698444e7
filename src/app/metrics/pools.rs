//! The metrics of pools.

use super::family::{as_f64, counters, gauges, is, labels};
use crate::admin::status::{Pool, PoolMember};
use crate::telemetry::metrics::exposition::{Family, Labels};

/// The metrics of these pools, with a series for each credential of each.
pub(super) fn families(pools: &[Pool]) -> Vec<Family> {
    let of_each = |value: fn(&PoolMember) -> f64| -> Vec<(Labels, f64)> {
        let members = pools.iter().flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
        let series = |(pool, member): (&Pool, &PoolMember)| {
            (labels([("pool", &pool.name), ("credential", &member.credential)]), value(member))
        };
        members.map(series).collect()
    };
    vec![
        gauges(
            "bearerd_pool_member_usable",
            "Whether each route of the pool uses the credential now.",
            of_each(|member| is(member.usable)),
        ),
        counters(
            "bearerd_pool_member_requests",
            "Requests that went out with the credential's tokens, through the pool.",
            of_each(|member| as_f64(member.requests)),
        ),
    ]
}
