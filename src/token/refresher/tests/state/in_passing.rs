//! Refresh tokens that are refused in passing, or may be: sent again after 30 s and after 5 min, and then condemned.

use super::*;

/// A refusal whose words or silence say that the refresh token may be accepted later.
fn passing() -> TokenError {
    TokenError::Rejected {
        status: 400,
        code: "invalid_grant".into(),
        description: Some("already being processed".into()),
        refusal: Refusal::GrantInPassing,
    }
}

fn network() -> TokenError {
    TokenError::Network("no complete answer in time".to_owned())
}

fn hour(refresh_token: &str, access_token: &str) -> TokenResponse {
    TokenResponse { lifetime: Some(HOUR), ..with(refresh_token, access_token) }
}

/// Notes the moment of each request.
#[derive(Clone, Debug)]
pub(super) struct Timed(pub(super) Server, Arc<Mutex<Vec<tokio::time::Instant>>>);

impl Timed {
    pub(super) fn answering(answers: impl IntoIterator<Item = Result<TokenResponse, TokenError>>) -> Self {
        Self(Server::answering(answers), Arc::default())
    }

    /// The seconds between each request and the one before.
    pub(super) fn gaps(&self) -> Vec<u64> {
        let at = self.1.lock().unwrap();
        at.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
    }
}

impl TokenEndpoint for Timed {
    async fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        self.1.lock().unwrap().push(tokio::time::Instant::now());
        self.0.request(credential, identity, current).await
    }
}

