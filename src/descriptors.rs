//! File descriptors: as many as the system gives, and who may use how many of them.
//!
//! Callers decide how many connections there are. What they may not use up is what the daemon needs to go on:
//! connections to upstreams and to the token endpoint, state files, the admin address, the log.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;

/// What a runtime and its thread need: an epoll instance, a wake-up, a pipe for signals.
const PER_THREAD: usize = 4;
/// Two connections to a token endpoint (one may hang while the next is made), a state file and its lock.
const PER_CREDENTIAL: usize = 4;
/// The standard streams, the admin address with its callers, name lookups, files that are read.
const BASE: usize = 32;
/// Below this there is nothing to share out.
const LEAST: usize = 8;
/// Where the system has no limit.
const ENDLESS: usize = 1 << 30;

/// Who may use how many file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For connections of callers.
    pub callers: usize,
    /// For connections to upstreams.
    pub upstreams: usize,
}

/// What the daemon is made of, as far as it costs descriptors.
#[derive(Clone, Copy, Debug)]
struct Needs {
    listeners: usize,
    threads: usize,
    credentials: usize,
    refusals: usize,
}

/// Takes as many descriptors as the system gives, shares them out, and says what bound counts. `refusals` are
/// connections of callers that are told that there is no room.
pub fn share_out(config: &Config, refusals: usize) -> Shares {
    let needs = Needs {
        listeners: config.server.listen.len(),
        // The listener and the main loop have a runtime too.
        threads: config.server.workers + 2,
        credentials: config.credentials.len(),
        refusals,
    };
    let limit = raise_limit();
    let wanted = config.server.limits.connections;
    let Shares { callers, upstreams } = shares(limit, needs, wanted);
    if wanted.is_some_and(|wanted| wanted > callers) {
        let help = "raise the limit of open files (ulimit -n, LimitNOFILE) to more than twice server.limits.connections";
        warn!(limit, callers, upstreams, help, "file descriptors bound the connections");
    } else {
        info!(limit, callers, upstreams, "file descriptors were shared out");
    }
    Shares { callers, upstreams }
}

/// Raises the soft limit of descriptors to the hard one, and says what it is then.
///
/// The soft limit is low for the sake of programs that use `select`, which this one does not.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let mut raised = limit;
    raised.current = raised.maximum;
    // If the system refuses, the soft limit is what there is.
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.map_or(ENDLESS, |limit| usize::try_from(limit).unwrap_or(ENDLESS))
}

/// The shares of `limit` descriptors: to callers what they may want, but no more than half of what is not needed
/// otherwise, as each may need a connection to an upstream.
fn shares(limit: usize, needs: Needs, wanted: Option<usize>) -> Shares {
    let Needs { listeners, threads, credentials, refusals } = needs;
    let reserve = BASE + listeners + threads * PER_THREAD + credentials * PER_CREDENTIAL + refusals;
    let left = limit.saturating_sub(reserve).max(2 * LEAST);
    let callers = wanted.unwrap_or(usize::MAX).min(left / 2);
    Shares { callers, upstreams: left - callers }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Needs = Needs { listeners: 1, threads: 4, credentials: 1, refusals: 8 };

    #[test]
    fn callers_get_what_is_configured_if_as_much_is_left_for_upstreams() {
        let share = shares(1_048_576, SMALL, Some(10_000));

        assert_eq!(share.callers, 10_000);
        assert!(share.upstreams > 1_000_000);
    }

    #[test]
    fn where_descriptors_are_few_callers_and_upstreams_have_half_each_of_what_is_not_needed_otherwise() {
        let share = shares(128, SMALL, Some(10_000));

        assert_eq!(share.callers, 33);
        assert_eq!(share.upstreams, 34);
        assert_eq!(shares(128, SMALL, None), share);
    }

    #[test]
    fn with_next_to_nothing_some_are_served_all_the_same() {
        assert_eq!(shares(0, SMALL, None), Shares { callers: LEAST, upstreams: LEAST });
        assert_eq!(shares(0, SMALL, Some(1)), Shares { callers: 1, upstreams: 2 * LEAST - 1 });
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise_limit();

        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(now.current.map_or(ENDLESS, |now| usize::try_from(now).unwrap()), limit);
    }
}
