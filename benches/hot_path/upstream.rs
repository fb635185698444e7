//! The peers: an API that answers 200 to the live token and 401 to others, and a token endpoint.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::config::{Credential, Identity};
use bearerd::proxy::upstream::connect::{Connect, Connected, Connecting};
use bearerd::token::error::TokenError;
use bearerd::token::{HeldToken, TokenEndpoint, TokenResponse};
use secrecy::SecretString;

use super::pipe::{End, pipe};

/// The last byte of each body, which occurs nowhere else in a message.
pub(crate) const LAST: u8 = b'!';

/// The number of issued tokens, and the live one.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: AtomicU64,
    /// The `authorization` field with the live token.
    live: Mutex<Option<String>>,
}

impl Tokens {
    /// How many tokens were issued.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Revokes the live token.
    pub(crate) fn revoke(&self) {
        *self.live.lock().unwrap() = None;
    }

    /// Issues a token of a usual length, the same for all tokens.
    fn issue(&self) -> String {
        let number = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let token = format!("{number:0>256}");
        *self.live.lock().unwrap() = Some(format!("authorization: Bearer {token}\r\n"));
        token
    }

    /// Whether a request has the live token. The search begins where the token was found before, which costs little.
    fn authorizes(&self, request: &[u8], at: &mut usize) -> bool {
        let live = self.live.lock().unwrap();
        let Some(field) = live.as_ref().map(String::as_bytes) else { return false };
        let is_at = |at: usize| request.get(at..).is_some_and(|rest| rest.starts_with(field));
        if !is_at(*at) {
            *at = (0..request.len()).find(|at| is_at(*at)).unwrap_or(*at);
        }
        is_at(*at)
    }
}

/// Answers token requests.
#[derive(Debug)]
pub(crate) struct Issuer(pub Arc<Tokens>);

impl TokenEndpoint for Issuer {
    async fn request(
        &self,
        _: &Credential,
        _: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        Ok(TokenResponse {
            access_token: self.0.issue().into(),
            lifetime: Some(Duration::from_hours(1)),
            lifetime_was_cut: false,
            is_labelled_json: true,
            scopes: None,
            server_time: None,
            refresh_token: None,
            id_token: None,
            refresh_lifetime: None,
            flaw: None,
        })
    }
}

/// The API; a connection to it is a pipe to a task.
pub(crate) struct Api {
    /// The tokens that the API accepts.
    pub tokens: Arc<Tokens>,
    /// The end of a request.
    pub request_end: &'static [u8],
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Connect for Api {
    fn connect(&self) -> Connecting<'_> {
        let (near, far) = pipe();
        tokio::task::spawn_local(answer(far, Arc::clone(&self.tokens), self.request_end));
        Box::pin(async move { Ok(Connected { stream: Box::new(near), is_http2: false }) })
    }

    fn may_speak_http2(&self) -> bool {
        false
    }
}

/// Answers the requests of one connection.
async fn answer(connection: End, tokens: Arc<Tokens>, request_end: &[u8]) {
    let mut at = 0;
    let mut judged =
        |request: &[u8]| request.ends_with(request_end).then(|| tokens.authorizes(request, &mut at));
    while let Some(is_authorized) = connection.take_when(&mut judged).await {
        if is_authorized {
            connection.put(&[OK.as_bytes(), &[b'x'; 1023], &[LAST]]);
        } else {
            connection.put(&[UNAUTHORIZED.as_bytes()]);
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-type: application/json\r\n\
    cache-control: no-store\r\nx-request-id: 0af7651916cd43dd8448eb211c80319c\r\ncontent-length: 1024\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    www-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n";
