//! The refresh loop with a refresh token, on a real disk and in paused time.

mod disk;
mod end_of_refresh_token;
mod in_passing;
mod operator;

use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;

use super::*;
use crate::config::model::identity::Grant as Asking;
use crate::token::state::file::{Identity as Owner, State, StateFile, StateKey, StateKeys};

pub(super) const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Gives what it is told to, then tokens of ten seconds; notes which refresh tokens or other grants it was asked with.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    pub(super) answers: Arc<Mutex<VecDeque<Result<TokenResponse, TokenError>>>>,
}

impl Server {
    pub(super) fn answering(answers: impl IntoIterator<Item = Result<TokenResponse, TokenError>>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl TokenEndpoint for Server {
    async fn request(
        &self,
        _: &Credential,
        identity: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let with = match &identity.grant {
            Asking::RefreshToken(Some(token)) => token.expose_secret().to_owned(),
            other => other.name().to_owned(),
        };
        let mut asked = self.asked.lock().unwrap();
        asked.push(with);
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(grant(&format!("token-{}", asked.len()), 10)))
    }
}

pub(super) fn with(refresh_token: &str, access_token: &str) -> TokenResponse {
    TokenResponse { refresh_token: Some(SecretString::from(refresh_token)), ..grant(access_token, 10) }
}

pub(super) fn configured(folder: &Path, refresh_token: &str) -> Arc<Credential> {
    configured_with(folder, &format!("refresh_token = \"{refresh_token}\"\n{ROOMY}"))
}

pub(super) fn configured_with(folder: &Path, lines: &str) -> Arc<Credential> {
    let path = folder.join("c.state");
    credential(&format!(
        "grant = \"refresh_token\"\nstate_key = \"{KEY}\"\nstate_file = \"{}\"\n{lines}",
        path.display()
    ))
}

/// Runs until it is aborted.
pub(super) fn run(
    server: &Server,
    credential: &Arc<Credential>,
) -> (TokenSource, tokio::task::JoinHandle<()>) {
    let clock = Clock::tokio();
    let durable = DurableState::open(credential, clock).unwrap();
    let (refresher, source) = Refresher::new(Arc::clone(credential), server.clone(), durable, clock);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(std::future::pending()));
    (source, task)
}

/// Once its writes are made.
pub(super) async fn end(task: tokio::task::JoinHandle<()>) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
}

/// The state in a copy of the file, as the file itself is locked; with any principal's tokens.
pub(super) fn on_disk(folder: &Path) -> State {
    let copies = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("c.state"), copies.path().join("c.state")).unwrap();
    let owner = Owner::of(&[configured(copies.path(), "any").state_identity().as_bytes()]);
    let key = StateKey::parse(&SecretString::from(KEY)).unwrap();
    let keys = StateKeys::new(key, Vec::new());
    let path = copies.path().join("c.state");
    let (_, found) = StateFile::open(&path, owner, keys, HOUR, Clock::tokio()).unwrap();
    found.state.unwrap()
}

pub(super) fn refresh_token(state: &State) -> &str {
    state.refresh_token.as_ref().unwrap().expose_secret()
}

