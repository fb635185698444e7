//! Tests of what the page shows.

use serde_json::json;

use super::*;
use crate::admin::attention::findings;

const NOW: &str = "2026-05-01T12:00:00.000Z";

/// The status of a daemon with one credential, which has these members besides or instead.
fn status(credential: &serde_json::Value) -> Status {
    let mut one = json!({
        "name": "api", "provider": "oauth2", "grant": "client_credentials", "tenant": null, "state": "valid",
        "reason": null, "since": "2026-05-01T11:30:00.000Z", "needs_person": false, "help": null, "generation": 2,
        "fingerprint": "f1n9", "issued_at": "2026-05-01T11:30:00.000Z", "expires_at": "2026-05-01T12:30:00.000Z",
        "next_refresh_at": "2026-05-01T12:25:00.000Z", "next_attempt_at": null, "not_before": null, "scopes": [],
        "rotations": 0, "max_rotations": 0, "refresh_token_expires_at": null, "durable": true,
        "token_requests": 4, "success_rate": 1.0, "average_latency_ms": 12.4, "last_latency_ms": 11.9,
        "quota_remaining": 9, "waiters": 0, "last_error": null, "events": []
    });
    for (name, value) in credential.as_object().unwrap() {
        one[name] = value.clone();
    }
    let whole = json!({
        "version": "1", "commit": null, "instance": "i", "started_at": "2026-05-01T11:00:00.000Z", "ready": true,
        "draining": false,
        "configuration": {"file": "proxy.toml", "loaded_at": "2026-05-01T11:00:00.000Z", "last_reload": null},
        "credentials": [one],
        "upstreams": [{"origin": "https://api.test", "breaker": "closed", "breaker_until": null, "connections": 1,
            "waiting": 0}],
        "routes": [{"name": "/", "requests": 10, "errors": 1, "unauthorized": 2, "replays": 3, "p50_ms": 2.1,
            "p99_ms": 9.0}],
        "certificates": [], "shared": null, "audit": {"events": 1, "failures": 0}, "webhooks": []
    });
    serde_json::from_value(whole).unwrap()
}

fn page(mut status: Status, medians: &[Vec<Option<f64>>]) -> String {
    status.attention = findings(&status, Time(NOW.parse().unwrap()));
    Page::new(status, medians, Time(NOW.parse().unwrap())).render().unwrap()
}

#[test]
fn a_well_credential_shows_its_time_left_and_its_next_refresh() {
    let html = page(status(&json!({})), &[]);

    for text in
        ["The credential is valid", "30 min of 1 h left", "in 25 min", "value=\"50\"", "4, 100 % successful"]
    {
        assert!(html.contains(text), "{text}: {html}");
    }
    assert!(!html.contains("class=\"help\"") && !html.contains("needs attention"));
}

#[test]
fn a_token_request_that_is_under_way_takes_the_place_of_the_next_one() {
    let html = page(status(&json!({ "request_under_way_since": "2026-05-01T11:59:57.000Z" })), &[]);

    assert!(html.contains("<dt>Token request</dt>") && html.contains("under way for 3 s"), "{html}");
    assert!(!html.contains("Next refresh"), "{html}");
}

#[test]
fn a_credential_that_needs_a_person_shows_why_and_what_to_do() {
    let html = page(
        status(&json!({
            "state": "unusable", "reason": "rotation_limit", "needs_person": true, "help": "authorize the client again",
            "expires_at": "2026-05-01T11:50:00.000Z", "next_refresh_at": null, "rotations": 5, "max_rotations": 5,
            "last_error": {"at": "2026-05-01T11:59:00.000Z", "outcome": "rotation_limit", "detail": "five of five"}
        })),
        &[],
    );

    for text in [
        "1 credential needs a person",
        "<code>rotation_limit</code>",
        "Authorize the client again",
        "ended 10 min ago",
        "none before a person acts",
        "5 of 5, limit reached",
        "five of five",
    ] {
        assert!(html.contains(text), "{text}: {html}");
    }
}

