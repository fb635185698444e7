//! How one configuration differs from another, for the log and the response to a reload.

use crate::config::{Config, Destination, Route, ServerTls};
use crate::reload::{Difference, Reloaded};

/// Keeps the values that only a start can change as they are in force, and returns the keys whose values differ.
pub(super) fn keep_until_restart(before: &Config, after: &mut Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut keep = |key, is_same: bool| {
        if !is_same {
            keys.push(key);
        }
    };
    keep("server.workers", before.server.workers == after.server.workers);
    keep("audit.output", before.audit.output == after.audit.output);
    keep("audit.key", before.audit.key == after.audit.key);
    keep("log.output", before.log.output == after.log.output);
    keep("log.format", before.log.format == after.log.format);
    keep("log.level", before.log.level == after.log.level);
    keep("tracing", before.tracing == after.tracing);
    keep("shared", before.shared == after.shared);
    after.server.workers = before.server.workers;
    after.audit.output.clone_from(&before.audit.output);
    after.audit.key.clone_from(&before.audit.key);
    after.log.output.clone_from(&before.log.output);
    after.log.format = before.log.format;
    after.log.level.clone_from(&before.log.level);
    after.tracing.clone_from(&before.tracing);
    after.shared.clone_from(&before.shared);
    keys
}

/// How two configurations differ.
pub(super) fn differences(before: &Config, after: &Config) -> Reloaded {
    Reloaded {
        routes: Difference::of(&before.routes, &after.routes, |route| route.name.clone()),
        credentials: Difference::of(&before.credentials, &after.credentials, |one| one.name.clone()),
        listeners: Difference::of(&before.server.listen, &after.server.listen, ToString::to_string),
        settings: settings(before, after),
        ..Reloaded::default()
    }
}

/// Whether the new configuration has every route of this credential unchanged, apart from its name and the
/// credential's own settings, and each of these routes leads to a configured address. The previous routes then send a
/// token of the new credential only where the new configuration sends it.
pub(super) fn keeps_routes_of(credential: &str, before: &Config, after: &Config) -> bool {
    let uses = |route: &&Route| route.credentials().iter().any(|one| one.name == credential);
    let without_credential =
        |route: &Route| Route { name: String::new(), credential: None, pool: None, ..route.clone() };
    before.routes.iter().filter(uses).all(|old| {
        let is_as_before = |new: &Route| without_credential(old) == without_credential(new);
        matches!(old.upstream.destination, Destination::Written(_))
            && after.routes.iter().filter(uses).any(is_as_before)
    })
}

fn settings(before: &Config, after: &Config) -> Vec<&'static str> {
    let (one, other) = (&before.server, &after.server);
    let files = |tls: &Option<ServerTls>| tls.as_ref().map(|tls| tls.files.clone());
    [
        ("server.allow_from", one.allow_from == other.allow_from),
        ("server.trusted_proxies", one.trusted_proxies == other.trusted_proxies),
        ("server.hosts", one.hosts == other.hosts),
        ("server.origins", one.origins == other.origins),
        ("server.required_header", one.required_header == other.required_header),
        ("server.drain_delay", one.drain_delay == other.drain_delay),
        ("server.drain", one.drain == other.drain),
        ("server.watch", one.watch == other.watch),
        ("server.header_case", one.http1.header_case == other.http1.header_case),
        ("server.half_closed", one.http1.half_closed == other.http1.half_closed),
        ("server.tls", files(&one.tls) == files(&other.tls)),
        ("server.limits", one.limits == other.limits),
        ("callers", before.callers == after.callers),
        ("pools", pools(before) == pools(after)),
        ("health.listen", before.health.listen == after.health.listen),
        ("admin.listen", before.admin.listen == after.admin.listen),
        ("admin.tls", files(&before.admin.tls) == files(&after.admin.tls)),
        ("admin.metrics_token", before.admin.metrics_token == after.admin.metrics_token),
        ("admin.token", before.admin.token == after.admin.token),
        ("audit.on_failure", before.audit.on_failure == after.audit.on_failure),
        ("webhooks", before.webhooks == after.webhooks),
        ("log.access", before.log.access == after.log.access),
    ]
    .into_iter()
    .filter_map(|(key, is_same)| (!is_same).then_some(key))
    .collect()
}

/// The pools by name, with the names of their credentials.
fn pools(config: &Config) -> Vec<(&str, Vec<&str>)> {
    let pools = config.pools.iter();
    pools.map(|pool| (&*pool.name, pool.credentials.iter().map(|one| &*one.name).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    #[test]
    fn what_only_a_start_can_change_is_kept_and_named() {
        let before = fixture::config("[server]\nworkers = 1", "", "x");
        let text = "[server]\nworkers = 2\ndrain = \"1s\"\n[admin]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n\
                    output = \"file:log\"\nformat = \"text\"\n[audit]\noutput = \"stdout\"\nkey = \"hunter2hunter2hunter2\"\n\
                    on_failure = \"refuse\"\n[tracing]\notlp_endpoint = \"http://localhost:4318\"";
        let mut after = fixture::config(text, "", "x");

        let keys = keep_until_restart(&before, &mut after);

        assert_eq!(
            keys,
            [
                "server.workers",
                "audit.output",
                "audit.key",
                "log.output",
                "log.format",
                "log.level",
                "tracing"
            ]
        );
        let settings = ["server.drain", "admin.listen", "audit.on_failure"];
        assert_eq!(differences(&before, &after).settings, settings);
        assert_eq!((&after.audit.output, &after.audit.key), (&before.audit.output, &before.audit.key));
        assert_eq!(after.tracing, before.tracing);
        assert_eq!(after.server.workers, 1);
        assert_eq!((after.log.format, after.log.level), (before.log.format, before.log.level));
    }

    #[test]
    fn a_secret_that_was_changed_is_a_changed_credential_and_changes_its_routes() {
        let before = fixture::config("", "", "x");
        let same = differences(&before, &fixture::config("", "", "x"));
        let unchanged = Difference { kept: 1, ..Difference::default() };
        assert_eq!((&same.credentials, &same.routes), (&unchanged, &unchanged));
        assert!(same.settings.is_empty());

        let other = differences(&before, &fixture::config("", "", "y"));

        assert_eq!(other.credentials.changed, ["c"]);
        assert!(!format!("{other:?}").contains('y'), "and is not shown");
    }
}
