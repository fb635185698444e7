//! Operators' orders, in any state of the refresher.

mod ended;
mod refreshes;

use super::*;
use crate::shared_request::NoOutcome;
use crate::token::operator::{Adopted, GrantOrigin, NewGrant, NotAdopted, Operator, Refreshed};
use refreshes::with_operator;

/// Answers like its server, but not at once.
#[derive(Clone, Debug)]
struct Slow(Server, Duration);

impl TokenEndpoint for Slow {
    async fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        tokio::time::sleep(self.1).await;
        self.0.request(credential, identity, current).await
    }
}

/// A refresher that runs, and who orders.
fn operated(
    endpoint: impl TokenEndpoint + 'static,
    credential: &Arc<Credential>,
) -> (TokenSource, Operator, tokio::task::JoinHandle<()>) {
    let clock = Clock::tokio();
    let durable = DurableState::open(credential, clock).unwrap();
    let (refresher, source) = Refresher::new(Arc::clone(credential), endpoint, durable, clock);
    let operator = refresher.operator();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(std::future::pending()));
    (source, operator, task)
}

fn handed_over(refresh_token: &str, access_token: Option<&str>) -> NewGrant {
    NewGrant {
        origin: GrantOrigin::of(&credential("")),
        refresh_token: SecretString::from(refresh_token),
        access_token: access_token.map(SecretString::from),
        lifetime: Some(HOUR),
        scopes: None,
        refresh_lifetime: None,
    }
}

const DURABLE: Result<Adopted, NotAdopted> = Ok(Adopted { is_durable: true });
const SOON: Duration = Duration::from_millis(1);
const WITHIN: Duration = Duration::from_secs(30);

fn header(source: &TokenSource) -> String {
    source.current().unwrap().authorization().to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_handed_over_replaces_a_valid_one_and_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a")), Ok(with("third", "b"))]);
    let credential = configured(folder.path(), "first");
    let (source, operator, task) = operated(server.clone(), &credential);
    let generation = source.wait(HOUR).await.unwrap().generation();
    assert!(source.replace(generation, HOUR).await.is_ok());
    assert_eq!(on_disk(folder.path()).rotations, 2);

    assert_eq!(operator.hand_over(handed_over("new", Some("from-login"))).await, DURABLE);

    assert_eq!((header(&source).as_str(), source.generation().number()), ("Bearer from-login", 3));
    let state = on_disk(folder.path());
    assert_eq!((refresh_token(&state), state.rotations, state.generation.number()), ("new", 0, 3));
    assert_eq!(server.asked(), ["first", "second"], "no request was needed");

    // The configured one is the first still, and does not come back.
    end(task).await;
    let (source, _operator, _task) = operated(server.clone(), &credential);
    assert_eq!(header(&source), "Bearer from-login");
    tokio::time::sleep(HOUR).await;
    assert_eq!(server.asked()[2], "new");
}

#[tokio::test(start_paused = true)]
async fn a_grant_without_a_usable_access_token_causes_a_request_at_once() {
    let ended = NewGrant { lifetime: Some(Duration::ZERO), ..handed_over("new", Some("b")) };
    let too_little = NewGrant { scopes: Some(vec!["x".into()]), ..handed_over("new", Some("b")) };
    for grant in [
        handed_over("new", None),
        handed_over("new", Some("b c")),
        handed_over("new", Some("")),
        ended,
        too_little,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering([Ok(grant_for_an_hour("a")), Ok(grant_for_an_hour("c"))]);
        let lines = "scopes = [\"s\"]\nrequire_scopes = [\"s\"]";
        let (source, operator, _task) =
            operated(server.clone(), &configured_with(folder.path(), "first", lines));
        source.wait(HOUR).await.unwrap();

        assert_eq!(operator.hand_over(grant).await, DURABLE);
        assert_eq!(header(&source), "Bearer a", "the old one is good until then");
        tokio::time::sleep(SOON).await;

        assert_eq!(header(&source), "Bearer c");
        assert_eq!(server.asked(), ["first", "new"]);
    }
}

fn grant_for_an_hour(access_token: &str) -> TokenResponse {
    TokenResponse { lifetime: Some(HOUR), ..grant(access_token, 0) }
}

fn configured_with(folder: &Path, refresh_token: &str, lines: &str) -> Arc<Credential> {
    credential(&format!(
        "grant = \"refresh_token\"\nrefresh_token = \"{refresh_token}\"\nstate_key = \"{KEY}\"\n\
         state_file = \"{}\"\n{ROOMY}\n{lines}",
        folder.join("c.state").display()
    ))
}

