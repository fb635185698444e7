//! An OAuth 2.0 authorization server for one client: issues tokens, revokes them, does as it is told.
//!
//! A person who is sent to it authorizes the client at once, or does as told. Answers can be put in a queue; when it is empty, a valid request gets a token. Everything asked is remembered.

mod answer;
mod browser;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access_token::new_token;
use crate::authorization_codes::AuthorizationCodes;
use crate::refresh_tokens::RefreshTokens;
use crate::server::Server;

/// An authorization server that runs until it is dropped.
#[derive(Debug)]
pub struct AuthorizationServer {
    _server: Server,
    issuer: String,
    state: Arc<State>,
}

/// What a token request is answered with, in the place of a token.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A token after all, but only after this time.
    Late(Duration),
    /// A token with this lifetime in `expires_in`.
    Lifetime(u64),
    /// The token that was issued last, once more.
    SameAgain,
    /// This, whatever was asked.
    Fixed {
        /// The status.
        status: u16,
        /// Its fields; it is JSON unless they say otherwise.
        fields: Vec<(&'static str, String)>,
        /// Its body; `{token}` stands for a token that is issued with it, `{issuer}` for the issuer.
        body: String,
    },
    /// A refusal that quotes this parameter of the request.
    Echo(&'static str),
    /// No answer: the connection is closed.
    Hangup,
}

impl Answer {
    /// 429 with so many seconds in `Retry-After`.
    pub fn too_many(retry_after: u64) -> Self {
        let fields = vec![(RETRY_AFTER.as_str(), retry_after.to_string())];
        Self::Fixed { status: 429, fields, body: String::new() }
    }

    /// A status with a JSON body.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Fixed { status, fields: Vec::new(), body: body.to_owned() }
    }
}

/// What a person who is sent here does, and what it comes to.
#[derive(Clone, Debug)]
pub struct Consent {
    /// Whether the person says no.
    pub is_denied: bool,
    /// Whether the client may go on without the person.
    pub is_lasting: bool,
    /// What is granted, if that is said.
    pub scope: Option<String>,
    /// Who answers (RFC 9207), if that is said.
    pub iss: Option<String>,
}

impl Default for Consent {
    fn default() -> Self {
        Self { is_denied: false, is_lasting: true, scope: None, iss: None }
    }
}

/// A token request as it arrived.
#[derive(Clone)]
pub struct Asked {
    /// When its head arrived.
    pub at: Instant,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its form, decoded.
    pub form: Vec<(String, String)>,
    /// Its form as sent.
    pub raw: String,
}

struct State {
    issuer: OnceLock<String>,
    client_id: String,
    client_secret: String,
    memory: Mutex<Memory>,
    /// Whether answers are held back.
    is_held: watch::Sender<bool>,
}

struct Memory {
    /// Whether any client with any grant gets a token.
    takes_all: bool,
    lifetime: u64,
    /// Named in the tokens, which are JWTs then.
    tenant: Option<String>,
    delay: Duration,
    queue: VecDeque<Answer>,
    asked: Vec<Asked>,
    issued: Vec<String>,
    /// When each token ends; revoked ones are not in here.
    live: BTreeMap<String, Instant>,
    under_way: usize,
    most_at_once: usize,
    refresh: RefreshTokens,
    codes: AuthorizationCodes,
    consent: Consent,
    /// The queries of authorization requests.
    authorized: Vec<Vec<(String, String)>>,
    /// Whether the client has no secret.
    is_public: bool,
    token_path: String,
    /// What metadata is answered with, by path; the issuer's own where there is nothing.
    metadata: BTreeMap<String, Answer>,
    metadata_asked: Vec<String>,
}

