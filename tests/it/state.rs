//! The state on disk: grant, token and waiting time survive a restart, a kill and a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bearerd::clock::Clock;
use bearerd::config;
use bearerd::config::Environment;
use bearerd::token::DurableState;
use rustix::process::Signal;
use secrecy::ExposeSecret;
use tempfile::TempDir;
use testkit::authorization_server::Answer;

use crate::harness::{Request, Setup, World, daemon, eventually, remains, spawn};
use testkit::harness::setup::CLIENT_SECRET;
use testkit::harness::world::assert_absent;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A folder for a state and a configured refresh token.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self(folder)
    }

    fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn state_file(&self) -> PathBuf {
        self.state_dir().join("api.state")
    }

    /// How often the state was written, as the lock file says.
    fn writes(&self) -> u64 {
        let lock = fs::read_to_string(self.state_dir().join("api.state.lock")).unwrap_or_default();
        lock.lines().find_map(|line| line.strip_prefix("write ")?.parse().ok()).unwrap_or_default()
    }

    fn refresh_token_file(&self) -> PathBuf {
        self.0.path().join("refresh")
    }

    fn setup(&self) -> Setup {
        daemon()
            .server(&format!("state_dir = \"{}\"", self.state_dir().display()))
            .credential("quota = { requests = 1000, per = \"1s\" }")
    }

    fn setup_with_key(&self) -> Setup {
        self.setup().environment("STATE_KEY", KEY).credential("state_key = { env = \"STATE_KEY\" }")
    }

    /// Starts a daemon with a grant of one-time refresh tokens.
    async fn start(&self, setup: Setup) -> World {
        let file = self.refresh_token_file();
        setup
            .credential("grant = \"refresh_token\"")
            .credential(&format!("refresh_token = {{ file = \"{}\" }}", file.display()))
            .start_after(async |server| fs::write(&file, server.authorize()).unwrap())
            .await
    }
}

/// The refresh token on disk. The daemon must have ended.
fn refresh_token_on_disk(world: &World) -> Option<String> {
    let variables = [("API_SECRET", CLIENT_SECRET), ("STATE_KEY", KEY)];
    let checked = config::load(&world.folder().join("proxy.toml"), &Environment::from(variables)).unwrap();
    let state = DurableState::open(&checked.config.credentials[0], Clock::system()).unwrap();
    state.state().refresh_token.as_ref().map(|token| token.expose_secret().to_owned())
}

fn refresh_token_of(form: &[(String, String)]) -> &str {
    form.iter().find(|(name, _)| name == "refresh_token").map(|(_, value)| value.as_str()).unwrap()
}

#[tokio::test]
async fn each_refresh_token_is_used_once_and_a_restart_uses_the_last() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key().lifetime(2)).await;
    eventually("three rotations", async || world.authorization.requests() >= 3).await;
    world.process.signal(Signal::TERM);
    world.process.ended().await;
    let before = world.authorization.requests();

    world.start_again().await;
    eventually("two more", async || world.authorization.requests() >= before + 2).await;
    assert_eq!(world.get("/x").await.status, 200);

    let tokens = world.authorization.refresh_tokens();
    for (asked, token) in world.authorization.asked().iter().zip(tokens.all()) {
        assert_eq!(refresh_token_of(&asked.form), token);
    }
    assert_eq!(tokens.reuses(), 0);
    world.finish().await;
}

/// Other requests time out after ten seconds. A request that spends a refresh token has a minute, because its answer is lost
/// if nobody waits for it.
#[tokio::test]
async fn a_late_answer_to_a_request_that_spends_a_refresh_token_is_taken() {
    let place = Place::new();
    let world = place.start(place.setup_with_key().lifetime(60)).await;
    assert_eq!(world.get("/x").await.status, 200);
    let asked = world.authorization.requests();
    world.authorization.answer_next(Answer::Late(Duration::from_secs(11)));
    world.authorization.revoke_all();

    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    eventually("a token", async || world.get("/x").await.status == 200).await;

    assert_eq!(world.authorization.requests(), asked + 1);
    assert_eq!(world.authorization.refresh_tokens().reuses(), 0);
    world.finish().await;
}

