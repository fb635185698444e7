//! The body of a state file, as JSON: everything, to be sealed, or only the part that may stand in clear.
//!
//! A moment is written as a duration before or after the write, and becomes a moment again when it is read. Tokens are
//! written in base64: the parser would copy escaped text into buffers that are not wiped.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::age::{Elapsed, Stamp, nanos};
use super::error::StateRefusal;
use super::record::{ClearPart, ClientSecretHash, Doubt, Lineage, RefreshTokenHash, RequestMark, State};
use crate::clock::Moment;
use crate::config::IdentityDigest;
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::{Barrier, Blocked, Snapshot};
use crate::token::refresh_token_end::RefreshTokenEnd;

/// The bytes of a body besides its tokens and scopes, at most.
const FRAME_BYTES: usize = 8192;

/// The body without a key. Nothing in it can hold a token, so none is ever read from it either.
#[derive(Serialize, Deserialize)]
pub(super) struct ClearBody {
    written: Stamp,
    #[serde(rename = "memory")]
    clear: WrittenClearPart,
}

/// The body with a key.
#[derive(Serialize, Deserialize)]
pub(super) struct SealedBody {
    written: Stamp,
    #[serde(rename = "memory")]
    clear: WrittenClearPart,
    generation: u64,
    rotations: u64,
    lineage: Option<[u8; 32]>,
    refresh_token: Option<Base64Secret>,
    fallback: Option<[u8; 32]>,
    refused: Vec<[u8; 32]>,
    doubt: Option<WrittenDoubt>,
    refresh_token_end: Option<WrittenEnd>,
    access_token: Option<WrittenToken>,
    identity: Option<[u8; 32]>,
    client_secret: Option<[u8; 32]>,
    #[serde(default)]
    shared: u64,
}

/// A [`Doubt`].
#[derive(Serialize, Deserialize)]
struct WrittenDoubt {
    token: [u8; 32],
    is_unanswered: bool,
    refusals: u32,
    #[serde(default)]
    is_under_way: bool,
}

/// A [`RefreshTokenEnd`].
#[derive(Serialize, Deserialize)]
struct WrittenEnd {
    /// Nanoseconds from the write to the end.
    left: u64,
    /// Nanoseconds.
    lifetime: u64,
    is_final: bool,
}

