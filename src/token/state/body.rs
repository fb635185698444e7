//! A state as JSON: the whole of it, which is sealed, or only what may stand in clear.
//!
//! Moments become times before and after the write, and moments again when they are read. Tokens are written in
//! base64: so they need no escapes, for which the parser would make copies that are not wiped.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::age::{Elapsed, Stamp, nanos};
use super::error::Refusal;
use super::record::{Lineage, Memory, Refused, SecretMark, State};
use crate::clock::Moment;
use crate::config::IdentityDigest;
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::{Barrier, Blocked};

/// What surrounds the tokens and scopes, generously.
const FRAME_BYTES: usize = 8192;

/// What is written without a key. It has no place for a token, so none is ever read from it either.
#[derive(Serialize, Deserialize)]
pub(super) struct ClearBody {
    written: Stamp,
    memory: WrittenMemory,
}

/// What is written with a key.
#[derive(Serialize, Deserialize)]
pub(super) struct SealedBody {
    written: Stamp,
    memory: WrittenMemory,
    generation: u64,
    rotations: u64,
    lineage: Option<[u8; 32]>,
    refresh_token: Option<Hidden>,
    fallback: Option<[u8; 32]>,
    /// Since version 2.
    #[serde(default)]
    refused: Vec<[u8; 32]>,
    access_token: Option<WrittenToken>,
    identity: Option<[u8; 32]>,
    request: Option<[u8; 32]>,
    /// Since version 2.
    #[serde(default)]
    client_secret: Option<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct WrittenMemory {
    blocked: Option<WrittenBlocked>,
    failures: u32,
    rejections: u32,
    /// From the write on, in nanoseconds. These since version 2.
    #[serde(default)]
    quota_left: u64,
    #[serde(default)]
    forced_quota_left: u64,
    #[serde(default)]
    uses_next_secret: bool,
}

#[derive(Serialize, Deserialize)]
struct WrittenBlocked {
    #[serde(with = "WrittenBarrier")]
    by: Barrier,
    /// From the write on, in nanoseconds.
    left: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Barrier", rename_all = "snake_case")]
enum WrittenBarrier {
    Quota,
    RetryAfter,
    Backoff,
    Breaker,
    Latch,
}

#[derive(Serialize, Deserialize)]
struct WrittenToken {
    token: Hidden,
    generation: u64,
    /// Up to the write, in nanoseconds.
    age: u64,
    /// From the write on, in nanoseconds.
    left: u64,
    scopes: Vec<String>,
}

impl ClearBody {
    pub(super) fn new(state: &State, written: Stamp) -> Self {
        let memory = WrittenMemory::new(state.memory, written.moment());
        Self { written, memory }
    }

    pub(super) fn into_state(self, now: &Stamp, longest_wait: Duration) -> State {
        let elapsed = now.since(&self.written);
        State { memory: self.memory.as_of(now.moment(), elapsed, longest_wait), ..State::default() }
    }
}

impl SealedBody {
    pub(super) fn new(state: &State, written: Stamp) -> Self {
        let now = written.moment();
        let usable = state.access_token.as_ref().filter(|token| token.is_usable(now));
        Self {
            memory: WrittenMemory::new(state.memory, now),
            generation: state.generation.number(),
            rotations: state.rotations,
            lineage: state.lineage.map(|lineage| *lineage.as_bytes()),
            refresh_token: state.refresh_token.clone().map(Hidden),
            refused: state.refused.iter().map(|refused| *refused.as_bytes()).collect(),
            fallback: state.fallback.map(|fallback| *fallback.as_bytes()),
            identity: state.identity.map(|identity| *identity.as_bytes()),
            request: state.request.map(|request| *request.as_bytes()),
            client_secret: state.client_secret.map(|mark| *mark.as_bytes()),
            access_token: usable.and_then(|token| WrittenToken::new(token, now)),
            written,
        }
    }

    pub(super) fn into_state(self, now: &Stamp, longest_wait: Duration) -> Result<State, Refusal> {
        let elapsed = now.since(&self.written);
        let access_token =
            self.access_token.map(|token| token.into_token(now.moment(), elapsed)).transpose()?;
        Ok(State {
            refresh_token: self.refresh_token.map(|token| token.0),
            refused: self.refused.into_iter().map(Refused::from_bytes).collect(),
            lineage: self.lineage.map(Lineage::from_bytes),
            rotations: self.rotations,
            generation: Generation::from_number(self.generation),
            access_token: access_token.flatten(),
            fallback: self.fallback.map(IdentityDigest::from_bytes),
            identity: self.identity.map(IdentityDigest::from_bytes),
            request: self.request.map(IdentityDigest::from_bytes),
            client_secret: self.client_secret.map(SecretMark::from_bytes),
            memory: self.memory.as_of(now.moment(), elapsed, longest_wait),
        })
    }
}

impl WrittenMemory {
    fn new(memory: Memory, now: Moment) -> Self {
        let blocked = memory.blocked.filter(|blocked| now < blocked.until);
        Self {
            blocked: blocked
                .map(|blocked| WrittenBlocked { by: blocked.by, left: nanos(now.until(blocked.until)) }),
            failures: memory.failures,
            rejections: memory.rejections,
            quota_left: nanos(now.until(memory.quota_whole_again)),
            forced_quota_left: nanos(now.until(memory.forced_quota_whole_again)),
            uses_next_secret: memory.uses_next_secret,
        }
    }