pub(super) fn start(
    server: &Timed,
    credential: &Arc<Credential>,
) -> (TokenSource, crate::token::Operator, tokio::task::JoinHandle<()>) {
    let clock = Clock::tokio();
    let durable = DurableState::open(credential, clock).unwrap();
    let (refresher, source) = Refresher::new(Arc::clone(credential), server.clone(), durable, clock);
    let operator = refresher.operator();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(std::future::pending()));
    (source, operator, task)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_passing_is_repeated_after_30_s_and_5_min_and_then_final() {
    let empty = TokenError::Malformed(Malformed::Empty);
    let gone = || TokenError::Unreached("refused".to_owned());
    for (before, first_refusal, is_passing) in [
        (vec![], passing(), true),
        (vec![network()], invalid_grant(), true),
        (vec![network()], passing(), true),
        (vec![TokenError::Server(502)], invalid_grant(), true),
        (vec![empty], invalid_grant(), true),
        // An answer in between does not tell what became of the request before.
        (vec![network(), throttled(1)], invalid_grant(), true),
        (vec![network(), gone()], invalid_grant(), true),
        (vec![], invalid_grant(), false),
        (vec![gone()], invalid_grant(), false),
        (vec![throttled(1)], invalid_grant(), false),
        (vec![TokenError::Server(404)], invalid_grant(), false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let shown = format!("{before:?} {first_refusal:?}");
        let answers = before.iter().cloned().chain([first_refusal]).chain([invalid_grant(), invalid_grant()]);
        let server = Timed::answering(answers.map(Err));
        let (source, _operator, _task) = start(&server, &configured(folder.path(), "first"));

        if is_passing {
            tokio::time::sleep(Duration::from_secs(20)).await;
            let told = source.wait(Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(told.reason, Reason::EndpointUnavailable, "{shown}");
            let wait = told.retry_after.unwrap();
            assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(30), "{shown} {wait:?}");
        }
        tokio::time::sleep(HOUR).await;

        let told = source.wait(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!((told.reason, told.retry_after), (Reason::ReauthorizationRequired, None), "{shown}");
        let gaps = server.gaps();
        let expected: &[u64] = if is_passing { &[30, 300] } else { &[] };
        assert_eq!(&gaps[before.len()..], expected, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_refused_in_passing_that_is_accepted_later_goes_on() {
    for refusals in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let refused = std::iter::repeat_n(Err(passing()), refusals);
        // A condemned token must be refused three times in a row.
        let answers = refused.chain([Ok(hour("second", "a")), Err(passing()), Ok(hour("third", "b"))]);
        let server = Timed::answering(answers);
        let (source, _operator, _task) = start(&server, &configured(folder.path(), "first"));

        tokio::time::sleep(Duration::from_secs(340)).await;
        assert!(source.current().is_some());
        assert_eq!(on_disk(folder.path()).doubt, None);
        tokio::time::sleep(HOUR).await;

        assert!(source.current().is_some());
        let asked = server.0.asked();
        assert_eq!(asked[refusals..refusals + 3], ["first", "second", "second"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_valid_token_serves_while_its_refresh_token_is_refused_in_passing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Timed::answering([
        Ok(TokenResponse { lifetime: Some(HOUR), ..with("second", "a") }),
        Err(network()),
        Err(invalid_grant()),
        Err(invalid_grant()),
        Ok(hour("third", "b")),
    ]);
    let (source, operator, _task) = start(&server, &configured(folder.path(), "first"));
    source.wait(HOUR).await.unwrap();

    assert!(operator.refresh(HOUR).await.is_ok());
    for _ in 0..400 {
        assert!(source.current().is_some());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(source.failure(), None);
    assert_eq!(server.0.asked(), ["first", "second", "second", "second", "second"]);
}

/// The wall clock stands still in paused time, and so the wait in a state is as long as at its write.
#[tokio::test(start_paused = true)]
async fn a_restart_forgets_neither_the_refusals_nor_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let server = Timed::answering([passing(), invalid_grant(), invalid_grant()].map(Err));
    let credential = configured(folder.path(), "first");
    for (seconds, requests) in [(10, 1), (25, 1), (35, 2), (295, 2), (299, 2), (305, 3), (600, 3)] {
        let (source, _operator, task) = start(&server, &credential);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let told = source.wait(AT_ONCE).await.unwrap_err();
        let expected =
            if requests < 3 { Reason::EndpointUnavailable } else { Reason::ReauthorizationRequired };
        assert_eq!((told.reason, server.0.asked().len()), (expected, requests));
        end(task).await;
    }
}

/// Never answers.
#[derive(Debug)]
struct Hanging(Server);

impl TokenEndpoint for Hanging {
    async fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let _ = self.0.request(credential, identity, current).await;
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_request_that_a_kill_has_cut_may_be_one_in_passing() {
    let folder = tempfile::tempdir().unwrap();
    let credential = configured(folder.path(), "first");
    let clock = Clock::tokio();
    let durable = DurableState::open(&credential, clock).unwrap();
    let (refresher, _source) =
        Refresher::new(Arc::clone(&credential), Hanging(Server::default()), durable, clock);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(std::future::pending()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    end(task).await;

    let server = Timed::answering([Err(invalid_grant()), Ok(hour("second", "a"))]);
    let (source, _operator, _task) = start(&server, &credential);
    let told = source.wait(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(told.reason, Reason::EndpointUnavailable);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(source.current().is_some());
    assert_eq!(server.gaps(), [30]);
}

#[tokio::test(start_paused = true)]
async fn a_new_refresh_token_ends_the_wait_of_one_refused_in_passing() {
    for way in ["file", "login", "disk"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("refresh");
        std::fs::write(&file, "first").unwrap();
        let lines = format!("refresh_token = {{ file = \"{}\" }}\n{ROOMY}", file.display());
        let server = Timed::answering([Err(passing()), Err(passing()), Ok(hour("next", "a"))]);
        let (source, operator, _task) = start(&server, &configured_with(folder.path(), &lines));
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(server.0.asked().len(), 2);

        match way {
            "file" => std::fs::write(&file, "second").unwrap(),
            "disk" => put(folder.path(), "second").await,
            _ => {
                let grant = crate::token::NewGrant {
                    origin: operator.origin.clone(),
                    refresh_token: SecretString::from("second"),
                    access_token: None,
                    lifetime: None,
                    scopes: None,
                    refresh_lifetime: None,
                };
                assert!(operator.hand_over(grant).await.is_ok());
            }
        }
        tokio::time::sleep(STATE_RECHECK_INTERVAL + SUBJECT_POLL_INTERVAL).await;

        assert!(source.current().is_some(), "{way}");
        assert_eq!(server.0.asked(), ["first", "first", "second"], "{way}");
        assert_eq!(on_disk(folder.path()).doubt, None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_fallback_is_used_after_the_third_refusal_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let lines = format!("refresh_token = \"first\"\nfallback = \"client_credentials\"\n{ROOMY}");
    let server = Timed::answering([Err(passing()), Err(passing()), Err(invalid_grant())]);
    let (source, _operator, _task) = start(&server, &configured_with(folder.path(), &lines));

    tokio::time::sleep(Duration::from_secs(320)).await;
    assert_eq!(server.0.asked(), ["first"; 2]);
    tokio::time::sleep(Duration::from_secs(11)).await;

    assert!(source.current().is_some());
    assert_eq!(server.0.asked()[2..4], ["first", "client_credentials"]);
}

#[tokio::test(start_paused = true)]
async fn an_operators_orders_do_not_count_among_the_three_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let server = Timed::answering(std::iter::repeat_n(Err(passing()), 6).chain([Ok(hour("second", "a"))]));
    let (source, operator, _task) = start(&server, &configured(folder.path(), "first"));
    tokio::time::sleep(Duration::from_secs(1)).await;

    for _ in 0..4 {
        let told = operator.refresh(Duration::from_secs(30)).await.unwrap();
        let crate::token::Refreshed::Failed(why) = told else { panic!("{told:?}") };
        assert_eq!(why.reason, Reason::EndpointUnavailable);
    }
    assert_eq!(server.0.asked().len(), 5);
    tokio::time::sleep(Duration::from_secs(331)).await;

    assert!(source.current().is_some());
    assert_eq!(server.gaps()[4..], [30, 300]);
}
