//! Faults, each injected into a running daemon: `/status`, the page and `bearerd status` name each with its remedy.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use testkit::authorization_server::Answer;
use testkit::pki::Pki;
use tokio::time::timeout;

use crate::harness::{World, daemon};
use crate::status::{ROOMY, command, status};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A fault, and what an operator must see of it.
struct Fault {
    subject: &'static str,
    state: &'static str,
    reason: &'static str,
    needs_person: bool,
    /// Words of the error.
    detail: &'static str,
    /// Words of the remedy.
    help: &'static str,
    /// The state of the credential, and the exit code of `bearerd status`.
    credential: (&'static str, i32),
}

/// Waits until `/status` names the fault, and checks that the page and `bearerd status` say the same.
async fn is_named(world: &World, fault: &Fault) {
    let mut last = Value::Null;
    let named = async {
        loop {
            last = status(world).await;
            let all = last["attention"].as_array().unwrap();
            let is_it = |one: &&Value| one["subject"] == fault.subject && one["reason"] == fault.reason;
            if let Some(finding) = all.iter().find(is_it)
                && last["credentials"][0]["state"] == fault.credential.0
            {
                return finding.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let finding = timeout(Duration::from_secs(20), named).await;
    let finding = finding.unwrap_or_else(|_| panic!("{} {}: {last:#}", fault.subject, fault.reason));
    let text = |member: &str| finding[member].as_str().unwrap_or_default().to_owned();
    assert_eq!((text("state").as_str(), &finding["needs_person"]), (fault.state, &fault.needs_person.into()));
    assert!(text("help").contains(fault.help) && text("detail").contains(fault.detail), "{finding:#}");

    let (_, page) = world.admin_get("/").await;
    let (_, section) = page.split_once("id=\"attention\"").unwrap_or_else(|| panic!("{page}"));
    let (section, _) = section.split_once("</section>").unwrap();
    let shown =
        section.replace("<code>", "`").replace("</code>", "`").replace("&#34;", "\"").replace("&#39;", "'");
    let capital = fault.help[..1].to_uppercase() + &fault.help[1..];
    let says_help = shown.contains(fault.help) || shown.contains(&capital);
    assert!(says_help && shown.contains(fault.detail) && shown.contains(fault.reason), "{shown}");
    assert_eq!(shown.contains("needs a person"), fault.needs_person, "{shown}");
    let headline = page.split_once("<h1>").unwrap().1.split_once("</h1>").unwrap().0;
    assert!(
        ["attention", "unusable", "degraded", "person"].iter().any(|word| headline.contains(word)),
        "{headline}"
    );

    let (code, printed) = command(world, &[]).await;
    assert_eq!(code, fault.credential.1, "{printed}");
    let paragraph =
        printed.split("\n\n").find(|one| one.contains(fault.reason) && one.contains("what to do"));
    let paragraph = paragraph.unwrap_or_else(|| panic!("{printed}"));
    assert!(paragraph.starts_with(fault.subject), "{printed}");
    assert!(paragraph.contains(fault.help) && paragraph.contains(fault.detail), "{printed}");
    assert_eq!(paragraph.contains("needs a person"), fault.needs_person, "{printed}");
}

/// A daemon whose credential has one-time refresh tokens and a state on disk.
async fn with_refresh_tokens(folder: &tempfile::TempDir, more: &str) -> World {
    let file = folder.path().join("refresh");
    daemon()
        .server(&format!("state_dir = \"{}\"", folder.path().display()))
        .environment("STATE_KEY", KEY)
        .credential("state_key = { env = \"STATE_KEY\" }\ngrant = \"refresh_token\"")
        .credential(&format!("refresh_token = {{ file = \"{}\" }}\n{ROOMY}\n{more}", file.display()))
        .start_after(async |server| fs::write(&file, server.authorize()).unwrap())
        .await
}

const CREDENTIAL: Fault = Fault {
    subject: "credential",
    state: "unusable",
    reason: "",
    needs_person: false,
    detail: "",
    help: "",
    credential: ("unusable", 1),
};

#[tokio::test]
async fn a_wrong_client_secret_is_named_with_its_remedy() {
    let world = daemon().secret("\"not-the-secret\"").without_token().start().await;
    let fault = Fault {
        reason: "client_rejected",
        needs_person: true,
        detail: "invalid_client",
        help: "check `client_id`, the secret or key",
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;
    world.finish().await;
}

/// An operator who looks later sees when it began.
#[tokio::test]
async fn a_state_began_when_it_changed_and_not_when_somebody_looked() {
    let world = daemon().secret("\"not-the-secret\"").without_token().start().await;
    world.process.event("token refresh failed").await;
    tokio::time::sleep(Duration::from_secs(4)).await;

    let one = status(&world).await["credentials"][0].clone();

    let since: jiff::Timestamp = one["since"].as_str().unwrap().parse().unwrap();
    let seconds = jiff::Timestamp::now().duration_since(since).as_secs();
    assert!((2..60).contains(&seconds), "{one:#}");
    world.finish().await;
}

/// The only route rejects the token, and no other can be had.
#[tokio::test]
async fn a_revoked_token_that_no_refresh_replaces_is_named_with_its_remedy() {
    let world = daemon().credential(ROOMY).limits("token_wait = \"300ms\"").start().await;
    world.authorization.revoke_all();
    for _ in 0..100 {
        world.authorization.answer_next(Answer::status(500, "{}"));
    }
    world.get("/x").await;

    let fault = Fault {
        reason: "token_endpoint_unavailable",
        detail: "answered 500",
        help: "the authorization server has an internal error",
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    let one = status(&world).await["credentials"][0].clone();
    let seconds = |member: &str| {
        let time: jiff::Timestamp =
            one[member].as_str().unwrap_or_else(|| panic!("{one:#}")).parse().unwrap();
        time.duration_since(jiff::Timestamp::now()).as_secs()
    };
    assert!(seconds("next_attempt_at") < 30, "the rejected token is due at once: {one:#}");
    world.authorization.forget_queue();
    let well = async || status(&world).await["attention"].as_array().unwrap().is_empty();
    crate::harness::eventually("recovery", well).await;
    world.finish().await;
}

/// The authorization server issues the rejected token again: the route is held, and its callers get the 401.
#[tokio::test]
async fn a_revoked_token_that_is_issued_again_is_named_with_its_remedy() {
    let world = daemon().credential(ROOMY).start().await;
    world.authorization.revoke_all();
    world.authorization.answer_next(Answer::SameAgain);

    assert_eq!(world.get("/x").await.status, 401);

    let fault = Fault {
        subject: "route",
        state: "degraded",
        reason: "token_rejected",
        detail: "the authorization server issues the same one again; callers get its 401 until the hold ends",
        help: "have the provider issue another token",
        credential: ("degraded", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    let status = status(&world).await;
    let (credential, hold) = (&status["credentials"][0], &status["routes"][0]["hold"]);
    assert_eq!(credential["reason"], "token_rejected");
    assert_eq!((&hold["outcome"], &hold["status_codes"]), (&"same_token_again".into(), &[401].into()));
    assert_eq!(hold["credential"], "api");
    assert!(hold["since"].is_string() && hold["until"].is_string(), "{hold}");
    world.finish().await;
}

/// One path is forbidden: its route is held, and the credential is well as soon as another path accepts the token.
#[tokio::test]
async fn a_path_that_rejects_every_token_is_named_and_leaves_the_credential_valid() {
    let world = daemon().credential(ROOMY).start().await;
    assert_eq!(world.get("/forbidden").await.status, 401);
    assert_eq!(status(&world).await["credentials"][0]["reason"], "token_rejected");
    assert_eq!(world.get("/x").await.status, 200);

    let fault = Fault {
        subject: "route",
        state: "degraded",
        reason: "token_rejected",
        detail: "and a fresh one too; callers get its 401 until the hold ends",
        help: "check what callers request",
        credential: ("valid", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;
    assert_eq!(status(&world).await["routes"][0]["hold"]["outcome"], "fresh_token_rejected");
    world.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_is_named_with_its_remedy() {
    let world = daemon().token_url("http://127.0.0.1:1/token".to_owned()).without_token().start().await;
    let fault = Fault {
        reason: "token_endpoint_unavailable",
        detail: "Connection refused",
        help: "check the host in `token_url`",
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;
    world.finish().await;
}

#[tokio::test]
async fn a_throttled_credential_is_named_with_its_remedy_and_its_next_attempt() {
    let setup = daemon().without_token();
    let world = setup.start_after(async |server| server.answer_next(Answer::too_many(600))).await;
    let fault = Fault {
        reason: "token_endpoint_rate_limited",
        detail: "and wants none before 2",
        help: "this client made too many token requests",
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    let one = status(&world).await["credentials"][0].clone();
    assert!(one["not_before"].is_string() && one["next_attempt_at"].is_string(), "{one}");
    assert_eq!(one["last_error"]["outcome"], "throttled");
    let (_, printed) = command(&world, &[]).await;
    // Up to a second is added at random.
    assert!(printed.contains("attempt in 9 min") || printed.contains("attempt in 10 min"), "{printed}");
    world.finish().await;
}

#[tokio::test]
async fn an_api_that_is_down_is_named_with_its_remedy_before_and_after_its_breaker_opens() {
    let world = daemon().upstream("http://127.0.0.1:1".to_owned()).start().await;
    world.get("/x").await;
    let mut fault = Fault {
        subject: "upstream",
        state: "degraded",
        reason: "upstream_unreachable",
        detail: "Connection refused",
        help: "check that the API answers, its address in `upstream`",
        credential: ("valid", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    crate::harness::eventually("the breaker opens", async || {
        world.get("/x").await;
        status(&world).await["upstreams"][0]["breaker"] == "open"
    })
    .await;
    (fault.state, fault.reason) = ("unusable", "upstream_unavailable");
    is_named(&world, &fault).await;
    world.finish().await;
}

#[tokio::test]
async fn a_state_that_cannot_be_written_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let world = with_refresh_tokens(&folder, "").await;
    assert_eq!(status(&world).await["credentials"][0]["durable"], true);
    world.process.limit_files(Some(16));
    world.admin_post("/credentials/api/refresh").await;

    let fault = Fault {
        state: "degraded",
        reason: "state_not_durable",
        help: "let bearerd write the state file of the credential",
        credential: ("valid", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    assert_eq!(status(&world).await["credentials"][0]["durable"], false);
    world.process.limit_files(None);
    let durable = async || status(&world).await["attention"].as_array().unwrap().is_empty();
    crate::harness::eventually("durable again", durable).await;
    world.finish().await;
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_named_with_its_remedy() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let end = SystemTime::now() + Duration::from_hours(3 * 24 + 1);
    let issued = pki.another_server(&["localhost"], Some(end)).unwrap();
    let world = daemon().tls(&issued).start_with(pki, async |_| {}).await;
    let fault = Fault {
        subject: "certificate",
        state: "degraded",
        reason: "certificate_expires",
        detail: "shown to callers",
        help: "renew it, and replace its file",
        credential: ("valid", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;
    let (_, printed) = command(&world, &[]).await;
    assert!(printed.contains("certificate localhost") && printed.contains("in 3 days"), "{printed}");
    world.finish().await;
}

#[tokio::test]
async fn a_rotation_limit_is_named_with_its_remedy_before_and_after_it_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let world = with_refresh_tokens(&folder, "max_rotations = 3").await;
    assert_eq!(status(&world).await["attention"], Value::Array(Vec::new()));
    world.admin_post("/credentials/api/refresh").await;

    let mut fault = Fault {
        state: "degraded",
        reason: "rotation_limit_near",
        help: "or raise `max_rotations`: the refresh token was replaced 2 of 3 times",
        credential: ("valid", 0),
        ..CREDENTIAL
    };
    is_named(&world, &fault).await;

    world.admin_post("/credentials/api/refresh").await;
    world.admin_post("/credentials/api/refresh").await;
    fault = Fault { reason: "rotation_limit", needs_person: true, help: "or raise `max_rotations`", ..fault };
    fault.credential = ("degraded", 0);
    is_named(&world, &fault).await;
    world.finish().await;
}
