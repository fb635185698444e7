//! Divides the process's file descriptors between client connections and upstream connections.
//!
//! Clients decide how many connections they open, and must not use up the descriptors that the daemon itself needs: for
//! upstreams, token endpoints, state files, the admin address and the log.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;

/// Descriptors of a runtime and its thread: an epoll instance, a wake-up, a pipe for signals.
const PER_THREAD: usize = 4;
/// Descriptors of a credential: a state file, its lock, and two connections to its token endpoint, as one may hang.
const PER_CREDENTIAL: usize = 4;
/// Descriptors of an address of health checks: as many connections as its clients usually have.
const HEALTH_CHECKS: usize = 16;
/// Descriptors of the standard streams, the admin address with its clients, DNS lookups and files being read.
const BASE: usize = 32;
/// The smallest share of each side, however few descriptors there are.
const LEAST: usize = 8;
/// Stands for "no limit".
const UNLIMITED: usize = 1 << 30;

/// How many file descriptors each side may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For client connections.
    pub callers: usize,
    /// For upstream connections.
    pub upstreams: usize,
}

/// Raises the limit of descriptors, divides them, and logs the shares. `refusals` is the number of client connections
/// that are kept open to send a refusal.
pub fn share_out(config: &Config, refusals: usize) -> Shares {
    // Besides the workers, the listener and the main thread have a runtime.
    let threads = config.server.workers + 2;
    let credentials = config.credentials.len();
    let listeners = config.server.listen.len();
    let health = if config.health.listen.is_some() { HEALTH_CHECKS } else { 0 };
    let reserve = BASE + health + listeners + threads * PER_THREAD + credentials * PER_CREDENTIAL + refusals;
    let limit = raise_limit();
    let wanted = config.server.limits.connections;
    let Shares { callers, upstreams } = shares(limit, reserve, wanted);
    if wanted.is_some_and(|wanted| wanted > callers) {
        let help = "raise ulimit -n (LimitNOFILE) to more than twice server.limits.connections";
        warn!(limit, callers, upstreams, help, "file descriptors limit the number of connections");
    } else {
        info!(limit, callers, upstreams, "file descriptors divided");
    }
    Shares { callers, upstreams }
}

/// Raises the soft limit of descriptors to the hard limit, and returns the limit in force.
///
/// The default soft limit is low to protect programs that use `select`, which bearerd does not.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let mut raised = limit;
    raised.current = raised.maximum;
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.map_or(UNLIMITED, |limit| usize::try_from(limit).unwrap_or(UNLIMITED))
}

/// The shares of `limit` descriptors, of which the daemon itself needs `reserve`. Clients get the configured number,
/// but at most half of the rest, as each client connection may need an upstream connection.
fn shares(limit: usize, reserve: usize, wanted: Option<usize>) -> Shares {
    let left = limit.saturating_sub(reserve).max(2 * LEAST);
    let callers = wanted.unwrap_or(usize::MAX).min(left / 2);
    Shares { callers, upstreams: left - callers }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: usize = 61;

    #[test]
    fn callers_get_the_configured_number_if_enough_is_left_for_upstreams() {
        let share = shares(1_048_576, RESERVE, Some(10_000));

        assert_eq!(share.callers, 10_000);
        assert!(share.upstreams > 1_000_000);
    }

    #[test]
    fn callers_and_upstreams_get_half_each_where_descriptors_are_few() {
        let share = shares(128, RESERVE, Some(10_000));

        assert_eq!(share.callers, 33);
        assert_eq!(share.upstreams, 34);
        assert_eq!(shares(128, RESERVE, None), share);
    }

    #[test]
    fn both_sides_get_a_minimum_where_there_are_almost_no_descriptors() {
        assert_eq!(shares(0, RESERVE, None), Shares { callers: LEAST, upstreams: LEAST });
        assert_eq!(shares(0, RESERVE, Some(1)), Shares { callers: 1, upstreams: 2 * LEAST - 1 });
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        let limit = raise_limit();

        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(now.current.map_or(UNLIMITED, |now| usize::try_from(now).unwrap()), limit);
    }
}