#[tokio::test(start_paused = true)]
async fn a_refresher_that_waits_for_a_person_continues_with_the_new_grant() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
    let dead = source.wait(WITHIN).await.unwrap_err();
    assert_eq!(dead.reason, Reason::ReauthorizationRequired);

    assert!(source.current().is_none());
    assert_eq!(server.asked(), ["first"]);

    assert_eq!(operator.hand_over(handed_over("new", None)).await, DURABLE);
    assert!(source.wait(SOON).await.is_ok());
    assert_eq!(server.asked(), ["first", "new"]);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_refresh_sends_a_refused_refresh_token_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant()), Err(invalid_grant())]);
    let (source, operator, task) = operated(server.clone(), &configured(folder.path(), "first"));
    source.wait(WITHIN).await.unwrap_err();

    let told = operator.refresh(WITHIN).await.unwrap();
    assert!(
        matches!(&told, Refreshed::Failed(why) if why.reason == Reason::ReauthorizationRequired),
        "{told:?}"
    );
    tokio::time::sleep(HOUR).await;
    assert_eq!(server.asked(), ["first"; 2], "only on the order");
    assert_eq!(source.wait(SOON).await.unwrap_err().reason, Reason::ReauthorizationRequired);

    // The provider has enabled the grant again.
    let told = operator.refresh(WITHIN).await.unwrap();
    assert!(matches!(&told, Refreshed::New { .. }), "{told:?}");
    assert!(on_disk(folder.path()).refused.is_empty());
    end(task).await;
    let (source, _operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(source.current().is_some());
    assert!(server.asked().iter().all(|asked| asked == "first"));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_the_refused_refresh_token_does_not_meet_ends_with_the_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant()), Ok(grant_for_an_hour("a")), Err(invalid_grant())]);
    let credential = configured_with(folder.path(), "first", "fallback = \"client_credentials\"");
    let (source, operator, _task) = operated(server.clone(), &credential);
    source.wait(WITHIN).await.unwrap();

    let told = operator.refresh(WITHIN).await.unwrap();

    assert!(matches!(&told, Refreshed::New { .. }), "{told:?}");
    assert_eq!(server.asked(), ["first", "client_credentials", "first", "client_credentials"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_that_is_handed_over_is_sent_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant()), Err(invalid_grant())]);
    let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
    source.wait(WITHIN).await.unwrap_err();

    assert_eq!(operator.hand_over(handed_over("first", None)).await, DURABLE);
    assert_eq!(source.wait(WITHIN).await.unwrap_err().reason, Reason::ReauthorizationRequired);
    assert_eq!(operator.hand_over(handed_over("first", None)).await, DURABLE);
    assert!(source.wait(WITHIN).await.is_ok());
    assert_eq!(server.asked(), ["first"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_that_a_login_brings_again_counts_as_good() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
    source.wait(WITHIN).await.unwrap_err();

    assert_eq!(operator.hand_over(handed_over("first", Some("a"))).await, DURABLE);
    assert!(source.current().is_some());
    assert!(operator.refresh(WITHIN).await.is_ok());
    assert_eq!(server.asked(), ["first", "first"]);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_handed_over_ends_the_use_of_the_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let login = credential(&format!(
        "grant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"\nstate_key = \"{KEY}\"\n\
         fallback = \"client_credentials\"\nstate_file = \"{}\"\n{ROOMY}",
        folder.path().join("login.state").display()
    ));
    let first = configured_with(folder.path(), "first", "fallback = \"client_credentials\"");
    for (credential, answers, before) in [
        (first, vec![Err(invalid_grant())], vec!["first", "client_credentials"]),
        (login, vec![], vec!["client_credentials"]),
    ] {
        let server = Server::answering(answers);
        let (source, operator, _task) = operated(server.clone(), &credential);
        assert!(source.wait(WITHIN).await.is_ok());
        assert_eq!(server.asked(), before);

        assert_eq!(operator.hand_over(handed_over("new", None)).await, DURABLE);
        tokio::time::sleep(SOON).await;

        assert_eq!(server.asked()[before.len()..], ["new"]);
        let generation = source.generation();
        assert!(source.replace(generation, WITHIN).await.is_ok());
        assert!(!server.asked()[before.len()..].contains(&"client_credentials".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_rotation_limit_the_new_grant_counts_from_zero() {
    let folder = tempfile::tempdir().unwrap();
    let answers = (1..=6).map(|number| Ok(with(&format!("r{number}"), &format!("a{number}"))));
    let server = Server::answering(answers);
    let credential = configured_with(folder.path(), "r0", "max_rotations = 2");
    let (source, operator, _task) = operated(server.clone(), &credential);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(source.wait(SOON).await.unwrap_err().reason, Reason::RotationLimit);

    assert_eq!(operator.hand_over(handed_over("new", None)).await, DURABLE);
    tokio::time::sleep(Duration::from_mins(1)).await;

    assert_eq!(server.asked(), ["r0", "r1", "new", "r3"]);
    assert_eq!(source.wait(SOON).await.unwrap_err().reason, Reason::RotationLimit);
}

#[tokio::test(start_paused = true)]
async fn a_grant_handed_over_during_a_request_is_adopted_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("of-the-old", "a"))]);
    let slow = Slow(server.clone(), Duration::from_secs(4));
    let (source, operator, _task) = operated(slow, &configured(folder.path(), "first"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ten_seconds = Some(Duration::from_secs(10));

    let grant = NewGrant { lifetime: ten_seconds, ..handed_over("new", Some("b")) };
    assert_eq!(operator.hand_over(grant).await, DURABLE);

    assert_eq!((header(&source).as_str(), source.generation().number()), ("Bearer b", 2));
    assert_eq!(refresh_token(&on_disk(folder.path())), "new");
    let current = source.current().unwrap();
    assert_eq!(current.issued().until(current.expires()), Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(server.asked().first().map(String::as_str), Some("first"));
    assert!(!current.is_usable(current.issued() + Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(server.asked()[1..].iter().all(|asked| asked == "new"));
}

#[tokio::test(start_paused = true)]
async fn a_grant_whose_operator_has_left_before_its_adoption_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a"))]);
    let slow = Slow(server.clone(), Duration::from_secs(4));
    let (source, operator, _task) = operated(slow, &configured(folder.path(), "first"));
    tokio::time::sleep(SOON).await;
    let hand_over = operator.hand_over(handed_over("new", Some("b")));
    assert!(tokio::time::timeout(Duration::from_secs(1), hand_over).await.is_err());

    source.wait(WITHIN).await.unwrap();
    tokio::time::sleep(SOON).await;

    assert_eq!(header(&source), "Bearer a");
    assert_eq!(refresh_token(&on_disk(folder.path())), "second");
}

#[tokio::test(start_paused = true)]
async fn a_new_grant_ends_the_breaker_and_the_latch_of_the_old_one() {
    let failures = || std::iter::repeat_with(|| Err(transient())).take(5);
    let rejected = || std::iter::once(Err(rejected()));
    let all: [Vec<Result<TokenResponse, TokenError>>; 2] = [failures().collect(), rejected().collect()];
    for answers in all {
        for access_token in [Some("a"), None] {
            let folder = tempfile::tempdir().unwrap();
            let asked = answers.len();
            let server = Server::answering(answers.clone());
            let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
            while server.asked().len() < asked {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(source.current().is_none());

            assert_eq!(operator.hand_over(handed_over("new", access_token)).await, DURABLE);
            assert!(source.wait(SOON).await.is_ok());

            let expected = asked + usize::from(access_token.is_none());
            assert_eq!(server.asked().len(), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_holds_for_the_new_grant_too() {
    for access_token in [Some("a"), None] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering([Err(throttled(120))]);
        let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
        assert_eq!(source.wait(WITHIN).await.unwrap_err().reason, Reason::EndpointRateLimited);

        assert_eq!(operator.hand_over(handed_over("new", access_token)).await, DURABLE);

        let now = source.wait(SOON).await;
        assert_eq!(now.is_ok(), access_token.is_some(), "{now:?}");
        let told = operator.refresh(WITHIN).await.unwrap();
        assert!(
            matches!(&told, Refreshed::Refused(why) if why.reason == Reason::EndpointRateLimited
                && why.retry_after.is_some_and(|wait| wait > Duration::from_secs(100))),
            "{told:?}"
        );
        assert_eq!(server.asked(), ["first"]);
        tokio::time::sleep(Duration::from_secs(122)).await;
        assert!(source.current().is_some());
        assert_eq!(server.asked().len(), 1 + usize::from(access_token.is_none()), "the request is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_cannot_be_written_is_used_and_reported_as_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(grant_for_an_hour("a"))]);
    let (source, operator, _task) = operated(server.clone(), &configured(folder.path(), "first"));
    source.wait(HOUR).await.unwrap();
    // No file can take the name of a folder.
    let obstacle = folder.path().join("c.state");
    std::fs::remove_file(&obstacle).unwrap();
    std::fs::create_dir(&obstacle).unwrap();

    let adopted = operator.hand_over(handed_over("new", Some("b"))).await;
    assert_eq!(adopted, Ok(Adopted { is_durable: false }));
    assert_eq!(header(&source), "Bearer b");

    std::fs::remove_dir(&obstacle).unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(refresh_token(&on_disk(folder.path())), "new");
    assert_eq!(server.asked(), ["first"]);
}

#[tokio::test(start_paused = true)]
async fn an_illegal_refresh_token_and_one_for_another_grant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(grant_for_an_hour("a"))]);
    let (source, operator, _task) = operated(server, &configured(folder.path(), "first"));
    source.wait(HOUR).await.unwrap();
    for illegal in ["", "a\nb", "tök", "a\u{7f}"] {
        let outcome = operator.hand_over(handed_over(illegal, Some("b"))).await;
        assert_eq!(outcome, Err(NotAdopted::Illegal), "{illegal:?}");
    }
    assert_eq!(header(&source), "Bearer a");
    assert_eq!(refresh_token(&on_disk(folder.path())), "first");

    let (source, operator, _endpoint) = with_operator("", AT_ONCE, &[]);
    source.wait(HOUR).await.unwrap();
    assert!(!operator.takes_grants);
    assert_eq!(operator.hand_over(handed_over("new", Some("b"))).await, Err(NotAdopted::OtherGrant));
}
