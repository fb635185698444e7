//! Records that a store loses or that are none, and refresh tokens that outlive it.

use super::*;
use crate::token::replicas::store::Flaw;

/// All replicas end with the store's primary, right after a refresh token was replaced. New ones begin with what the server
/// has that followed.
#[tokio::test(start_paused = true)]
async fn a_confirmed_refresh_token_outlives_the_primary_and_all_replicas() {
    let lines = format!("{ROTATING}\n{ROOMY}");
    for is_in_time in [true, false] {
        let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
        world.store.follow(Some(is_in_time));
        world.start(3);
        seconds(15).await;
        let before = world.server.requests();
        while world.server.requests() == before
            || world.replicas.iter().any(|replica| replica.token().is_none())
        {
            sleep(Duration::from_millis(10)).await;
        }
        seconds(1).await;
        world.assert_agreed();
        let unconfirmed = world.sum(|status| status.unconfirmed);
        // Each token request has two writes: before it is made, and with its answer.
        assert_eq!(unconfirmed, if is_in_time { 0 } else { 2 * world.server.requests() });

        world.replicas.clear();
        world.store.roll_back();
        world.start(3);
        seconds(1200).await;

        // Without a confirmation, the refresh token was lost with the primary: no client can know.
        assert_eq!(world.reuses() > 0, !is_in_time);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_record_is_reported_and_restored_and_the_store_is_not_away() {
    for flaw in [Flaw::Kind, Flaw::Number] {
        let lines = format!("{ROTATING}\n{ROOMY}");
        let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
        world.start(3);
        seconds(15).await;
        world.store.spoil(flaw);
        seconds(15).await;

        world.assert_agreed();
        assert!(world.sum(|status| status.corrupt) > 0, "{flaw:?}");
        assert!(world.sum(|status| status.repairs) > 0, "{flaw:?}");
        for replica in &world.replicas {
            assert_eq!(replica.shared.status().reachable, Some(true), "{flaw:?}");
            assert_eq!(replica.shared.status().error, None, "{flaw:?}");
        }
        seconds(1200).await;
        world.assert_agreed();
        assert_eq!((world.reuses(), world.server.requests() > 2), (0, true), "{flaw:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_does_not_open_is_never_used() {
    let changes: [fn(&mut u64, &mut Vec<u8>); 4] = [
        |_, record| record.clear(),
        |_, record| {
            let at = record.len() / 2;
            record[at] ^= 1;
        },
        // An older record under a later number.
        |number, _| *number += 1,
        |number, record| {
            *number += 7;
            *record = b"another's".to_vec();
        },
    ];
    for change in changes {
        for lines in [ROOMY, &format!("{ROTATING}\n{ROOMY}")] {
            let mut world = World::new(lines, Authorization::new(600, Duration::ZERO));
            world.start(2);
            seconds(15).await;
            world.store.tamper(change);
            // This one knows nothing: its configured refresh token was used long ago.
            let replica = world.begin();
            world.replicas.push(replica);
            // The others read the whole record twice a minute.
            seconds(45).await;
            assert!(world.tokens().iter().all(Option::is_some));
            assert_eq!(world.reuses(), 0, "{lines}");
            seconds(1200).await;
            world.assert_agreed();
            assert_eq!(world.reuses(), 0, "{lines}");
        }
    }
}

/// All replicas that knew the record are gone.
#[tokio::test(start_paused = true)]
async fn no_configured_refresh_token_is_used_where_a_record_cannot_be_read() {
    let lines = format!("{ROTATING}\n{ROOMY}");
    let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
    world.start(2);
    seconds(15).await;
    world.replicas.clear();
    world.store.tamper(|_, record| record.clear());
    world.start(2);
    seconds(600).await;

    assert_eq!((world.server.requests(), world.reuses()), (1, 0));
    assert_eq!(world.tokens(), vec![None; 2]);

    // An operator who knows that the configured one is the latest removes the record.
    world.store.forget();
    world.server.ledger().current = "first".to_owned();
    seconds(20).await;
    world.assert_agreed();
    assert_eq!((world.server.requests(), world.reuses()), (2, 0));
}

/// The commit finds something that is no record: its refresh token is the only one that the server accepts.
#[tokio::test(start_paused = true)]
async fn a_commit_replaces_what_is_no_record() {
    let lines = format!("{ROTATING}\n{ROOMY}");
    let mut world = World::new(&lines, Authorization::new(60, Duration::ZERO));
    world.server.ledger().takes = (Duration::from_secs(2), Duration::from_secs(2));
    world.start(3);
    seconds(20).await;
    for _ in 0..5 {
        let before = world.server.requests();
        while world.server.requests() == before {
            sleep(Duration::from_millis(10)).await;
        }
        // The answer is on its way.
        world.store.tamper(|number, record| {
            *number += 1000;
            *record = b"another's".to_vec();
        });
        seconds(15).await;
        world.assert_agreed();
    }
    assert_eq!(world.reuses(), 0);
}
