//! Tests the store that replicas share.

use super::report::Report;
use crate::app::store_address;
use crate::clock::Clock;
use crate::config::model::endpoint::is_loopback;
use crate::config::model::identity::Grant;
use crate::config::{Config, Shared};

use crate::documentation;
use crate::tls::diagnosis;
use crate::token::Reason;
use crate::token::replicas::redis::inspection::{Inspection, OPTIONAL, Obstacle, Unreachable, inspect};

const NOT_ASKED: &str = "not known: the user may run neither INFO nor CONFIG GET";
const OLDEST: u32 = 6;

/// Findings about the store, of which the first problem is the report's failure.
struct Findings {
    report: Report,
    has_failed: bool,
}

pub(super) async fn report(config: &Config, shared: &Shared) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let inspected = inspect(&store_address(shared), &shared.prefix).await;
    let peer = format!("shared store {}", shared.url);
    let mut findings =
        Findings { report: Report::new(peer, began.until(clock.now()), true), has_failed: false };
    match inspected {
        Ok(seen) => findings.add(&seen, config, shared),
        Err(Unreachable { obstacle, text }) => {
            let remedy = remedy(obstacle, shared, &text);
            findings.problem(text, remedy);
        }
    }
    findings.report
}

fn remedy(obstacle: Obstacle, shared: &Shared, text: &str) -> String {
    match obstacle {
        Obstacle::Network if shared.sentinels.is_empty() => {
            "check host and port in `shared.url`, and that this machine may connect to it".to_owned()
        }
        Obstacle::Network => {
            "check `shared.sentinels`, and that this machine may connect to them and to the primary"
                .to_owned()
        }
        Obstacle::Tls => match diagnosis::advice_in(text) {
            Some(advice) => advice.remedy.to_owned(),
            None => {
                "check that the store speaks TLS 1.2 or later on this port, and `shared.ca_file`".to_owned()
            }
        },
        Obstacle::Login => {
            "check `shared.username` and `shared.password`, and that the user is `on` (ACL GETUSER)"
                .to_owned()
        }
        Obstacle::Sentinels => {
            "check `shared.sentinel_master`: SENTINEL MASTERS lists the names that a sentinel knows"
                .to_owned()
        }
        Obstacle::Permission => format!("ACL SETUSER {} +role", user(shared)),
        Obstacle::Protocol => "use Redis 6 or later, or Valkey".to_owned(),
        Obstacle::Other => "see the store's log; where it is starting, try again later".to_owned(),
    }
}

fn user(shared: &Shared) -> &str {
    shared.username.as_deref().unwrap_or("default")
}

