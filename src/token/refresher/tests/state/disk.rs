//! Tests of a disk that is behind, that a person writes to, or that hangs.

use super::*;
use crate::token::state::atomic_file::MAX_STATE_BYTES;

/// A refresh token that is too large for a file leaves the disk with the token before it.
#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_older_refresh_token_on_a_disk_that_is_behind_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let large = "x".repeat(MAX_STATE_BYTES);
    let server = Server::answering([Ok(with("second", "a")), Ok(with(&large, "b")), Err(invalid_grant())]);
    let (source, _task) = run(&server, &configured(folder.path(), "first"));
    let first = source.wait(HOUR).await.unwrap().generation();
    let second = source.replace(first, HOUR).await.unwrap().generation();
    assert_eq!(refresh_token(&on_disk(folder.path())), "second");

    let unavailable = source.replace(second, HOUR).await.unwrap_err();
    assert!(
        matches!(&unavailable, NotReplaced::Unavailable(why) if why.reason == Reason::ReauthorizationRequired),
        "{unavailable:?}"
    );
    tokio::time::sleep(3 * STATE_RECHECK_INTERVAL).await;

    let asked = server.asked();
    assert_eq!(
        (asked.len(), &asked[..2], asked[2] == large),
        (3, &["first".to_owned(), "second".to_owned()][..], true)
    );
    // A state that a person puts there is used.
    put(folder.path(), "from-elsewhere").await;
    tokio::time::sleep(2 * STATE_RECHECK_INTERVAL).await;
    assert_eq!(server.asked().get(3).map(String::as_str), Some("from-elsewhere"));
}

/// A person puts back a copy that the daemon itself has written before.
#[tokio::test(start_paused = true)]
async fn after_a_refusal_an_older_copy_that_was_put_back_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a")), Ok(with("third", "b")), Err(invalid_grant())]);
    let (source, _task) = run(&server, &configured(folder.path(), "first"));
    let first = source.wait(HOUR).await.unwrap().generation();
    let copy = std::fs::read(folder.path().join("c.state")).unwrap();
    let second = source.replace(first, HOUR).await.unwrap().generation();
    std::fs::write(folder.path().join("c.state"), copy).unwrap();

    assert!(source.replace(second, HOUR).await.is_err());
    tokio::time::sleep(3 * STATE_RECHECK_INTERVAL).await;

    assert_eq!(server.asked(), ["first", "second", "third"]);
}

/// No token request is due, and a second daemon would start with the configured refresh token, which has been used.
#[tokio::test(start_paused = true)]
async fn a_state_that_is_removed_is_written_again_within_a_minute() {
    for name in ["c.state", "c.state.lock", ""] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("state");
        std::fs::create_dir(&place).unwrap();
        let server = Server::answering([Ok(TokenResponse { lifetime: Some(HOUR), ..with("second", "a") })]);
        let (source, _task) = run(&server, &configured(&place, "first"));
        source.wait(HOUR).await.unwrap();
        if name.is_empty() {
            std::fs::remove_dir_all(&place).unwrap();
            std::fs::create_dir(&place).unwrap();
        } else {
            std::fs::remove_file(place.join(name)).unwrap();
        }

        tokio::time::sleep(Duration::from_secs(61)).await;

        assert_eq!(refresh_token(&on_disk(&place)), "second", "{name}");
        let second = DurableState::open(&configured(&place, "first"), Clock::tokio());
        assert!(second.is_err(), "{name}: a second daemon can start");
        assert_eq!(server.asked(), ["first"]);
    }
}