/// Every text that a peer may have written is escaped, and nothing in the page runs or styles inline.
#[test]
fn what_peers_say_is_text() {
    let evil = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>";
    let html = page(
        status(&json!({
            "state": "degraded", "tenant": evil, "help": evil, "reason": "client_rejected", "scopes": [evil],
            "last_error": {"at": null, "outcome": "rejected", "detail": evil},
            "events": [{"at": NOW, "event": "token.refresh_failed", "detail": evil}]
        })),
        &[],
    );

    assert!(!html.contains("<script>") && !html.contains("<img src=x"), "{html}");
    assert_eq!(html.matches("alert(1)").count(), 6);
    for inline in [" style=", " onclick=", " onload=", "<style", "javascript:"] {
        assert!(!html.contains(inline), "{inline}");
    }
}

#[test]
fn a_sparkline_has_gaps_where_there_was_no_request() {
    let medians = [Some(1.0), Some(3.0), None, Some(2.0)];

    let Sparkline { lines, words } = Sparkline::of(&medians).unwrap();

    assert_eq!(lines, ["0.0,22.0 40.0,2.0 ", "120.0,12.0 122.0,12.0"]);
    assert_eq!(words, "median latency between 1.0 ms and 3.0 ms");
    assert!(Sparkline::of(&[None, None]).is_none() && Sparkline::of(&[]).is_none());
    let html = page(status(&json!({})), &[medians.to_vec()]);
    assert!(html.contains("<polyline points=\"0.0,22.0 40.0,2.0 \"/>"), "{html}");
}

#[test]
fn the_headline_names_the_worst() {
    let headline = |credential: serde_json::Value, change: fn(&mut Status)| {
        let mut status = status(&credential);
        change(&mut status);
        status.attention = findings(&status, Time(NOW.parse().unwrap()));
        let Headline { state, text, .. } = Headline::of(&status);
        format!("{state}: {text}")
    };
    let nothing: fn(&mut Status) = |_| {};
    assert_eq!(headline(json!({"state": "acquiring"}), nothing), "acquiring: Waiting for the first token");
    assert_eq!(headline(json!({"state": "degraded"}), nothing), "degraded: The credential is degraded");
    assert_eq!(headline(json!({"state": "unusable"}), nothing), "unusable: The credential is unusable");
    let open: fn(&mut Status) = |status| status.upstreams[0].breaker = "open".to_owned();
    assert_eq!(headline(json!({}), open), "unusable: One thing needs attention");
    let failing: fn(&mut Status) = |status| {
        let (outcome, detail) = ("upstream_timeout".to_owned(), "no response in time".to_owned());
        status.upstreams[0].last_error = Some(crate::admin::status::Failure { at: None, outcome, detail });
    };
    assert_eq!(headline(json!({}), failing), "degraded: One thing needs attention");
    let two: fn(&mut Status) = |status| status.credentials.push(status.credentials[0].clone());
    assert_eq!(headline(json!({}), two), "valid: All 2 credentials are valid");
}

#[test]
fn the_members_of_a_pool_are_shown_and_take_over_from_one_that_is_held() {
    let member = |name: &str, usable: bool, reason: Option<&str>| {
        json!({"credential": name, "usable": usable, "reason": reason, "until": reason.map(|_| "2026-05-01T12:03:00.000Z"),
               "left": 212, "requests": 1804})
    };
    let with = |members: serde_json::Value| {
        let mut status = status(&json!({}));
        status.pools =
            serde_json::from_value(json!([{"name": "p", "routes": ["/"], "members": members}])).unwrap();
        status.routes[0].hold = serde_json::from_value(json!({
            "credential": "one", "since": NOW, "until": "2026-05-01T12:03:00.000Z", "outcome": "fresh_token_rejected",
            "status_codes": [401]
        }))
        .unwrap();
        page(status, &[])
    };

    let html = with(json!([member("one", false, Some("held")), member("two", true, None)]));
    for text in
        ["p: one", "held", "in 3 min", "usable", ">212<", "requests use the other credentials of the pool p"]
    {
        assert!(html.contains(text), "{text}: {html}");
    }
    assert!(!html.contains("pool_unusable"), "{html}");

    let html = with(json!([member("one", false, Some("held")), member("two", false, Some("throttled"))]));
    for text in ["pool_unusable", "one (held), two (throttled)", "callers get its 401"] {
        assert!(html.contains(text), "{text}: {html}");
    }
    assert!(html.contains("things need attention") && !html.contains("class=\"headline unusable"), "{html}");

    let html = with(json!([member("one", false, Some("no_token"))]));
    assert!(html.contains("<li class=\"unusable\">"), "{html}");
}