/// A [`ClearPart`], with nanoseconds after the write in the place of moments.
#[derive(Serialize, Deserialize)]
struct WrittenClearPart {
    blocked: Option<WrittenBlocked>,
    failures: u32,
    rejections: u32,
    quota_left: u64,
    forced_quota_left: u64,
    uses_next_secret: bool,
    request: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct WrittenBlocked {
    #[serde(with = "WrittenBarrier")]
    by: Barrier,
    /// Nanoseconds after the write.
    left: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Barrier", rename_all = "snake_case")]
enum WrittenBarrier {
    Quota,
    RetryAfter,
    Backoff,
    Breaker,
    InDoubt,
    Latch,
    SharedStore,
}

#[derive(Serialize, Deserialize)]
struct WrittenToken {
    token: Base64Secret,
    generation: u64,
    /// Nanoseconds from the token request to the write.
    age: u64,
    /// Nanoseconds from the write to the token's end.
    left: u64,
    scopes: Vec<String>,
}

impl ClearBody {
    pub(super) fn new(state: &State, written: Stamp) -> Self {
        Self { clear: WrittenClearPart::new(state.clear_part(), written.moment()), written }
    }

    pub(super) fn into_state(self, now: &Stamp, longest_wait: Duration) -> State {
        let clear = self.clear.as_of(now.moment(), now.since(&self.written), longest_wait);
        State {
            limiter: clear.limiter,
            uses_next_secret: clear.uses_next_secret,
            request: clear.request,
            ..State::default()
        }
    }
}

impl SealedBody {
    pub(super) fn new(state: &State, written: Stamp) -> Self {
        let now = written.moment();
        let usable = state.access_token.as_ref().filter(|token| token.is_usable(now));
        Self {
            clear: WrittenClearPart::new(state.clear_part(), now),
            generation: state.generation.number(),
            rotations: state.rotations,
            refresh_token_end: state.refresh_token_end.map(|end| WrittenEnd {
                left: nanos(now.until(end.at)),
                lifetime: nanos(end.lifetime),
                is_final: end.is_final,
            }),
            lineage: state.lineage.map(|lineage| *lineage.as_bytes()),
            refresh_token: state.refresh_token.clone().map(Base64Secret),
            refused: state.refused.iter().map(|refused| *refused.as_bytes()).collect(),
            doubt: state.doubt.map(|Doubt { token, is_unanswered, refusals, is_under_way }| WrittenDoubt {
                token: *token.as_bytes(),
                is_unanswered,
                refusals,
                is_under_way,
            }),
            fallback: state.fallback.map(|fallback| *fallback.as_bytes()),
            identity: state.identity.map(|identity| *identity.as_bytes()),
            client_secret: state.client_secret.map(|mark| *mark.as_bytes()),
            access_token: usable.map(|token| WrittenToken::new(token, now)),
            shared: state.shared,
            written,
        }
    }

    pub(super) fn into_state(self, now: &Stamp, longest_wait: Duration) -> Result<State, StateRefusal> {
        let elapsed = now.since(&self.written);
        let clear = self.clear.as_of(now.moment(), elapsed, longest_wait);
        let access_token =
            self.access_token.map(|token| token.into_token(now.moment(), elapsed)).transpose()?;
        Ok(State {
            refresh_token: self.refresh_token.map(|token| token.0),
            refused: self.refused.into_iter().map(RefreshTokenHash::from_bytes).collect(),
            doubt: self.doubt.map(|WrittenDoubt { token, is_unanswered, refusals, is_under_way }| Doubt {
                token: RefreshTokenHash::from_bytes(token),
                is_unanswered,
                refusals,
                is_under_way,
            }),
            refresh_token_end: self.refresh_token_end.map(|WrittenEnd { left, lifetime, is_final }| {
                let passed = elapsed.longest.unwrap_or(elapsed.shortest);
                let at = now.moment() + Duration::from_nanos(left).saturating_sub(passed);
                RefreshTokenEnd { at, lifetime: Duration::from_nanos(lifetime), is_final }
            }),
            lineage: self.lineage.map(Lineage::from_bytes),
            rotations: self.rotations,
            generation: Generation::from_number(self.generation),
            access_token: access_token.flatten(),
            fallback: self.fallback.map(IdentityDigest::from_bytes),
            identity: self.identity.map(IdentityDigest::from_bytes),
            request: clear.request,
            client_secret: self.client_secret.map(ClientSecretHash::from_bytes),
            uses_next_secret: clear.uses_next_secret,
            limiter: clear.limiter,
            shared: self.shared,
        })
    }
}

impl WrittenClearPart {
    fn new(ClearPart { limiter, uses_next_secret, request }: ClearPart, now: Moment) -> Self {
        let blocked = limiter.blocked.filter(|blocked| now < blocked.until);
        Self {
            blocked: blocked
                .map(|blocked| WrittenBlocked { by: blocked.by, left: nanos(now.until(blocked.until)) }),
            failures: limiter.failures,
            rejections: limiter.rejections,
            quota_left: nanos(now.until(limiter.quota_full_at)),
            forced_quota_left: nanos(now.until(limiter.forced_quota_full_at)),
            uses_next_secret,
            request: request.map(|mark| mark.0),
        }
    }

    fn as_of(&self, now: Moment, elapsed: Elapsed, longest_wait: Duration) -> ClearPart {
        let left = |left: u64| Duration::from_nanos(left).saturating_sub(elapsed.shortest);
        let blocked = self.blocked.as_ref().and_then(|blocked| {
            let left = left(blocked.left).min(longest_wait);
            (!left.is_zero()).then(|| Blocked { until: now + left, by: blocked.by })
        });
        let full_at = |nanos: u64| {
            let left = left(nanos);
            if left.is_zero() { Moment::default() } else { now + left }
        };
        let limiter = Snapshot {
            blocked,
            quota_full_at: full_at(self.quota_left),
            forced_quota_full_at: full_at(self.forced_quota_left),
            failures: self.failures,
            rejections: self.rejections,
        };
        let request = self.request.map(RequestMark);
        ClearPart { limiter, uses_next_secret: self.uses_next_secret, request }
    }
}

impl WrittenToken {
    fn new(token: &AccessToken, now: Moment) -> Self {
        Self {
            token: Base64Secret(SecretString::from(token.as_str())),
            generation: token.generation().number(),
            age: nanos(token.issued().until(now)),
            left: nanos(now.until(token.expires())),
            scopes: token.scopes().to_vec(),
        }
    }

    /// The token; none unless it is certainly still usable.
    fn into_token(self, now: Moment, elapsed: Elapsed) -> Result<Option<AccessToken>, StateRefusal> {
        let Some(longest) = elapsed.longest.filter(|longest| nanos(*longest) < self.left) else {
            return Ok(None);
        };
        let left = Duration::from_nanos(self.left).saturating_sub(longest);
        let issued = now.before(Duration::from_nanos(self.age)).before(longest);
        let lifetime = issued.until(now + left);
        let generation = Generation::from_number(self.generation);
        AccessToken::new(self.token.0.expose_secret(), generation, issued, lifetime, self.scopes)
            .map(Some)
            .map_err(|_| StateRefusal::Senseless)
    }
}

/// Writes a body into a buffer that is wiped and that never grows, so that no copy of it stays behind.
pub(super) fn to_bytes<B: Serialize>(body: &B, state: &State) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity(state)));
    serde_json::to_writer(&mut *bytes, body).ok()?;
    Some(bytes)
}