/// Puts a state in the place of one, with the number of its tenth write and with this mode.
async fn put_later(folder: &Path, refresh_token: &str, mode: u32) {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = DurableState::open(&configured(elsewhere.path(), "any"), Clock::tokio()).unwrap();
    for _ in 0..10 {
        let token = Some(SecretString::from(refresh_token));
        other.overwrite(State { refresh_token: token, ..State::default() }).await;
    }
    let path = folder.join("c.state");
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(elsewhere.path().join("c.state"), &path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// A write must not lose a grant that a person has put on disk after the daemon's last write.
#[tokio::test(start_paused = true)]
async fn a_later_state_that_a_person_puts_on_disk_is_not_overwritten_but_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a")), Ok(with("third", "b"))]);
    let (source, _task) = run(&server, &configured(folder.path(), "first"));
    let first = source.wait(HOUR).await.unwrap().generation();
    put_later(folder.path(), "from-elsewhere", 0o600).await;

    // The chain in memory is healthy, and its next token is written.
    let second = source.replace(first, HOUR).await.unwrap().generation();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(refresh_token(&on_disk(folder.path())), "from-elsewhere");

    source.replace(second, HOUR).await.unwrap();
    assert_eq!(server.asked(), ["first", "second", "from-elsewhere"]);
}

/// A file that cannot be read now may be later: it is neither overwritten nor used until it can be read.
#[tokio::test(start_paused = true)]
async fn a_file_of_a_person_that_cannot_be_read_now_is_not_overwritten() {
    for after in ["success", "refusal"] {
        let folder = tempfile::tempdir().unwrap();
        let next = if after == "success" { Ok(with("third", "b")) } else { Err(invalid_grant()) };
        let server = Server::answering([Ok(with("second", "a")), next]);
        let (source, task) = run(&server, &configured(folder.path(), "first"));
        let first = source.wait(HOUR).await.unwrap().generation();
        // Such a mode is refused.
        put_later(folder.path(), "from-elsewhere", 0o644).await;

        assert_eq!(source.replace(first, HOUR).await.is_ok(), after == "success");
        tokio::time::sleep(Duration::from_secs(5)).await;
        let path = folder.path().join("c.state");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(refresh_token(&on_disk(folder.path())), "from-elsewhere", "{after}");

        tokio::time::sleep(2 * STATE_RECHECK_INTERVAL).await;
        assert!(server.asked().contains(&"from-elsewhere".to_owned()), "{after} {:?}", server.asked());
        end(task).await;
    }
}

/// The test moves time by hand, because paused time does not advance while a thread hangs.
#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_delays_the_first_token_by_ten_seconds_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let answers =
        [("second", "a"), ("third", "b"), ("fourth", "c")].map(|(next, token)| Ok(with(next, token)));
    let server = Server::answering(answers);
    let credential = configured(folder.path(), "first");
    let clock = Clock::tokio();
    let mut durable = DurableState::open(&credential, clock).unwrap();
    let release = durable.hang();
    let (refresher, source) = Refresher::new(Arc::clone(&credential), server.clone(), durable, clock);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(refresher.run(std::future::pending()));
    // After these turns the refresher waits for the disk.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let started = tokio::time::Instant::now();

    let (token, ()) = tokio::join!(source.wait(HOUR), tokio::time::advance(Duration::from_secs(10)));
    let mut generation = token.unwrap().generation();
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    for _ in 0..2 {
        generation = source.replace(generation, Duration::from_secs(1)).await.unwrap().generation();
    }
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    assert_eq!(server.asked(), ["first", "second", "third"]);
    assert!(!folder.path().join("c.state").exists());

    // The state is written once the disk answers.
    drop(release);
    tokio::time::sleep(STATE_RECHECK_INTERVAL).await;
    assert_eq!(refresh_token(&on_disk(folder.path())), "fourth");
}

/// Stops a refresher whose disk hangs during the write of a new refresh token. Returns the handle that ends
/// the hang, and the stopping refresher.
async fn stopped_while_the_disk_hangs(
    folder: &Path,
) -> (std::sync::mpsc::SyncSender<()>, tokio::task::JoinHandle<()>) {
    let server = Server::answering([Ok(with("second", "a"))]);
    let credential = configured(folder, "first");
    let mut durable = DurableState::open(&credential, Clock::tokio()).unwrap();
    let release = durable.hang();
    let (refresher, source) = Refresher::new(Arc::clone(&credential), server, durable, Clock::tokio());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(async move { drop(stopped.await) }));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let (token, ()) = tokio::join!(source.wait(HOUR), tokio::time::advance(Duration::from_secs(10)));
    assert!(token.is_ok());
    drop(stop);
    (release, task)
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_write_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let (release, task) = stopped_while_the_disk_hangs(folder.path()).await;
    tokio::time::advance(Duration::from_secs(29)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished());

    drop(release);
    task.await.unwrap();

    assert_eq!(refresh_token(&on_disk(folder.path())), "second");
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_up_a_write_that_hangs_for_thirty_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let (_release, task) = stopped_while_the_disk_hangs(folder.path()).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let stopped = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_secs(31)).await;
    task.await.unwrap();

    assert_eq!(stopped.elapsed(), Duration::from_secs(31));
    assert!(!folder.path().join("c.state").exists());
}