/// A kill loses a grant only between the server's use of a refresh token and the write of its successor, which no client
/// can avoid. Such a kill leaves the used token in the state, and the test undoes its use.
#[tokio::test]
async fn forty_kills_at_any_moment_lose_no_grant() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key().lifetime(2)).await;
    // With this delay a kill can come before the answer, during the write, or after it.
    world.authorization.set_delay(Duration::from_millis(5));
    let (mut rotations, mut in_the_window) = (0, 0);
    for kill in 0..40 {
        let before = world.authorization.requests();
        let mut was_used = false;
        if kill % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..700))).await;
        } else {
            // In the middle of a refresh, as near as possible.
            eventually("ready", async || world.admin_status("/readyz").await == 200).await;
            let mut caller = world.caller().await;
            world.authorization.revoke_all();
            let request = Request::get("/x");
            let asked = async {
                while world.authorization.requests() == before {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..12))).await;
            };
            let answered = async {
                was_used = caller.try_send(&request).await.is_ok_and(|reply| reply.status == 200);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = asked => {}
                () = answered => {}
            }
        }
        world.kill().await;
        // The server still answers requests of the dead process.
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rotations += world.authorization.requests() - before;

        let tokens = world.authorization.refresh_tokens();
        let kept = refresh_token_on_disk(&world);
        let kept = kept.as_deref().or(tokens.all().first().map(String::as_str));
        assert!(kept == tokens.latest() || kept == tokens.before(), "kill {kill} lost the grant");
        let is_in_the_window = world.authorization.take_back(kept.unwrap());
        assert!(
            !(is_in_the_window && was_used),
            "kill {kill}: a token was used before its grant was durable"
        );
        in_the_window += u32::from(is_in_the_window);
        assert_eq!(tokens.reuses(), 0);
        world.start_again().await;
    }
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    // Right after a refresh: the token of a refresh under way would be revoked too.
    let refreshes = || world.process.events("token refreshed").len();
    let before = refreshes();
    eventually("a refresh", async || refreshes() > before).await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert!(rotations >= 10, "{rotations} rotations, {in_the_window} kills in the window");
    world.finish().await;
}

#[tokio::test]
async fn twenty_restarts_on_a_valid_token_make_one_token_request() {
    let place = Place::new();
    let mut world = place.setup_with_key().start().await;
    for _ in 0..20 {
        world.kill().await;
        world.start_again().await;
        assert_eq!(world.get("/x").await.status, 200);
    }
    assert_eq!(world.authorization.requests(), 1);
    assert_eq!(world.process.event("token resumed").await["generation"], 1);
    world.finish().await;
}

#[tokio::test]
async fn twenty_restarts_while_told_to_wait_make_one_token_request() {
    let place = Place::new();
    for setup in [place.setup(), place.setup_with_key()] {
        let before = place.writes();
        let mut world = setup
            .without_token()
            .start_after(async |server| {
                for _ in 0..30 {
                    server.answer_next(Answer::too_many(60));
                }
            })
            .await;
        for _ in 0..20 {
            // The first daemon has written its request and the answer; the later ones know them.
            eventually("told", async || place.writes() >= before + 2).await;
            world.kill().await;
            world.start_again().await;
            let reply = world.get("/x").await;
            assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_rate_limited")));
        }
        assert_eq!(world.authorization.requests(), 1);
        world.finish().await;
        fs::remove_file(place.state_file()).unwrap();
    }
}

#[tokio::test]
async fn a_stored_token_of_other_settings_is_not_used() {
    let place = Place::new();
    let mut world = place.setup_with_key().start().await;
    world.kill().await;
    let config = world.folder().join("proxy.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("[credentials.api]", "[credentials.api]\naudience = \"another\""))
        .unwrap();

    world.start_again().await;
    eventually("another token", async || world.authorization.requests() == 2).await;
    world.finish().await;
}