impl Findings {
    /// Adds what keeps the replicas from sharing tokens.
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        if self.has_failed {
            return self.report.warn(what, remedy);
        }
        self.has_failed = true;
        self.report.fail(Reason::SharedStoreUnavailable.code(), what, remedy);
    }

    fn add(&mut self, seen: &Inspection, config: &Config, shared: &Shared) {
        self.add_server(seen, shared);
        self.add_permissions(seen, shared);
        self.add_persistence(seen, config);
        self.add_eviction(seen);
        if seen.slowest * 2 > shared.operation_timeout {
            self.report.warn(
                format!("a command took {} ms", seen.slowest.as_millis()),
                "bring the store nearer, or raise `shared.operation_timeout`: later answers count as none",
            );
        }
    }

    fn add_server(&mut self, seen: &Inspection, shared: &Shared) {
        let role = match (seen.is_follower, seen.followers) {
            (true, _) => "follows another server".to_owned(),
            (false, None) => "primary".to_owned(),
            (false, Some(1)) => "primary, 1 server follows".to_owned(),
            (false, Some(followers)) => format!("primary, {followers} servers follow"),
        };
        let server = seen.server.as_deref().unwrap_or("name not known");
        self.report.fact("server", format!("{server}, {role}"));
        let is_encrypted = shared.url.scheme() == "rediss";
        let is_near = is_loopback(&shared.url) && shared.sentinels.is_empty();
        let tls = if is_encrypted { "yes" } else { "none" };
        self.report.fact("tls", if is_near && !is_encrypted { "none: on this machine" } else { tls });
        self.report.fact("user", user(shared));
        if !shared.sentinels.is_empty() {
            let answering = shared.sentinels.len() - seen.silent_sentinels.len();
            self.report
                .fact("sentinels", format!("{answering} of {} name the primary", shared.sentinels.len()));
        }
        for (sentinel, why) in &seen.silent_sentinels {
            self.report.warn(
                format!("the sentinel {sentinel} does not name the primary: {why}"),
                "check `shared.sentinels`: without it, a failover may be noticed later, or not at all",
            );
        }
        let version = seen.server.as_deref().and_then(|server| server.strip_prefix("redis "));
        let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        if major.is_some_and(|major| major < OLDEST) {
            self.problem("the server is older than Redis 6", "use Redis 6 or later, or Valkey");
        }
        if seen.is_follower {
            self.problem(
                "the server follows another one, and takes no writes",
                "set `shared.url` to the primary, or name the sentinels in `shared.sentinels`, which know it",
            );
        }
        if !is_encrypted && !is_near {
            self.report.warn(
                "the connection is not encrypted",
                "use rediss://: what is shared is sealed, and the password of the store is not",
            );
        }
    }

    fn add_permissions(&mut self, seen: &Inspection, shared: &Shared) {
        let (user, prefix) = (user(shared), &shared.prefix);
        let (optional, needed): (Vec<&str>, Vec<&str>) =
            seen.denied.iter().copied().partition(|command| OPTIONAL.contains(command));
        let grant = |commands: &[&str]| format!("ACL SETUSER {user} +{}", commands.join(" +"));
        if !needed.is_empty() {
            self.problem(format!("the user may not run {}", needed.join(", ")), grant(&needed));
        }
        if seen.denies_keys {
            self.problem(
                format!("the user may not use keys that begin with `{prefix}`"),
                format!("ACL SETUSER {user} ~{prefix}*"),
            );
        }
        if seen.denies_channel {
            self.problem(
                format!("the user may not use the channel `{prefix}changed`"),
                format!("ACL SETUSER {user} &{prefix}*"),
            );
        }
        if let Some((command, why)) = &seen.failure {
            self.problem(format!("{} failed: {why}", command.to_uppercase()), failure_remedy(why));
        }
        if !optional.is_empty() {
            self.report.warn(
                format!(
                    "the user may not run {}: {}",
                    optional.join(", "),
                    without(
                        optional.contains(&"subscribe"),
                        optional.iter().any(|name| *name != "subscribe")
                    )
                ),
                grant(&optional),
            );
        }
        if !seen.beyond.is_empty() {
            self.report.warn(
                format!("the user `{user}` may {}, which bearerd does not need", seen.beyond.join(", and ")),
                format!("give bearerd a user of its own: {}", documentation::of_shared_store()),
            );
        }
    }

    fn add_persistence(&mut self, seen: &Inspection, config: &Config) {
        let persistence = match (seen.appends, seen.saves) {
            (None, None) => NOT_ASKED,
            (Some(true), Some(true)) => "append-only file and snapshots",
            (Some(true), _) => "append-only file",
            (_, Some(true)) => "snapshots",
            (_, Some(false)) => "none",
            (Some(false), None) => {
                "no append-only file; snapshots not known: the user may not run CONFIG GET"
            }
        };
        self.report.fact("persistence", persistence);
        let grants = config.credentials.iter().filter(|credential| {
            matches!(credential.identity.grant, Grant::RefreshToken(_)) && credential.state.is_none()
        });
        let grants: Vec<_> = grants.map(|credential| format!("`{}`", credential.name)).collect();
        let at_risk = grants.join(", ");
        match (seen.appends, seen.saves) {
            (Some(false), Some(false)) if grants.is_empty() => self.report.warn(
                "the store keeps nothing on disk: where it and all replicas end together, the tokens and the waits of the \
                 token endpoints are lost, and each credential makes a token request",
                "set `appendonly yes` at the store, unless that is no loss",
            ),
            (Some(false), Some(false)) => self.report.warn(
                format!(
                    "the store keeps nothing on disk: where it and all replicas end together, the refresh tokens of \
                     {at_risk} are lost, and a person must authorize the client again"
                ),
                "set `appendonly yes` at the store, or `state_file` of the credentials",
            ),
            (Some(false), Some(true)) if !grants.is_empty() => self.report.warn(
                format!(
                    "the store saves snapshots and appends nothing: where it and all replicas end together, the refresh \
                     tokens of {at_risk} may be lost that were replaced since the last snapshot"
                ),
                "set `appendonly yes` at the store, or `state_file` of the credentials",
            ),
            _ => {}
        }
    }

    fn add_eviction(&mut self, seen: &Inspection) {
        let Some(policy) = seen.eviction.as_deref() else {
            return self.report.fact("eviction", NOT_ASKED);
        };
        let limit = match seen.max_memory {
            Some(0) => ", no limit of memory".to_owned(),
            Some(bytes) => format!(", at {} MiB", bytes / (1 << 20)),
            None => String::new(),
        };
        self.report.fact("eviction", format!("{policy}{limit}"));
        if policy == "noeviction" || seen.max_memory == Some(0) {
            return;
        }
        let lost = if policy.starts_with("allkeys") {
            "the records of refresh tokens"
        } else {
            "leases and the records of tokens"
        };
        self.report.warn(
            format!("a full store drops {lost} (`maxmemory-policy` is {policy})"),
            "set `maxmemory-policy noeviction`, or give bearerd a server of its own",
        );
    }
}

/// What the replicas do without the commands that they can do without.
const fn without(lacks_announcements: bool, lacks_confirmations: bool) -> &'static str {
    match (lacks_announcements, lacks_confirmations) {
        (true, false) => "a token of another replica is noticed up to 5 s late",
        (false, _) => "a failover may lose a refresh token that was just replaced",
        (true, true) => {
            "a token of another replica is noticed up to 5 s late, and a failover may lose a refresh token that was just \
             replaced"
        }
    }
}

fn failure_remedy(why: &str) -> &'static str {
    if why.contains("MISCONF") {
        "the store cannot write to its disk: free space, or see its log"
    } else if why.contains("OOM") {
        "the store is full: raise `maxmemory`, or remove what others keep in it"
    } else if ["Moved", "CrossSlot", "ClusterDown"].iter().any(|kind| why.contains(kind)) {
        "use one server, or Sentinel: bearerd talks with one server at a time, not with a cluster"
    } else if why.contains("unknown command") {
        "use a store that has this command, and no `rename-command` for it"
    } else {
        "see the store's log"
    }
}
