//! The refresh loop with two client secrets, of which the server takes what it is told to.

use std::path::Path;

use secrecy::ExposeSecret;

use super::state::{KEY, end};
use super::*;

/// Issues tokens of a day to clients with one of these secrets; records the secret and the moment of each request.
#[derive(Clone, Debug, Default)]
struct Server {
    takes: Arc<Mutex<Vec<&'static str>>>,
    asked: Arc<Mutex<Vec<(String, tokio::time::Instant)>>>,
    /// The errors with which the next requests are answered.
    next: Arc<Mutex<VecDeque<TokenError>>>,
}

impl Server {
    fn taking(secret: &'static str) -> Self {
        let server = Self::default();
        server.take(&[secret]);
        server
    }

    fn take(&self, secrets: &[&'static str]) {
        *self.takes.lock().unwrap() = secrets.to_vec();
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(secret, _)| secret.clone()).collect()
    }

    fn gaps(&self) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs()).collect()
    }
}

impl TokenEndpoint for Server {
    async fn request(
        &self,
        _: &Credential,
        identity: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let secret = identity.client_auth.secret().unwrap().expose_secret().to_owned();
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push((secret.clone(), tokio::time::Instant::now()));
            asked.len()
        };
        if let Some(error) = self.next.lock().unwrap().pop_front() {
            return Err(error);
        }
        if self.takes.lock().unwrap().iter().any(|taken| *taken == secret) {
            Ok(grant(&format!("token-{number}"), 24 * 3600))
        } else {
            Err(rejected())
        }
    }
}

/// The two secrets, each in a file.
struct Secrets(tempfile::TempDir);

impl Secrets {
    fn new() -> Self {
        let secrets = Self(tempfile::tempdir().unwrap());
        secrets.write("old", "new");
        secrets
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, current: &str, next: &str) {
        std::fs::write(self.folder().join("current"), current).unwrap();
        std::fs::write(self.folder().join("next"), next).unwrap();
    }

    fn credential(&self, lines: &str) -> Arc<Credential> {
        let file = |name: &str| format!("{{ file = \"{}\" }}", self.folder().join(name).display());
        let (current, next) = (file("current"), file("next"));
        credential(&format!("client_secret = {current}\nclient_secret_next = {next}\n{lines}"))
    }

    fn with_state(&self, lines: &str) -> Arc<Credential> {
        let path = self.folder().join("c.state");
        self.credential(&format!("state_file = \"{}\"\n{ROOMY}\n{lines}", path.display()))
    }
}

fn run(server: &Server, credential: &Arc<Credential>) -> (TokenSource, tokio::task::JoinHandle<()>) {
    let clock = Clock::tokio();
    let durable = DurableState::open(credential, clock).unwrap();
    let (refresher, source) = Refresher::new(Arc::clone(credential), server.clone(), durable, clock);
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    let task = tokio::spawn(refresher.run(std::future::pending()));
    (source, task)
}

#[tokio::test(start_paused = true)]
async fn after_a_refused_secret_the_other_is_tried_at_once_and_no_caller_notices() {
    let (secrets, server) = (Secrets::new(), Server::taking("old"));
    let (source, _task) = run(&server, &secrets.credential(""));
    let mut generation = source.wait(HOUR).await.unwrap().generation();
    server.take(&["new"]);
    for _ in 0..2 {
        let started = tokio::time::Instant::now();
        generation = source.replace(generation, Duration::from_secs(10)).await.unwrap().generation();
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(source.failure().is_none());
    }
    // And back.
    server.take(&["old"]);
    assert!(source.replace(generation, Duration::from_secs(10)).await.is_ok());

    assert_eq!(server.asked(), ["old", "old", "new", "new", "new", "old"]);
}