/// Puts another state in the place of one.
pub(super) async fn put(folder: &Path, refresh_token: &str) {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = DurableState::open(&configured(elsewhere.path(), "any"), Clock::tokio()).unwrap();
    let token = Some(SecretString::from(refresh_token));
    other.save(State { refresh_token: token, ..State::default() }).await;
    let path = |folder: &Path| -> PathBuf { folder.join("c.state") };
    std::fs::copy(path(elsewhere.path()), path(folder)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_refresh_token_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::default();
    let (source, _task) = run(&server, &configured(folder.path(), "first"));

    tokio::time::sleep(Duration::from_secs(20)).await;

    assert!(source.current().is_some());
    assert_eq!(server.asked(), ["first"; 3]);
    assert_eq!((refresh_token(&on_disk(folder.path())), on_disk(folder.path()).rotations), ("first", 0));
}

#[tokio::test(start_paused = true)]
async fn a_new_refresh_token_is_on_disk_before_its_access_token_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let answers = (1..=20).map(|number| Ok(with(&format!("r{number}"), &format!("a{number}"))));
    let server = Server::answering(answers);
    let (source, _task) = run(&server, &configured(folder.path(), "r0"));
    let mut generation = source.wait(HOUR).await.unwrap().generation();
    for number in 1..20 {
        let state = on_disk(folder.path());
        assert_eq!((refresh_token(&state), state.rotations), (format!("r{number}").as_str(), number));
        assert_eq!(server.asked().last(), Some(&format!("r{}", number - 1)));
        generation = source.replace(generation, HOUR).await.unwrap().generation();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_beside_an_unusable_access_token_is_not_lost() {
    for flaw in [Malformed::Lifetime, Malformed::NoToken, Malformed::TokenType] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::answering([Ok(TokenResponse { flaw: Some(flaw), ..with("second", "a") })]);
        let (source, _task) = run(&server, &configured(folder.path(), "first"));

        assert!(source.wait(HOUR).await.is_ok());

        assert_eq!(server.asked(), ["first", "second"]);
        assert_eq!(refresh_token(&on_disk(folder.path())), "second");
    }
}

#[tokio::test(start_paused = true)]
async fn only_another_configured_refresh_token_takes_precedence_over_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        Server::answering([Ok(with("second", "a")), Ok(grant("b", 10)), Ok(with("of-another", "c"))]);
    for (written, asked) in
        [("first", "first"), ("first", "second"), ("another", "another"), ("another", "of-another")]
    {
        let (source, task) = run(&server, &configured(folder.path(), written));
        let resumed = source.current().map(|token| token.generation());
        match resumed {
            Some(generation) => drop(source.replace(generation, HOUR).await.unwrap()),
            None => drop(source.wait(HOUR).await.unwrap()),
        }
        assert_eq!(server.asked().last().map(String::as_str), Some(asked));
        end(task).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_never_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    let (source, _task) = run(&server, &configured(folder.path(), "first"));
    for _ in 0..100 {
        let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(unavailable.reason, Reason::ReauthorizationRequired);
        assert_eq!(unavailable.retry_after, None);
        tokio::time::sleep(Duration::from_mins(7)).await;
    }
    assert_eq!(server.asked(), ["first"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_another_refresh_token_on_disk_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a"))]);
    let (source, _task) = run(&server, &configured(folder.path(), "first"));
    let generation = source.wait(HOUR).await.unwrap().generation();
    put(folder.path(), "from-elsewhere").await;
    server.answers.lock().unwrap().push_back(Err(invalid_grant()));

    assert!(source.replace(generation, HOUR).await.is_ok());

    assert_eq!(server.asked(), ["first", "second", "from-elsewhere"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_written_is_used_and_written_later() {
    let folder = tempfile::tempdir().unwrap();
    // No file can take the name of a folder.
    let obstacle = folder.path().join("c.state");
    let server = Server::answering([Ok(TokenResponse { lifetime: Some(HOUR), ..with("second", "a") })]);
    let credential = configured(folder.path(), "first");
    let clock = Clock::tokio();
    let durable = DurableState::open(&credential, clock).unwrap();
    std::fs::create_dir(&obstacle).unwrap();
    let (refresher, source) = Refresher::new(Arc::clone(&credential), server.clone(), durable, clock);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(refresher.run(std::future::pending()));

    assert!(source.wait(Duration::from_secs(1)).await.is_ok());
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(source.current().is_some());

    std::fs::remove_dir(&obstacle).unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(refresh_token(&on_disk(folder.path())), "second");
    assert_eq!(server.asked(), ["first"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_continues_with_the_generation_and_the_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Ok(with("second", "a"))]);
    let credential = configured(folder.path(), "first");
    let (source, task) = run(&server, &credential);
    let generation = source.wait(HOUR).await.unwrap().generation();
    end(task).await;

    let (source, _task) = run(&server, &credential);
    assert_eq!(source.current().unwrap().generation(), generation);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(source.current().unwrap().generation() > generation);
    assert_eq!(server.asked(), ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_is_not_sent_again_after_a_restart_either() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering([Err(invalid_grant())]);
    for _ in 0..5 {
        let (source, task) = run(&server, &configured(folder.path(), "first"));
        let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(unavailable.reason, Reason::ReauthorizationRequired);
        end(task).await;
    }
    assert_eq!(server.asked(), ["first"]);

    let (source, _task) = run(&server, &configured(folder.path(), "another"));
    assert!(source.wait(Duration::from_secs(10)).await.is_ok());
    assert_eq!(server.asked(), ["first", "another"]);
}

#[tokio::test(start_paused = true)]
async fn new_content_of_the_refresh_tokens_file_is_asked_with_at_once_and_the_old_token_serves_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("refresh");
    std::fs::write(&file, "first").unwrap();
    let long = |token: &str| Ok(TokenResponse { lifetime: Some(HOUR), ..grant(token, 0) });
    let transient = TokenError::Network("none".to_owned());
    let server = Server::answering([long("a"), Err(transient), long("b")]);
    let lines = format!("refresh_token = {{ file = \"{}\" }}\n{ROOMY}", file.display());
    let (source, _task) = run(&server, &configured_with(folder.path(), &lines));
    let generation = source.wait(HOUR).await.unwrap().generation();
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(server.asked(), ["first"]);

    std::fs::write(&file, "second").unwrap();
    let written = tokio::time::Instant::now();
    while server.asked().len() < 2 {
        assert!(written.elapsed() <= SUBJECT_POLL_INTERVAL);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(source.current().unwrap().generation(), generation, "it has not succeeded yet");

    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(source.current().unwrap().generation() > generation);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(server.asked(), ["first", "second", "second"]);
}

/// A token for an hour, from a run before.
async fn had_a_token(folder: &Path, lines: &str) -> Server {
    let server = Server::answering([Ok(TokenResponse { lifetime: Some(HOUR), ..grant("a", 0) })]);
    let (source, task) = run(&server, &configured_with(folder, lines));
    assert!(source.wait(HOUR).await.is_ok());
    end(task).await;
    server
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_other_secrets_keeps_the_token_and_asks_at_once_until_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |secret: &str| format!("refresh_token = \"r\"\nclient_secret = \"{secret}\"\n{ROOMY}");
    let server = had_a_token(folder.path(), &lines("old")).await;

    let network = || Err(TokenError::Network("none".to_owned()));
    let token = || Ok(TokenResponse { lifetime: Some(HOUR), ..grant("b", 0) });
    for (secret, answer, requests) in
        [("old", None, 1), ("new", Some(network()), 2), ("new", Some(token()), 3), ("new", None, 3)]
    {
        server.answers.lock().unwrap().extend(answer);
        let (source, task) = run(&server, &configured_with(folder.path(), &lines(secret)));
        assert!(source.current().is_some(), "the token serves at once");
        // Longer than the first backoff, which outlives the restart, unless that is what the run is to end in.
        let runs = Duration::from_millis(if requests == 2 { 1 } else { 2000 });
        tokio::time::sleep(runs).await;
        end(task).await;
        assert_eq!(server.asked().len(), requests);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_for_another_principal_begins_without_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |more: &str| format!("refresh_token = \"r\"\n{ROOMY}\n{more}");
    let server = had_a_token(folder.path(), &lines("")).await;

    let credential = configured_with(folder.path(), &lines("client_auth = \"client_secret_post\""));
    let (source, _task) = run(&server, &credential);

    assert!(source.current().is_none());
    assert!(source.wait(HOUR).await.is_ok());
    assert_eq!(server.asked(), ["r", "r"], "the refresh token is the same account's");
}