    fn as_of(&self, now: Moment, elapsed: Elapsed, longest_wait: Duration) -> Memory {
        let blocked = self.blocked.as_ref().and_then(|blocked| {
            let left = Duration::from_nanos(blocked.left).saturating_sub(elapsed.shortest).min(longest_wait);
            (!left.is_zero()).then(|| Blocked { until: now + left, by: blocked.by })
        });
        let whole_again = |left: u64| {
            let left = Duration::from_nanos(left).saturating_sub(elapsed.shortest);
            if left.is_zero() { Moment::default() } else { now + left }
        };
        Memory {
            blocked,
            quota_whole_again: whole_again(self.quota_left),
            forced_quota_whole_again: whole_again(self.forced_quota_left),
            failures: self.failures,
            rejections: self.rejections,
            uses_next_secret: self.uses_next_secret,
        }
    }
}

impl WrittenToken {
    fn new(token: &AccessToken, now: Moment) -> Option<Self> {
        Some(Self {
            token: Hidden(SecretString::from(std::str::from_utf8(token.as_bytes()).ok()?)),
            generation: token.generation().number(),
            age: nanos(token.issued().until(now)),
            left: nanos(now.until(token.expires())),
            scopes: token.scopes().to_vec(),
        })
    }

    /// The token, if it is certain to be usable still.
    fn into_token(self, now: Moment, elapsed: Elapsed) -> Result<Option<AccessToken>, Refusal> {
        let left = elapsed
            .longest
            .map(|longest| (longest, Duration::from_nanos(self.left).saturating_sub(longest)))
            .filter(|(_, left)| !left.is_zero());
        let Some((longest, left)) = left else {
            return Ok(None);
        };
        let issued = now.before(Duration::from_nanos(self.age)).before(longest);
        let lifetime = issued.until(now + left);
        let generation = Generation::from_number(self.generation);
        AccessToken::new(self.token.0.expose_secret(), generation, issued, lifetime, self.scopes)
            .map(Some)
            .map_err(|_| Refusal::Senseless)
    }
}

/// A body as bytes, in a buffer that is wiped and has never been moved to a larger one.
pub(super) fn to_bytes<B: Serialize>(body: &B, state: &State) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(room(state)));
    serde_json::to_writer(&mut *bytes, body).ok()?;
    Some(bytes)
}

/// As many bytes as a state may take: tokens in base64, scopes with each character escaped.
fn room(state: &State) -> usize {
    let tokens = state.access_token.as_ref().map_or(0, |token| token.as_bytes().len())
        + state.refresh_token.as_ref().map_or(0, |token| token.expose_secret().len());
    let scopes: usize =
        state.access_token.iter().flat_map(AccessToken::scopes).map(|scope| scope.len() * 6 + 3).sum();
    FRAME_BYTES + tokens * 2 + scopes
}

/// A body from bytes.
pub(super) fn from_bytes<'a, B: Deserialize<'a>>(bytes: &'a [u8]) -> Result<B, Refusal> {
    // What the parser has to say could quote the content.
    serde_json::from_slice(bytes).map_err(|_| Refusal::Senseless)
}

/// A secret, in base64.
struct Hidden(SecretString);

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(self.0.expose_secret())))
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HiddenVisitor)
    }
}

struct HiddenVisitor;

impl Visitor<'_> for HiddenVisitor {
    type Value = Hidden;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Hidden, E> {
        let wrong = || E::custom("not a secret");
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| wrong())?;
        let secret = std::str::from_utf8(&bytes[..length]).map_err(|_| wrong())?;
        Ok(Hidden(SecretString::from(secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_never_outgrows_its_buffer() {
        let now = Stamp::now(crate::clock::Clock::system());
        let scopes = vec!["\u{1}".repeat(30_000), "\"".to_owned()];
        let lifetime = Duration::MAX;
        let token =
            AccessToken::new(&"a".repeat(16_384), Generation::NONE, Moment::default(), lifetime, scopes);
        let largest = State {
            refresh_token: Some(SecretString::from("r".repeat(50_000))),
            refused: vec![Refused::from_bytes([255; 32]); 16],
            lineage: Some(Lineage::from_bytes([255; 32])),
            rotations: u64::MAX,
            generation: Generation::from_number(u64::MAX),
            access_token: Some(token.unwrap()),
            fallback: Some(IdentityDigest::from_bytes([255; 32])),
            identity: Some(IdentityDigest::from_bytes([255; 32])),
            request: Some(IdentityDigest::from_bytes([255; 32])),
            client_secret: Some(SecretMark::from_bytes([255; 32])),
            memory: Memory {
                blocked: Some(Blocked { until: Moment::from_nanos(u64::MAX), by: Barrier::RetryAfter }),
                failures: u32::MAX,
                rejections: u32::MAX,
                quota_whole_again: Moment::from_nanos(u64::MAX),
                forced_quota_whole_again: Moment::from_nanos(u64::MAX),
                uses_next_secret: false,
            },
        };
        for state in [State::default(), largest] {
            let bytes = to_bytes(&SealedBody::new(&state, now.clone()), &state).unwrap();
            assert!(bytes.len() <= room(&state), "{} of {}", bytes.len(), room(&state));
        }
    }
}
