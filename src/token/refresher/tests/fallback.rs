//! The refresh loop with a grant to fall back on, on a real disk and in paused time.

use std::path::Path;

use super::state::{Server, configured_with, end, on_disk, put, refresh_token, run, with};
use super::*;

fn falling_back(folder: &Path, lines: &str) -> Arc<Credential> {
    configured_with(folder, &format!("fallback = \"client_credentials\"\n{ROOMY}\n{lines}"))
}

const FIRST: &str = "refresh_token = \"first\"";

#[tokio::test(start_paused = true)]
async fn after_a_refused_refresh_token_the_fallback_is_used_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let credential = falling_back(folder.path(), FIRST);
    let (source, task) = run(&server, &credential);
    let started = tokio::time::Instant::now();

    assert!(source.wait(Duration::from_secs(10)).await.is_ok());

    assert_eq!(started.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(source.current().is_some() && source.failure().is_none());
    end(task).await;
    let (source, _task) = run(&server, &credential);
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(source.current().is_some());
    let asked = server.asked();
    assert_eq!(asked[..2], ["first", "client_credentials"]);
    assert!(asked.len() > 5 && asked[1..].iter().all(|with| with == "client_credentials"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_the_fallback_is_used_and_its_refresh_token_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("its-own", "a"))]);
    let (source, _task) = run(&server, &falling_back(folder.path(), ""));
    let generation = source.wait(HOUR).await.unwrap().generation();

    let state = on_disk(folder.path());
    assert_eq!((refresh_token(&state), state.rotations), ("its-own", 0));
    assert!(source.replace(generation, HOUR).await.is_ok());
    assert_eq!(server.asked(), ["client_credentials", "its-own"]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_the_fallback_resets_the_rotations_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let answers = ["r1", "r2", "of-fallback", "r4"].map(|token| Ok(with(token, token)));
    let server = Server::answering(answers);
    let credential = falling_back(folder.path(), &format!("max_rotations = 2\n{FIRST}"));
    let mut generation = Generation::NONE;
    for _ in 0..4 {
        let (source, task) = run(&server, &credential);
        generation = source.replace(generation, HOUR).await.unwrap().generation();
        end(task).await;
    }

    assert_eq!(server.asked(), ["first", "r1", "client_credentials", "of-fallback"]);
    assert_eq!(on_disk(folder.path()).rotations, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_that_the_fallback_brings_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant()), Ok(with("first", "a"))]);
    let (source, _task) = run(&server, &falling_back(folder.path(), FIRST));
    let generation = source.wait(HOUR).await.unwrap().generation();

    assert!(source.replace(generation, HOUR).await.is_ok());

    assert_eq!(server.asked(), ["first", "client_credentials", "client_credentials"]);
}

#[tokio::test(start_paused = true)]
async fn another_refresh_token_in_the_state_takes_precedence_over_the_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let (source, _task) = run(&server, &falling_back(folder.path(), FIRST));
    let generation = source.wait(HOUR).await.unwrap().generation();
    put(folder.path(), "from-elsewhere").await;

    assert!(source.replace(generation, HOUR).await.is_ok());

    assert_eq!(server.asked(), ["first", "client_credentials", "from-elsewhere"]);
}

#[tokio::test(start_paused = true)]
async fn another_configured_refresh_token_takes_precedence_over_the_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("refresh");
    std::fs::write(&file, "first").unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let lines = format!("refresh_token = {{ file = \"{}\" }}", file.display());
    let (source, _task) = run(&server, &falling_back(folder.path(), &lines));
    let generation = source.wait(HOUR).await.unwrap().generation();
    std::fs::write(&file, "second").unwrap();

    assert!(source.replace(generation, HOUR).await.is_ok());

    assert_eq!(server.asked(), ["first", "client_credentials", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_is_refused_too_is_reported_with_both_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering((0..20).map(|_| Err(invalid_grant())));
    let (source, _task) = run(&server, &falling_back(folder.path(), FIRST));
    let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();

    assert_eq!(unavailable.reason, Reason::ReauthorizationRequired);
    assert_eq!(unavailable.retry_after, None);
    let told = unavailable.failure.unwrap().to_string();
    assert!(told.contains("the fallback was refused too"), "{told}");
    assert_eq!(told.matches("a person must authorize").count(), 1, "{told}");
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(server.asked(), ["first", "client_credentials"]);

    // Another refresh token in the state ends the latch.
    put(folder.path(), "from-elsewhere").await;
    server.answers.lock().unwrap().clear();
    tokio::time::sleep(STATE_RECHECK_INTERVAL + STATE_RECHECK_INTERVAL).await;
    assert!(source.current().is_some());
    assert!(server.asked().contains(&"from-elsewhere".to_owned()), "{:?}", server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_fallback_counts_against_the_quota_and_not_against_the_forced_one() {
    let folder = tempfile::tempdir().unwrap();
    let quota = "quota = { requests = 6, per = \"1h\" }";
    let server =
        Server::answering([Ok(with("r1", "a")), Err(invalid_grant())].into_iter().chain((0..9).map(
            |number| Ok(TokenResponse { lifetime: Some(24 * HOUR), ..grant(&format!("f{number}"), 0) }),
        )));
    let lines = format!("fallback = \"client_credentials\"\n{FIRST}\n{quota}");
    let (source, _task) = run(&server, &configured_with(folder.path(), &lines));
    let mut generation = source.wait(HOUR).await.unwrap().generation();
    // The first forced refresh is answered by two requests, of which one is forced.
    for _ in 0..3 {
        generation = source.replace(generation, Duration::from_secs(10)).await.unwrap().generation();
    }
    let fourth = source.replace(generation, Duration::from_secs(10)).await;

    assert!(
        matches!(&fourth, Err(NotReplaced::Unavailable(unavailable)) if unavailable.reason == Reason::QuotaExhausted),
        "{fourth:?}"
    );
    assert_eq!(server.asked().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_the_fallback_brought_is_not_used_for_another_principal() {
    let of =
        |user: &str| format!("fallback = \"password\"\nusername = \"{user}\"\npassword = \"p\"\n{ROOMY}");
    for (second, expected) in [("alice", "of-alice"), ("bob", "password")] {
        let folder = tempfile::tempdir().unwrap();
        // The second answer replaces the refresh token, which remains the fallback's.
        let server = Server::answering([Ok(with("first", "a")), Ok(with("of-alice", "b"))]);
        let (source, task) = run(&server, &configured_with(folder.path(), &of("alice")));
        let generation = source.wait(HOUR).await.unwrap().generation();
        assert!(source.replace(generation, HOUR).await.is_ok());
        end(task).await;

        let (source, _task) = run(&server, &configured_with(folder.path(), &of(second)));
        assert_eq!(source.current().is_some(), second == "alice");
        let generation = source.generation();
        assert!(source.replace(generation, HOUR).await.is_ok());

        assert_eq!(server.asked(), ["password", "first", expected], "{second}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_of_a_person_outlives_another_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a"))]);
    let (source, task) = run(&server, &falling_back(folder.path(), FIRST));
    assert!(source.wait(HOUR).await.is_ok());
    end(task).await;

    let other = format!("fallback = \"password\"\nusername = \"u\"\npassword = \"p\"\n{FIRST}\n{ROOMY}");
    let (source, _task) = run(&server, &configured_with(folder.path(), &other));
    assert!(source.wait(HOUR).await.is_ok());

    assert_eq!(server.asked(), ["first", "second"]);
}
