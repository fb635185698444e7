//! Orders to a refresher that has ended, and grants of another client or server than the present one.

use super::*;

#[tokio::test(start_paused = true)]
async fn orders_to_a_refresher_that_has_ended_fail() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow(Server::default(), HOUR);
    let (_source, operator, task) = operated(slow, &configured(folder.path(), "first"));
    tokio::time::sleep(SOON).await;
    let (handed_over_before, requested_before, ()) =
        tokio::join!(operator.hand_over(handed_over("new", None)), operator.refresh(HOUR), async {
            task.abort();
        });
    assert_eq!(handed_over_before, Err(NotAdopted::Gone));
    assert_eq!(requested_before.unwrap_err(), NoOutcome::Gone);

    assert_eq!(operator.hand_over(handed_over("new", None)).await, Err(NotAdopted::Gone));
    assert_eq!(operator.refresh(HOUR).await.unwrap_err(), NoOutcome::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_grant_of_another_client_or_server_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a"))]);
    let credential = configured(folder.path(), "first");
    let (source, operator, _task) = operated(server.clone(), &credential);
    source.wait(HOUR).await.unwrap();
    let good = GrantOrigin::of(&credential);
    let url = good.token_url.clone().unwrap();
    for origin in [
        GrantOrigin { client_id: "other".to_owned(), ..good.clone() },
        GrantOrigin { token_url: Some(format!("{url}?tenant=1")), ..good.clone() },
        GrantOrigin { token_url: None, issuer: Some(url), ..good.clone() },
    ] {
        let grant = NewGrant { origin, ..handed_over("new", Some("b")) };
        assert_eq!(operator.hand_over(grant).await, Err(NotAdopted::OtherOrigin(good.clone())));
    }
    assert_eq!(header(&source), "Bearer a");
    assert_eq!(refresh_token(&on_disk(folder.path())), "second");
    assert_eq!(operator.hand_over(handed_over("new", Some("b"))).await, DURABLE);
}

/// A reload that replaces a refresher hands the orders to the next one.
#[tokio::test(start_paused = true)]
async fn orders_to_a_refresher_that_a_reload_replaces_are_carried_out_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::tokio();
    let credential = configured(folder.path(), "first");
    let server = Server::answering([Ok(with("second", "a"))]);
    let durable = DurableState::open(&credential, clock).unwrap();
    let (mut before, _) = Refresher::new(Arc::clone(&credential), server.clone(), durable, clock);
    let operator = before.operator();
    let next = async {
        // Both orders have been given by now.
        tokio::time::sleep(SOON).await;
        let no_state = DurableState::in_memory(clock);
        let (mut next, source) = Refresher::new(Arc::clone(&credential), server.clone(), no_state, clock);
        next.take_orders_of(&mut before);
        let next = next.with_state(before.into_state());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        let task = tokio::spawn(next.run(std::future::pending()));
        (source, task)
    };

    let (adopted, refreshed, (source, _task)) =
        tokio::join!(operator.hand_over(handed_over("new", None)), operator.refresh(WITHIN), next);

    assert_eq!(adopted, DURABLE);
    assert!(matches!(refreshed, Ok(Refreshed::New { .. })), "{refreshed:?}");
    assert_eq!(header(&source), "Bearer a");
    assert_eq!(server.asked(), ["new"]);
    assert_eq!(operator.hand_over(handed_over("third", Some("c"))).await, DURABLE);
    assert_eq!(header(&source), "Bearer c", "later orders arrive too");
}