#[tokio::test]
async fn after_a_restart_for_another_principal_the_token_of_the_old_one_is_never_sent() {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    for (grant, old, new) in [
        (
            "grant = \"jwt_bearer\"\nassertion = { key = { file = \"key.pem\" }, alg = \"ES256\", sub = \"alice\" }",
            "sub = \"alice\"",
            "sub = \"bob\"",
        ),
        (
            "grant = \"password\"\nusername = \"alice\"\npassword = { env = \"API_SECRET\" }",
            "username = \"alice\"",
            "username = \"bob\"",
        ),
        ("client_auth = \"client_secret_basic\"", "client_secret_basic", "client_secret_post"),
    ] {
        let place = Place::new();
        let setup = place.setup_with_key().credential(grant).file("key.pem", &pem);
        let mut world = setup.start_after(async |server| server.take_all()).await;
        assert_eq!(world.get("/x").await.status, 200);
        let of_the_old = world.authorization.issued();
        world.kill().await;
        world.configure(|text| text.replace(old, new));
        let before = world.upstream.requests().len();
        // The new principal gets no token yet; the old one's would do.
        world.authorization.answer_next(Answer::too_many(2));

        world.start_again().await;
        assert_eq!(world.get("/x").await.status, 200);

        let sent = world.upstream.requests().split_off(before);
        assert!(!sent.is_empty());
        for seen in sent {
            let token = seen.get("authorization").unwrap().to_owned();
            assert!(!of_the_old.iter().any(|old| token.ends_with(old.as_str())), "{new}");
        }
        assert_eq!(world.authorization.requests(), 3, "{new}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_restart_with_another_client_secret_is_not_felt() {
    let place = Place::new();
    let setup = place.setup_with_key().secret("{ file = \"secret\" }").file("secret", CLIENT_SECRET);
    let mut world = setup.start().await;
    world.kill().await;
    fs::write(world.folder().join("secret"), "not-the-secret").unwrap();

    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200, "with the token of before");
    // An operator who has changed a secret learns whether it works.
    world.process.event("token refresh failed").await;
    assert_eq!(world.authorization.requests(), 2);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// Also while the daemon runs.
#[tokio::test]
async fn a_new_subject_token_is_asked_with_at_once_and_the_old_token_serves_until_then() {
    let place = Place::new();
    let subject = place.0.path().join("subject");
    fs::write(&subject, "first").unwrap();
    let line = format!("grant = \"token_exchange\"\nsubject_token = {{ file = \"{}\" }}", subject.display());
    let mut world =
        place.setup_with_key().credential(&line).start_after(async |server| server.take_all()).await;
    world.authorization.answer_next(Answer::status(503, "{}"));

    fs::write(&subject, "second").unwrap();
    eventually("refused in passing", async || world.authorization.requests() == 2).await;
    assert_eq!(world.get("/x").await.status, 200);
    eventually("asked again", async || world.authorization.issued().len() == 2).await;

    world.kill().await;
    fs::write(&subject, "third").unwrap();
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    eventually("asked at once", async || world.authorization.issued().len() == 3).await;
    let asked = world.authorization.asked();
    let subjects: Vec<_> = asked
        .iter()
        .map(|asked| asked.form.iter().find(|(name, _)| name == "subject_token").unwrap().1.as_str())
        .collect();
    assert_eq!(subjects, ["first", "second", "second", "third"]);
    world.finish().await;
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_which_process_has_the_state() {
    let place = Place::new();
    let world = place.start(place.setup_with_key()).await;

    let mut second = world.another();
    assert_eq!(second.ended().await.code(), Some(1));

    let refused = second.event("not started").await;
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("is in use by process ") && error.contains(" on "), "{error}");
    assert!(refused["help"].as_str().unwrap().contains("stop the other process"), "{refused}");
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

/// Starts a daemon that refuses its state, and returns the output.
async fn refused(world: &World, code: i32) -> serde_json::Value {
    let mut process = world.another();
    assert_eq!(process.ended().await.code(), Some(code), "{}", process.output());
    process.event("not started").await
}

#[tokio::test]
async fn a_damaged_state_is_refused_with_the_reason_and_left_unchanged() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    world.kill().await;
    let whole = fs::read(place.state_file()).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(place.state_file(), half).unwrap();

    let event = refused(&world, 78).await;

    assert!(event["error"].as_str().unwrap().contains("it is truncated"), "{event}");
    assert!(event["help"].as_str().unwrap().contains("bearerd forget"), "{event}");
    assert_eq!(fs::read(place.state_file()).unwrap(), half);
    fs::write(place.state_file(), whole).unwrap();
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn without_a_refresh_token_a_damaged_state_is_moved_aside() {
    let place = Place::new();
    let mut world = place.setup_with_key().start().await;
    for (number, content) in [(1, b"".as_slice()), (2, b"something else".as_slice())] {
        world.kill().await;
        fs::write(place.state_file(), content).unwrap();
        let before = world.authorization.requests();

        world.start_again().await;

        let event = world.process.event("damaged state moved aside, started without it").await;
        let aside = place.state_dir().join(format!("api.state.corrupt-{number}"));
        assert_eq!((&event["level"], &event["moved_to"]), (&"ERROR".into(), &aside.to_str().into()));
        assert_eq!(fs::read(aside).unwrap(), content);
        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(world.authorization.requests(), before + 1);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_refresh_token_of_another_client_is_not_discarded() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    world.kill().await;
    let before = fs::read(place.state_file()).unwrap();
    world.configure(|text| text.replace("client_id = \"", "client_id = \"another-"));

    let event = refused(&world, 78).await;

    assert!(event["error"].as_str().unwrap().contains("belongs to another credential"), "{event}");
    assert!(event["help"].as_str().unwrap().contains("bearerd forget"), "{event}");
    assert_eq!(fs::read(place.state_file()).unwrap(), before);
    world.check();
}

const NEW_KEY: &str = "OTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTBmZWRjYmE=";

#[tokio::test]
async fn one_start_with_the_previous_key_replaces_a_state_key() {
    let place = Place::new();
    let key = place.0.path().join("key");
    fs::write(&key, KEY).unwrap();
    let line = format!("state_key = {{ file = \"{}\" }}", key.display());
    let mut world = place.start(place.setup().credential(&line)).await;
    world.kill().await;
    fs::write(&key, NEW_KEY).unwrap();

    // `run` and `check` refuse the new key alone.
    let event = refused(&world, 78).await;
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("encrypted under another key than `state_key`"), "{event}");
    assert!(event["help"].as_str().unwrap().contains("as state_key_previous"), "{event}");
    let environment = [("API_SECRET".to_owned(), CLIENT_SECRET.to_owned())];
    let check = async || {
        let mut check = spawn(&["check"], &environment, &world.folder());
        (check.ended().await.code(), check.output())
    };
    let (code, said) = check().await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("encrypted under another key") && said.contains("state_key_previous"), "{said}");

    // With the previous key beside it, token and grant are read.
    let config = world.folder().join("proxy.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(place.0.path().join("previous"), KEY).unwrap();
    let previous =
        format!("state_key_previous = [{{ file = \"{}\" }}]", place.0.path().join("previous").display());
    fs::write(&config, text.replace(&line, &format!("{line}\n{previous}"))).unwrap();
    let (code, said) = check().await;
    assert_eq!(code, Some(0), "{said}");
    world.start_again().await;
    world.process.event("state encrypted anew under state_key, state_key_previous can go").await;
    assert_eq!(world.get("/x").await.status, 200);
    world.kill().await;

    // The previous key is not needed a second time.
    fs::write(&config, text).unwrap();
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);
    for key in [KEY, NEW_KEY] {
        assert_absent(&world.process.output(), key);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_missing_state_folder_is_reported_with_the_remedy() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    world.kill().await;
    fs::rename(place.state_dir(), place.0.path().join("elsewhere")).unwrap();

    let event = refused(&world, 78).await;

    assert!(event["error"].as_str().unwrap().contains("cannot open the folder"), "{event}");
    assert!(event["help"].as_str().unwrap().contains("mkdir -m 700"), "{event}");
    world.check();
}

/// A rejected refresh token is not sent again.
#[tokio::test]
async fn a_rejected_refresh_token_is_not_sent_again_until_replaced() {
    let place = Place::new();
    let world = place.start(place.setup_with_key()).await;
    let next = world.authorization.authorize();
    world.authorization.revoke_all();

    // The token is revoked and the grant has ended.
    for _ in 0..20 {
        let reply = world.get("/x").await;
        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("reauthorization_required")));
        assert_eq!(reply.get("retry-after"), None);
    }
    remains("no further request", Duration::from_secs(2), async || world.authorization.requests() == 2).await;
    assert_eq!(world.authorization.requests(), 2);
    let event = world.process.event("reauthorization required").await;
    assert_eq!(event["event"], "credential.reauthorization_required");
    assert_eq!(event["needs_person"], true);
    assert_eq!(world.process.events("reauthorization required").len(), 1);

    fs::write(place.refresh_token_file(), next).unwrap();
    eventually("mended", async || world.get("/x").await.status == 200).await;
    assert_eq!(world.authorization.requests(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_refresh_in_progress_at_the_stop_is_finished_and_stored() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    world.authorization.set_delay(Duration::from_secs(1));
    world.authorization.revoke_all();
    let mut caller = world.caller().await;
    let request = Request::get("/x");
    tokio::select! {
        _ = caller.try_send(&request) => panic!("it takes a second"),
        () = eventually("asked", async || world.authorization.requests() == 2) => {}
    }
    drop(caller);

    world.process.signal(Signal::TERM);
    assert_eq!(world.process.ended().await.code(), Some(0));

    let tokens = world.authorization.refresh_tokens();
    assert_eq!(tokens.all().len(), 3);
    assert_eq!(refresh_token_on_disk(&world).as_deref(), tokens.latest());
    world.check();
}

/// The server has used the refresh token, and no client can tell: the grant is not condemned at once.
#[tokio::test]
async fn a_refresh_token_refused_after_a_kill_is_tried_again_and_not_condemned() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    world.authorization.set_delay(Duration::from_mins(1));
    world.authorization.revoke_all();
    let mut caller = world.caller().await;
    let request = Request::get("/x");
    tokio::select! {
        _ = caller.try_send(&request) => panic!("it takes a minute"),
        () = eventually("asked", async || world.authorization.requests() == 2) => {}
    }
    drop(caller);
    world.kill().await;
    world.authorization.set_delay(Duration::ZERO);
    world.authorization.answer_next(Answer::status(400, r#"{"error":"invalid_grant"}"#));
    world.start_again().await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    let wait: u64 = reply.get("retry-after").unwrap().parse().unwrap();
    assert!((20..=30).contains(&wait), "{wait}");
    let event = world.process.event("token refresh failed").await;
    assert_eq!(event["outcome"], "refused_in_passing");
    assert_eq!(event["needs_person"], false);
    world.finish().await;
}

/// An end that the server names and does not move is reported once.
#[tokio::test]
async fn the_end_of_a_refresh_token_is_shown_and_warned_of() {
    let place = Place::new();
    let world = place.start(place.setup_with_key()).await;
    for (token, end) in [("one", "\"7200\""), ("two", "7200")] {
        let body = format!(
            "{{\"access_token\":\"{token}\",\"expires_in\":6,\"refresh_token\":\"same\",\
             \"refresh_expires_in\":{end}}}"
        );
        let body = if token == "two" { body.replace(",\"refresh_expires_in\":7200", "") } else { body };
        world.authorization.answer_next(Answer::status(200, &body));
    }
    for generation in [2, 3] {
        let (status, refreshed) = world.admin_post("/credentials/api/refresh").await;
        assert_eq!((status, &refreshed["generation"]), (200, &generation.into()));
    }

    let event = world.process.event("refresh token ends soon").await;

    assert_eq!(event["event"], "credential.grant_expiring");
    let left = event["ends_in_seconds"].as_u64().unwrap();
    assert!((7100..=7200).contains(&left), "{left}");
    let (_, shown) = world.admin_get("/credentials/api").await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let end = shown["refresh_token_expires_at"].as_str().unwrap().to_owned();
    assert!(end.ends_with('Z') && end.len() == 24, "{end}");
    world.finish().await;
}

/// FLT-SIG-04.
#[tokio::test]
async fn a_second_signal_waits_only_for_a_refresh_token_in_use() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key()).await;
    let mut stuck = world.caller().await;
    stuck.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the request", async || !world.upstream.requests().is_empty()).await;
    world.authorization.set_delay(Duration::from_secs(2));
    world.authorization.revoke_all();
    let mut caller = world.caller().await;
    let request = Request::get("/x");
    tokio::select! {
        _ = caller.try_send(&request) => panic!("it takes two seconds"),
        () = eventually("asked", async || world.authorization.requests() == 2) => {}
    }
    world.process.signal(Signal::TERM);
    world.process.event("draining").await;

    world.process.signal(Signal::TERM);

    assert!(stuck.is_closed().await, "it is cut");
    world.process.event("waiting for token requests that use a refresh token").await;
    assert_eq!(world.process.ended().await.code(), Some(0));
    let tokens = world.authorization.refresh_tokens();
    assert_eq!(tokens.all().len(), 3);
    assert_eq!(refresh_token_on_disk(&world).as_deref(), tokens.latest());
    world.check();
}

/// No user can write to a folder that was removed.
#[tokio::test]
async fn on_a_read_only_disk_the_grant_is_kept_in_memory() {
    let place = Place::new();
    let world = place.start(place.setup_with_key().lifetime(2)).await;
    remove_all(&place.state_dir());
    eventually("two more rotations", async || world.authorization.requests() >= 3).await;

    assert_eq!(world.get("/x").await.status, 200);
    let event = world.process.event("state is not durable and kept in memory").await;
    assert_eq!(event["a_restart_loses_the_grant"], true);
    assert!(event["error"].as_str().unwrap().contains("removed or replaced"), "{event}");
    assert_eq!(world.process.events("state is not durable and kept in memory").len(), 1);
    assert_eq!(world.authorization.refresh_tokens().reuses(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_lost_state_folder_or_lock_file_is_made_again_and_admits_no_second_daemon() {
    type Lose = fn(&Place);
    let folder: Lose = |place| {
        remove_all(&place.state_dir());
        fs::create_dir(place.state_dir()).unwrap();
    };
    let lock_file: Lose = |place| fs::remove_file(place.state_dir().join("api.state.lock")).unwrap();
    for lose in [folder, lock_file] {
        let place = Place::new();
        let mut world = place.start(place.setup_with_key()).await;
        lose(&place);
        world.authorization.revoke_all();
        assert_eq!(world.get("/x").await.status, 200);

        let mut second = world.another();
        assert_eq!(second.ended().await.code(), Some(1), "{}", second.output());
        let error = second.event("not started").await["error"].to_string();
        assert!(error.contains("is in use by process "), "{error}");
        world.kill().await;
        let tokens = world.authorization.refresh_tokens();
        assert_eq!(refresh_token_on_disk(&world).as_deref(), tokens.latest());
        assert_eq!(tokens.reuses(), 0);
        world.check();
    }
}

/// A limit on the size of files stands for a full disk; later there is room again.
#[tokio::test]
async fn a_full_disk_is_reported_and_written_when_there_is_room_again() {
    let place = Place::new();
    let mut world = place.start(place.setup_with_key().lifetime(2)).await;
    world.process.limit_files(Some(16));
    let before = world.authorization.requests();
    eventually("two more rotations", async || world.authorization.requests() >= before + 2).await;

    assert_eq!(world.get("/x").await.status, 200);
    let event = world.process.event("state is not durable and kept in memory").await;
    assert_eq!((&event["level"], &event["a_restart_loses_the_grant"]), (&"ERROR".into(), &true.into()));
    assert!(event["error"].as_str().unwrap().contains("the temporary file cannot be written"), "{event}");
    assert_eq!(world.process.events("state is not durable and kept in memory").len(), 1);

    world.authorization.set_lifetime(3600);
    world.process.limit_files(None);
    world.process.event("state is durable again").await;
    // The last token lives for an hour: no request is under way at the kill.
    let is_last = |event: &serde_json::Value| event["lifetime_seconds"] == 3600;
    eventually("the last", async || world.process.events("token refreshed").iter().any(is_last)).await;
    world.kill().await;
    let tokens = world.authorization.refresh_tokens();
    assert_eq!(refresh_token_on_disk(&world).as_deref(), tokens.latest());
    assert_eq!(tokens.reuses(), 0);
    // No temporary file is left.
    let names = fs::read_dir(place.state_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().ends_with(".tmp")));
    world.check();
}

fn remove_all(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn after_max_rotations_no_token_is_requested() {
    let place = Place::new();
    let world = place.start(place.setup_with_key().credential("max_rotations = 2").lifetime(2)).await;
    let event = world.process.event("rotation limit reached").await;
    assert_eq!(event["event"], "rotation.limit_reached");
    assert_eq!(world.get("/x").await.status, 200, "the token is still good");

    eventually("its end", async || world.get("/x").await.code().as_deref() == Some("rotation_limit")).await;
    assert_eq!(world.get("/x").await.get("retry-after"), None);
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

/// Without a key no token is stored, so that each start makes a token request; some are killed during the request.
#[tokio::test]
async fn twenty_restarts_make_no_more_token_requests_than_one_run() {
    let place = Place::new();
    let started = tokio::time::Instant::now();
    let mut world = daemon()
        .server(&format!("state_dir = \"{}\"", place.state_dir().display()))
        .limits("token_wait = \"1s\"")
        .credential("quota = { requests = 5, per = \"60s\" }")
        .start()
        .await;
    let mut kept_back = 0;
    for restart in 0..20 {
        world.kill().await;
        let before = world.authorization.requests();
        world.authorization.set_delay(Duration::from_secs(if restart % 2 == 0 { 60 } else { 0 }));
        world.start_again().await;
        loop {
            if world.authorization.requests() > before {
                break;
            }
            let reply = world.get("/x").await;
            if reply.code().as_deref() == Some("token_quota_exhausted") {
                assert!(reply.get("retry-after").is_some());
                kept_back += 1;
                break;
            }
        }
    }
    let refilled = usize::try_from(started.elapsed().as_secs() / 12).unwrap();
    let asked = world.authorization.requests();
    assert!((5..=5 + refilled).contains(&asked), "{asked} requests, {refilled} refilled");
    assert!(kept_back > 10, "{kept_back}");
    world.finish().await;
}

#[tokio::test]
async fn a_refresh_token_that_is_refused_with_another_code_is_not_sent_again() {
    for (fallback, code) in
        [("", Some("reauthorization_required")), ("fallback = \"client_credentials\"", None)]
    {
        let place = Place::new();
        let world = place.start(place.setup_with_key().credential(fallback)).await;
        let before = world.authorization.requests();
        let refused = "{\"error\":\"bad_refresh_token\",\"error_description\":\"it has expired\"}";
        world.authorization.answer_next(Answer::status(200, refused));
        world.authorization.revoke_all();

        let reply = world.get("/x").await;

        assert_eq!(reply.code().as_deref(), code, "{fallback}: {}", reply.text());
        let grants: Vec<String> =
            world.authorization.asked()[before..].iter().map(|asked| grant_type(&asked.form)).collect();
        let expected: &[&str] =
            if code.is_some() { &["refresh_token"] } else { &["refresh_token", "client_credentials"] };
        assert_eq!(grants, expected);
        world.finish().await;
    }
}

/// The log reports the failure once; no caller notices.
#[tokio::test]
async fn a_rejected_refresh_token_with_a_fallback_is_not_sent_again() {
    let place = Place::new();
    let fallback = "fallback = \"client_credentials\"";
    let mut world = place.start(place.setup_with_key().credential(fallback)).await;
    // A new family of refresh tokens: the daemon's has ended.
    world.authorization.authorize();
    for _ in 0..3 {
        world.authorization.revoke_all();
        assert_eq!(world.get("/x").await.status, 200);
    }
    let event = world.process.event("refresh token not accepted, fallback used").await;
    assert_eq!((&event["event"], &event["level"]), (&"credential.fallback_used".into(), &"WARN".into()));
    assert_eq!((&event["fallback"], &event["needs_person"]), (&"client_credentials".into(), &false.into()));
    assert!(event["error"].as_str().unwrap().contains("invalid_grant"), "{event}");
    assert_eq!(world.process.events("refresh token not accepted, fallback used").len(), 1);

    world.kill().await;
    world.start_again().await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    let grants: Vec<String> =
        world.authorization.asked().iter().map(|asked| grant_type(&asked.form)).collect();
    let mut expected = vec!["refresh_token".to_owned(); 2];
    expected.resize(grants.len(), "client_credentials".to_owned());
    assert_eq!(grants, expected);
    assert_eq!(grants.len(), 6);
    world.finish().await;
}

fn grant_type(form: &[(String, String)]) -> String {
    form.iter().find(|(name, _)| name == "grant_type").map(|(_, value)| value.clone()).unwrap()
}

#[tokio::test]
async fn with_a_key_a_token_has_the_same_fingerprint_after_a_restart() {
    for has_key in [true, false] {
        let place = Place::new();
        let setup = if has_key { place.setup_with_key() } else { place.setup() };
        let mut world = setup.start().await;
        assert_eq!(world.get("/x").await.status, 200);
        let before = world.process.event("request").await["token_fingerprint"].clone();
        let issued = world.process.event("token refreshed").await["fingerprint"].clone();
        assert_eq!((before.as_str().unwrap().len(), &before), (16, &issued));
        if has_key {
            world.kill().await;
            world.start_again().await;
            assert_eq!(world.get("/x").await.status, 200);
            assert_eq!(world.process.event("token resumed").await["fingerprint"], before);
            assert_eq!(world.process.event("request").await["token_fingerprint"], before);
        }
        world.finish().await;
    }
}
