//! The steps of the demonstration, each of which checks what its text states.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use testkit::api::{Api, Describe};
use testkit::authorization_server::{Answer, AuthorizationServer};
use testkit::pki::Pki;
use tokio::time::Instant;

use super::{CLIENT_ID, DemoError};
use crate::app::Daemon;
use crate::config;
use crate::config::{Environment, Roots};
use crate::systemd::sockets::PassedSockets;

const BURST: usize = 200;
const RETRY_AFTER_SECONDS: u64 = 2;
/// Longer than any step takes, in a debug build on a loaded machine too: a burst has hundreds of TLS handshakes.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// The two servers and the daemon between them.
#[derive(Debug)]
pub struct Scenario {
    authorization_server: AuthorizationServer,
    api: Api<Describe>,
    daemon: Daemon,
    client: reqwest::Client,
}

/// An answer to the application.
struct Seen {
    status: StatusCode,
    took: Duration,
}

impl Scenario {
    /// Starts the servers and the daemon; the daemon listens on `listen` for applications, and on `admin`.
    ///
    /// # Errors
    ///
    /// [`DemoError`], most often because an address is in use.
    pub async fn start(listen: SocketAddr, admin: SocketAddr) -> Result<Self, DemoError> {
        if !listen.ip().is_loopback() {
            return Err(DemoError::OffLoopback(listen));
        }
        let pki = Pki::new(&["localhost"])?;
        let secret = format!("{:032x}", fastrand::u128(..));
        let authorization_server = AuthorizationServer::start(CLIENT_ID, &secret, None).await?;
        let tls = pki.server_config(&[b"http/1.1"])?;
        let api = Api::listen(Some(tls), Describe { tokens: authorization_server.introspection() }).await?;
        let text = format!(
            "[server]\n\
             listen = \"{listen}\"\n\
             [server.limits]\n\
             token_wait = \"1m\"\n\
             [admin]\n\
             listen = \"{admin}\"\n\
             [credentials.demo]\n\
             token_url = \"{}\"\n\
             client_id = \"{CLIENT_ID}\"\n\
             client_secret = {{ env = \"SECRET\" }}\n\
             [[routes]]\n\
             upstream = \"{}\"\n\
             credential = \"demo\"\n\
             connect_timeout = \"1m\"\n",
            authorization_server.token_url(),
            api.url(),
        );
        let environment = Environment::from([("SECRET", secret.as_str())]);
        let mut config = config::parse(Path::new("demo.toml"), text, &environment)?.config;
        for route in &mut config.routes {
            route.upstream.roots = Roots::Only(vec![pki.authority().clone()]);
        }
        let daemon = Daemon::start(&config, None, PassedSockets::default())?;
        #[expect(clippy::disallowed_methods, reason = "calls our own daemon, and holds no secret")]
        let client = reqwest::Client::builder().no_proxy().timeout(STEP_TIMEOUT).build()?;
        Ok(Self { authorization_server, api, daemon, client })
    }

    /// The address for applications.
    pub fn url(&self) -> String {
        self.daemon.addresses().first().map(|address| format!("http://{address}")).unwrap_or_default()
    }

    /// The admin address, where the status page is.
    pub fn admin(&self) -> String {
        format!("http://{}", self.daemon.admin_address())
    }