/// The largest size of a state's body: tokens in base64, scopes with each character escaped.
fn capacity(state: &State) -> usize {
    let tokens = state.access_token.as_ref().map_or(0, |token| token.as_str().len())
        + state.refresh_token.as_ref().map_or(0, |token| token.expose_secret().len());
    let scopes: usize =
        state.access_token.iter().flat_map(AccessToken::scopes).map(|scope| scope.len() * 6 + 3).sum();
    FRAME_BYTES + tokens * 2 + scopes
}

/// Reads a body.
pub(super) fn from_bytes<'a, B: Deserialize<'a>>(bytes: &'a [u8]) -> Result<B, StateRefusal> {
    // The parser's message could quote the content.
    serde_json::from_slice(bytes).map_err(|_| StateRefusal::Senseless)
}

/// A secret, in base64.
struct Base64Secret(SecretString);

impl Serialize for Base64Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.0.expose_secret())))
    }
}

impl<'de> Deserialize<'de> for Base64Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let wrong = || D::Error::custom("not a secret");
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| wrong())?;
        let secret = std::str::from_utf8(&bytes[..length]).map_err(|_| wrong())?;
        Ok(Self(SecretString::from(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_never_exceeds_its_buffer() {
        let now = Stamp::now(crate::clock::Clock::system());
        let scopes = vec!["\u{1}".repeat(30_000), "\"".to_owned()];
        let lifetime = Duration::MAX;
        let token =
            AccessToken::new(&"a".repeat(16_384), Generation::NONE, Moment::default(), lifetime, scopes);
        let largest = State {
            shared: 7,

            refresh_token: Some(SecretString::from("r".repeat(50_000))),
            refused: vec![RefreshTokenHash::from_bytes([255; 32]); 16],
            doubt: Some(Doubt {
                token: RefreshTokenHash::from_bytes([255; 32]),
                is_unanswered: false,
                refusals: u32::MAX,
                is_under_way: false,
            }),
            refresh_token_end: Some(RefreshTokenEnd {
                at: Moment::from_nanos(u64::MAX),
                lifetime: Duration::MAX,
                is_final: false,
            }),
            lineage: Some(Lineage::from_bytes([255; 32])),
            rotations: u64::MAX,
            generation: Generation::from_number(u64::MAX),
            access_token: Some(token.unwrap()),
            fallback: Some(IdentityDigest::from_bytes([255; 32])),
            identity: Some(IdentityDigest::from_bytes([255; 32])),
            request: Some(RequestMark(u16::MAX)),
            client_secret: Some(ClientSecretHash::from_bytes([255; 32])),
            uses_next_secret: false,
            limiter: Snapshot {
                blocked: Some(Blocked { until: Moment::from_nanos(u64::MAX), by: Barrier::RetryAfter }),
                failures: u32::MAX,
                rejections: u32::MAX,
                quota_full_at: Moment::from_nanos(u64::MAX),
                forced_quota_full_at: Moment::from_nanos(u64::MAX),
            },
        };
        for state in [State::default(), largest] {
            let bytes = to_bytes(&SealedBody::new(&state, now.clone()), &state).unwrap();
            assert!(bytes.len() <= capacity(&state), "{} of {}", bytes.len(), capacity(&state));
        }
    }
}