impl AuthorizationServer {
    /// Starts one that knows this client.
    ///
    /// # Errors
    ///
    /// If no port is to be had.
    pub async fn start(
        client_id: &str,
        client_secret: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            issuer: OnceLock::new(),
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            memory: Mutex::new(Memory {
                takes_all: false,
                lifetime: 3600,
                tenant: None,
                delay: Duration::ZERO,
                queue: VecDeque::new(),
                asked: Vec::new(),
                issued: Vec::new(),
                live: BTreeMap::new(),
                under_way: 0,
                most_at_once: 0,
                refresh: RefreshTokens::default(),
                codes: AuthorizationCodes::default(),
                consent: Consent::default(),
                authorized: Vec::new(),
                is_public: false,
                token_path: "/token".to_owned(),
                metadata: BTreeMap::new(),
                metadata_asked: Vec::new(),
            }),
            is_held: watch::Sender::new(false),
        });
        let answering = Arc::clone(&state);
        let server = Server::start(tls, move |request| {
            let state = Arc::clone(&answering);
            async move { state.answer(request).await }
        })
        .await?;
        let host = if scheme == "https" { "localhost" } else { "127.0.0.1" };
        let issuer = format!("{scheme}://{host}:{}", server.address().port());
        let issuer = state.issuer.get_or_init(|| issuer).clone();
        Ok(Self { _server: server, issuer, state })
    }

    /// Who it is. Any path behind it makes another issuer that is the same server.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}{}", self.issuer, self.memory().token_path)
    }

    /// Where a person authorizes the client.
    pub fn authorize_url(&self) -> String {
        format!("{}/authorize", self.issuer)
    }

    /// Answers token requests at this path from now on, and with 404 elsewhere.
    pub fn move_token_endpoint(&self, path: &str) {
        path.clone_into(&mut self.memory().token_path);
    }

    /// Answers at a well-known path with this in the place of the issuer's metadata.
    pub fn set_metadata(&self, path: &str, answer: Answer) {
        self.memory().metadata.insert(path.to_owned(), answer);
    }

    /// The paths at which metadata was asked for.
    pub fn metadata_asked(&self) -> Vec<String> {
        self.memory().metadata_asked.clone()
    }

    /// What a person who is sent here does from now on.
    pub fn set_consent(&self, consent: Consent) {
        self.memory().consent = consent;
    }

    /// What a person was sent here with, each time.
    pub fn authorized(&self) -> Vec<Vec<(String, String)>> {
        self.memory().authorized.clone()
    }

    /// All codes that were handed out.
    pub fn codes(&self) -> Vec<String> {
        self.memory().codes.all().to_vec()
    }

    /// Takes the client's id for all that it has to show.
    pub fn take_public(&self) {
        self.memory().is_public = true;
    }

    /// The lifetime of tokens from now on, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.memory().lifetime = seconds;
    }

    /// The tenant that tokens name from now on.
    pub fn set_tenant(&self, tenant: &str) {
        self.memory().tenant = Some(tenant.to_owned());
    }

    /// How long each answer takes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.memory().delay = delay;
    }

    /// Holds all token answers back until [`release`](Self::release).
    pub fn hold(&self) {
        self.state.is_held.send_replace(true);
    }

    /// Gives the answers that were held back, and holds no more.
    pub fn release(&self) {
        self.state.is_held.send_replace(false);
    }

    /// Gives tokens to any client for any grant: for whoever looks at what was asked by himself.
    pub fn take_all(&self) {
        self.memory().takes_all = true;
    }

    /// A refresh token that is good for one use; each answer to it holds the next (RFC 9700 §4.14.2).
    pub fn authorize(&self) -> String {
        self.memory().refresh.begin()
    }

    /// Which refresh tokens were handed out, and what became of them.
    pub fn refresh_tokens(&self) -> RefreshTokens {
        self.memory().refresh.clone()
    }

    /// Takes the use of a refresh token for one that never was, if it was used: the answer arrived nowhere.
    pub fn take_back(&self, token: &str) -> bool {
        self.memory().refresh.take_back(token)
    }

    /// Puts an answer at the end of the queue.
    pub fn answer_next(&self, answer: Answer) {
        self.memory().queue.push_back(answer);
    }

    /// Forgets the answers that were not given yet.
    pub fn forget_queue(&self) {
        self.memory().queue.clear();
    }

    /// Forgets every token: none is live any more.
    pub fn revoke_all(&self) {
        self.memory().live.clear();
    }

    /// Which tokens are live; for whoever has to check one.
    pub fn introspection(&self) -> Introspection {
        Introspection(Arc::clone(&self.state))
    }

    /// How many token requests have come.
    pub fn requests(&self) -> usize {
        self.memory().asked.len()
    }

    /// All token requests that have come.
    pub fn asked(&self) -> Vec<Asked> {
        self.memory().asked.clone()
    }

    /// All tokens that were issued.
    pub fn issued(&self) -> Vec<String> {
        self.memory().issued.clone()
    }

    /// How many token requests were under way at once at the most.
    pub fn most_at_once(&self) -> usize {
        self.memory().most_at_once
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.state.memory()
    }
}

/// Knows which tokens are live.
#[derive(Clone, Debug)]
pub struct Introspection(Arc<State>);

impl Introspection {
    /// Whether a request's `Authorization` holds a live token, and no other.
    pub fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let token = values.next().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        values.next().is_none() && token.is_some_and(|token| self.is_live(token))
    }

    fn is_live(&self, token: &str) -> bool {
        self.0.memory().live.get(token).is_some_and(|end| Instant::now() < *end)
    }

    /// Whether a token has ended by itself, and how long ago.
    pub fn ended_ago(&self, token: &str) -> Option<Duration> {
        let end = *self.0.memory().live.get(token)?;
        Instant::now().checked_duration_since(end)
    }

    /// Whether a token was issued by this server, live or not.
    pub fn was_issued(&self, token: &str) -> bool {
        self.0.memory().issued.iter().any(|issued| issued == token)
    }

    /// Revokes one token.
    pub fn revoke(&self, token: &str) {
        self.0.memory().live.remove(token);
    }
}

/// Its secrets and tokens are as good as any, and are not shown.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("at", &self.at).finish_non_exhaustive()
    }
}

impl State {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, lifetime: u64) -> String {
        let end = Instant::now() + Duration::from_secs(lifetime);
        let mut memory = self.memory();
        let token = new_token(memory.tenant.as_deref());
        memory.issued.push(token.clone());
        memory.live.insert(token.clone(), end);
        token
    }
}

/// Counts a request while it is answered.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn begin(state: &Arc<State>) -> Self {
        let mut memory = state.memory();
        memory.under_way += 1;
        memory.most_at_once = memory.most_at_once.max(memory.under_way);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.memory().under_way -= 1;
    }
}
