//! Refresh tokens whose end is known, beside access tokens that live longer.

use super::in_passing::{Timed, start};
use super::*;

const DAY: Duration = Duration::from_hours(24);

/// An access token of a day, and a refresh token of these seconds.
fn response(refresh_token: Option<&str>, access_token: &str, seconds: Option<u64>) -> TokenResponse {
    TokenResponse {
        lifetime: Some(DAY),
        refresh_token: refresh_token.map(SecretString::from),
        refresh_lifetime: seconds.map(Duration::from_secs),
        ..grant(access_token, 0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_used_before_its_end_although_the_access_token_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    for (seconds, gap) in [(1800, 1470..=1500), (100, 78..=80)] {
        let names: Vec<(String, String)> =
            (1..=20).map(|number| (format!("{seconds}-r{number}"), format!("a{number}"))).collect();
        let answers = names.iter().map(|(next, token)| Ok(response(Some(next), token, Some(seconds))));
        let server = Timed::answering(answers);
        let credential = configured(folder.path(), &format!("{seconds}-r0"));
        let (source, _operator, task) = start(&server, &credential);

        tokio::time::sleep(Duration::from_secs(10 * seconds)).await;

        assert!(source.current().is_some());
        let gaps = server.gaps();
        assert!(gaps.len() >= 10 && gaps.iter().all(|found| gap.contains(found)), "{gaps:?}");
        end(task).await;
        assert_eq!(on_disk(folder.path()).rotations, server.0.asked().len() as u64);
    }
}

/// A restart continues with the end: the schedule, and what an operator sees.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_refresh_token_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let next = |token: &str| Ok(response(Some(token), token, Some(1800)));
    let server = Timed::answering([next("second"), next("third")]);
    let credential = configured(folder.path(), "first");
    let (source, _operator, task) = start(&server, &credential);
    source.wait(HOUR).await.unwrap();
    end(task).await;

    let (source, _operator, _task) = start(&server, &credential);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let left = source.refresh_token_expires().unwrap().duration_since(crate::clock::wall_clock()).unwrap();
    assert!((1730..=1740).contains(&left.as_secs()), "{left:?}");
    assert_eq!(server.0.asked(), ["first"]);
    tokio::time::sleep(Duration::from_secs(1450)).await;
    assert_eq!(server.0.asked(), ["first", "second"]);
}

/// The clocks may differ, or the server may be lenient.
#[tokio::test(start_paused = true)]
async fn a_refresh_token_past_an_end_that_no_refresh_moves_is_tried_all_the_same() {
    // The server names the end of the session each time, or only the first time.
    for later in [Some(300), None] {
        let folder = tempfile::tempdir().unwrap();
        let server = Timed::answering([
            Ok(response(Some("session"), "a", Some(1800))),
            Ok(response(None, "b", later)),
            Ok(response(Some("session"), "c", None)),
        ]);
        let (source, _operator, _task) = start(&server, &configured(folder.path(), "session"));

        tokio::time::sleep(HOUR).await;
        assert_eq!(server.0.asked().len(), 2, "once before the end, and then for the access token alone");
        assert!(source.refresh_token_expires().is_some());

        tokio::time::sleep(DAY).await;
        assert_eq!(server.0.asked().len(), 3);
        assert!(source.current().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_without_an_end_changes_no_schedule() {
    for seconds in [None, Some(0)] {
        let folder = tempfile::tempdir().unwrap();
        let server = Timed::answering([Ok(response(Some("second"), "a", seconds))]);
        let (source, _operator, _task) = start(&server, &configured(folder.path(), "first"));

        tokio::time::sleep(23 * HOUR).await;

        assert_eq!(server.0.asked(), ["first"]);
        assert_eq!(source.refresh_token_expires(), None);
    }
}