    /// The daemon, to be stopped.
    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }

    /// The addresses of the three servers.
    pub fn introduction(&self) -> String {
        format!(
            "bearerd demo: everything below runs on loopback, in this process.\n\
             \n\
             \x20 application  -->  bearerd {}  -->  API {}\n\
             \x20                      |\n\
             \x20                      +--  authorization server {}\n\
             \n\
             status page: {}/\n\
             in a terminal: bearerd status --admin {}\n",
            self.url(),
            self.api.url(),
            self.authorization_server.token_url(),
            self.admin(),
            self.admin(),
        )
    }

    /// 1: the daemon requests a token before the first request.
    pub async fn first_token(&self) -> Result<String, DemoError> {
        let started = Instant::now();
        while self.authorization_server.issued().is_empty() && started.elapsed() < STEP_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        expect("first token", 1, self.authorization_server.requests())?;
        Ok("The first token\n\
            \x20  bearerd requested a token before any application called.\n\
            \x20  Token requests in this step: 1"
            .to_owned())
    }

    /// 2: a request without a credential is answered.
    pub async fn plain_request(&self) -> Result<String, DemoError> {
        let seen = self.get().await?;
        expect("plain request", StatusCode::OK, seen.status)?;
        Ok(format!(
            "A request without a credential\n\
             \x20  GET /hello → {} in {}\n\
             \x20  The application sent no token; the API received a live one.",
            seen.status.as_u16(),
            millis(seen.took)
        ))
    }

    /// 3: the token is revoked at the API; the caller does not notice.
    pub async fn revoked(&self) -> Result<String, DemoError> {
        let (requests, rejected) = (self.authorization_server.requests(), self.api.rejected());
        self.authorization_server.revoke_all();
        let seen = self.get().await?;
        expect("revoked token", StatusCode::OK, seen.status)?;
        expect("revoked token: 401s of the API", 1, self.api.rejected() - rejected)?;
        expect("revoked token: token requests", 1, self.authorization_server.requests() - requests)?;
        Ok(format!(
            "The API revokes the token without notice\n\
             \x20  GET /hello → {} in {}\n\
             \x20  The API answered 401; bearerd requested a new token and sent the request again.\n\
             \x20  The application received one answer and no 401. Token requests in this step: 1",
            seen.status.as_u16(),
            millis(seen.took)
        ))
    }

    /// 4: many requests meet the same revoked token.
    pub async fn burst(&self) -> Result<String, DemoError> {
        let requests = self.authorization_server.requests();
        self.authorization_server.set_delay(Duration::from_millis(300));
        self.authorization_server.revoke_all();
        let started = Instant::now();
        let answers = futures_util::future::join_all((0..BURST).map(|_| self.get())).await;
        let took = started.elapsed();
        self.authorization_server.set_delay(Duration::ZERO);
        let mut good = 0;
        for answer in answers {
            good += usize::from(answer?.status == StatusCode::OK);
        }
        expect("burst: answers of 200", BURST, good)?;
        expect("burst: token requests", 1, self.authorization_server.requests() - requests)?;
        Ok(format!(
            "{BURST} requests at once with a revoked token and a slow token endpoint\n\
             \x20  {BURST} x GET /hello → {good} x 200 in {}\n\
             \x20  All requests waited for the same refresh; no application received a 401. Token requests in this step: 1",
            millis(took)
        ))
    }

    /// 5: the daemon obeys a `Retry-After` of the token endpoint, and the caller waits meanwhile.
    pub async fn retry_after(&self) -> Result<String, DemoError> {
        let requests = self.authorization_server.requests();
        self.authorization_server.answer_next(Answer::too_many(RETRY_AFTER_SECONDS));
        self.authorization_server.revoke_all();
        let seen = self.get().await?;
        expect("Retry-After", StatusCode::OK, seen.status)?;
        expect("Retry-After: token requests", 2, self.authorization_server.requests() - requests)?;
        let asked = self.authorization_server.asked();
        let gap = match asked.as_slice() {
            [.., limited, next] => next.at.duration_since(limited.at),
            _ => Duration::ZERO,
        };
        if gap < Duration::from_secs(RETRY_AFTER_SECONDS) {
            let expected = format!("{RETRY_AFTER_SECONDS} s between token requests");
            return Err(unexpected("Retry-After", &expected, &millis(gap)));
        }
        Ok(format!(
            "The token is revoked again, and the token endpoint answers 429 with Retry-After: {RETRY_AFTER_SECONDS}\n\
             \x20  GET /hello → {} in {}: the request waited until the token endpoint could be asked again\n\
             \x20  The next token request came {} after the 429: Retry-After and a random delay.\n\
             \x20  Had Retry-After been longer than token_wait, the application would have received a 503 at once.",
            seen.status.as_u16(),
            millis(seen.took),
            millis(gap)
        ))
    }

    async fn get(&self) -> Result<Seen, DemoError> {
        let started = Instant::now();
        let response = self.client.get(format!("{}/hello", self.url())).send().await?;
        let status = response.status();
        response.bytes().await?;
        Ok(Seen { status, took: started.elapsed() })
    }

    /// Revokes the current token.
    pub fn revoke(&self) {
        self.authorization_server.revoke_all();
    }
}

fn expect<T: PartialEq + Display + Copy>(step: &str, expected: T, got: T) -> Result<(), DemoError> {
    if expected == got { Ok(()) } else { Err(unexpected(step, &expected, &got)) }
}

fn unexpected(step: &str, expected: &dyn Display, got: &dyn Display) -> DemoError {
    DemoError::Unexpected(format!("{step}: expected {expected}, got {got}"))
}

fn millis(duration: Duration) -> String {
    if duration < Duration::from_millis(10) {
        format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{} ms", duration.as_millis())
    }
}