#[tokio::test(start_paused = true)]
async fn with_both_secrets_refused_they_alternate_as_rarely_as_one() {
    let (secrets, server) = (Secrets::new(), Server::default());
    let (source, _task) = run(&server, &secrets.credential(ROOMY));
    let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(unavailable.reason, Reason::ClientRejected);
    assert_eq!(server.asked(), ["old", "new"]);

    tokio::time::sleep(HOUR).await;
    assert_eq!(server.gaps()[..6], [0, 30, 60, 120, 240, 300]);
    assert_eq!(server.asked()[..6], ["old", "new", "old", "new", "old", "new"]);

    server.take(&["new"]);
    tokio::time::sleep(Duration::from_mins(11)).await;
    assert!(source.current().is_some());
    // An episode is over: the other is tried at once again.
    let generation = source.generation();
    server.take(&["old"]);
    assert!(source.replace(generation, Duration::from_secs(10)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_failure_in_between_does_not_try_the_other_secret_again() {
    let (secrets, server) = (Secrets::new(), Server::default());
    server.next.lock().unwrap().extend([rejected(), transient(), rejected()]);
    let (source, _task) = run(&server, &secrets.credential(ROOMY));

    assert!(source.wait(Duration::from_secs(10)).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;

    assert_eq!(server.asked(), ["old", "new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_is_not_the_clients_does_not_try_the_other_secret() {
    let (secrets, server) = (Secrets::new(), Server::taking("old"));
    let refused =
        |refusal| TokenError::Rejected { status: 400, code: "x".into(), description: None, refusal };
    for error in [refused(Refusal::Request), refused(Refusal::Grant)] {
        server.next.lock().unwrap().push_back(error);
        let before = server.asked().len();
        let (_source, task) = run(&server, &secrets.credential(ROOMY));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(server.asked()[before..], ["old"]);
        end(task).await;
    }
    server.next.lock().unwrap().push_back(refused(Refusal::Client));
    server.take(&["new"]);
    let (source, _task) = run(&server, &secrets.credential(ROOMY));
    assert!(source.wait(Duration::from_secs(10)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_a_file_both_secrets_are_tried_within_seconds() {
    let (secrets, server) = (Secrets::new(), Server::taking("third"));
    let (source, _task) = run(&server, &secrets.credential(ROOMY));
    assert!(source.wait(Duration::from_secs(10)).await.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.asked(), ["old", "new"]);

    secrets.write("old", "third");
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert!(source.current().is_some());
    assert_eq!(server.asked(), ["old", "new", "old", "third"]);
}

#[tokio::test(start_paused = true)]
async fn a_promoted_secret_is_found_without_an_extra_request() {
    let (secrets, server) = (Secrets::new(), Server::taking("new"));
    let (source, _task) = run(&server, &secrets.credential(ROOMY));
    let generation = source.wait(HOUR).await.unwrap().generation();

    secrets.write("new", "not-yet");
    assert!(source.replace(generation, Duration::from_secs(10)).await.is_ok());

    assert_eq!(server.asked(), ["old", "new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn the_accepted_secret_outlives_a_restart_with_and_without_a_key() {
    for key in [format!("state_key = \"{KEY}\""), String::new()] {
        let (secrets, server) = (Secrets::new(), Server::taking("new"));
        for _ in 0..3 {
            let (source, task) = run(&server, &secrets.with_state(&key));
            if let Some(current) = source.current() {
                assert!(source.replace(current.generation(), HOUR).await.is_ok());
            } else {
                assert!(source.wait(HOUR).await.is_ok());
            }
            end(task).await;
        }
        assert_eq!(server.asked(), ["old", "new", "new", "new"]);
        let state = std::fs::read(secrets.folder().join("c.state")).unwrap();
        assert!(!state.windows(3).any(|window| window == b"new"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_was_promoted_between_two_runs_is_found_by_its_hash() {
    let (secrets, server) = (Secrets::new(), Server::taking("new"));
    let key = format!("state_key = \"{KEY}\"");
    let (source, task) = run(&server, &secrets.with_state(&key));
    assert!(source.wait(HOUR).await.is_ok());
    end(task).await;
    secrets.write("new", "not-yet");

    let (source, task) = run(&server, &secrets.with_state(&key));
    assert!(source.current().is_some(), "the token of before serves until then");
    end(task).await;

    assert_eq!(server.asked(), ["old", "new", "new"]);
}

#[tokio::test(start_paused = true)]
async fn with_both_refused_each_restart_tries_one_when_the_latch_ends() {
    let (secrets, server) = (Secrets::new(), Server::default());
    let credential = secrets.with_state("");
    for _ in 0..10 {
        let (source, task) = run(&server, &credential);
        assert!(source.wait(Duration::from_millis(10)).await.is_err());
        end(task).await;
    }
    assert_eq!(server.asked(), ["old", "new"]);
}

/// Without a key the state holds no token and no hash of a secret, and a mended configuration is noticed all the same.
#[tokio::test(start_paused = true)]
async fn without_a_state_key_too_a_changed_secret_ends_the_latch_at_a_restart() {
    let (secrets, server) = (Secrets::new(), Server::taking("mended"));
    let credential = secrets.with_state("");
    let (source, task) = run(&server, &credential);
    assert!(source.wait(Duration::from_millis(10)).await.is_err());
    end(task).await;
    let (source, task) = run(&server, &credential);
    assert!(source.wait(Duration::from_millis(10)).await.is_err(), "as before");
    end(task).await;

    secrets.write("mended", "new");
    let (source, _task) = run(&server, &secrets.with_state(""));
    assert!(source.wait(Duration::from_millis(10)).await.is_ok());
    assert_eq!(server.asked(), ["old", "new", "mended"]);
}

#[tokio::test(start_paused = true)]
async fn the_second_request_counts_against_the_quota_and_not_the_forced_one() {
    let (secrets, server) = (Secrets::new(), Server::taking("old"));
    let (source, _task) = run(&server, &secrets.credential("quota = { requests = 6, per = \"1h\" }"));
    let mut generation = source.wait(HOUR).await.unwrap().generation();
    server.take(&["new"]);
    // Three are forced; the first of them is answered by two requests.
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
