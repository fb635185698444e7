//! The bytes of a state file, version 2; no other is read.
//!
//! A header in clear is followed by a body. With a key the body is encrypted (AES-256-GCM, NIST SP 800-38D, with a random
//! nonce); without a key it holds no token and ends in a checksum. Tag and checksum cover the header and the file's name too,
//! so that a changed header or a renamed file is detected. Numbers are big-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 8 | `bearerd` and 0x1a |
//! | 2 | version |
//! | 1 | protection: 0 SHA-256, 1 AES-256-GCM |
//! | 32 | the credential's identity |
//! | 8 | the number of the write |
//! | 8 | the id of the key; zeros without a key |
//! | 4 | the length of everything after this field |
//! | 12 | nonce; only with a key |
//! | … | body, JSON |
//! | 16 or 32 | tag or checksum |

use std::time::Duration;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::digest::{Context, Digest, SHA256};
use secrecy::zeroize::Zeroizing;

use super::age::Stamp;
use super::body;
use super::body::{ClearBody, SealedBody};
use super::error::{SaveError, StateRefusal};
use super::record::{Identity, State};
use crate::config::model::state_key::{KEY_ID_BYTES, StateKey, StateKeys};

const MAGIC: [u8; 8] = *b"bearerd\x1a";
const VERSION: u16 = 2;
const CLEAR: u8 = 0;
const SEALED: u8 = 1;
const HEADER_BYTES: usize = 8 + 2 + 1 + 32 + 8 + KEY_ID_BYTES + 4;
const TAG_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 32;

/// Encodes and decodes one credential's states.
#[derive(Debug)]
pub(in crate::token) struct Format {
    identity: Identity,
    keys: StateKeys,
    /// The file's name, without its folder.
    name: Vec<u8>,
    /// A barrier that is read ends within this time.
    longest_wait: Duration,
}

/// A decoded state file.
#[derive(Debug)]
pub(in crate::token) struct Decoded {
    pub(in crate::token) state: State,
    /// The number of the write.
    pub(in crate::token) sequence: u64,
    /// Whether the state is encrypted under a previous key.
    pub(in crate::token) has_old_key: bool,
    /// The contents, in words, of a state of another client or server. Such a state is discarded, and
    /// [`Decoded::state`] is then empty.
    pub(in crate::token) discarded: Option<String>,
}

impl Format {
    pub(in crate::token) fn new(
        identity: Identity,
        keys: StateKeys,
        name: &[u8],
        longest_wait: Duration,
    ) -> Self {
        Self { identity, keys, name: name.to_owned(), longest_wait }
    }

    /// Whether tokens are written, which takes a key.
    pub(in crate::token) fn keeps_tokens(&self) -> bool {
        self.keys.current().is_some()
    }

    pub(in crate::token) fn write(
        &self,
        state: &State,
        sequence: u64,
        now: Stamp,
    ) -> Result<Vec<u8>, SaveError> {
        match self.keys.current() {
            Some(key) => {
                let body = body::to_bytes(&SealedBody::new(state, now), state).ok_or(SaveError::Seal)?;
                self.seal(key, sequence, body)
            }
            None => {
                let body = body::to_bytes(&ClearBody::new(state, now), state).ok_or(SaveError::Seal)?;
                let mut bytes =
                    self.header(CLEAR, sequence, [0; KEY_ID_BYTES], body.len() + CHECKSUM_BYTES)?;
                let checksum = self.checksum(&bytes, &body);
                bytes.extend_from_slice(&body);
                bytes.extend_from_slice(checksum.as_ref());
                Ok(bytes)
            }
        }
    }

    pub(in crate::token) fn seal(
        &self,
        key: &StateKey,
        sequence: u64,
        mut body: Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>, SaveError> {
        let mut bytes = self.header(SEALED, sequence, key.id(), NONCE_LEN + body.len() + TAG_BYTES)?;
        let (nonce, tag) = key
            .cipher()
            .seal_in_place_separate_tag(Aad::from(self.bound(&bytes)), &mut body)
            .map_err(|_| SaveError::Seal)?;
        bytes.extend_from_slice(nonce.as_ref());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(tag.as_ref());
        Ok(bytes)
    }

    fn header(
        &self,
        seal: u8,
        sequence: u64,
        key: [u8; KEY_ID_BYTES],
        rest: usize,
    ) -> Result<Vec<u8>, SaveError> {
        let rest_bytes = u32::try_from(rest).map_err(|_| SaveError::TooLarge(rest))?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + rest);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.push(seal);
        bytes.extend_from_slice(self.identity.as_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(&rest_bytes.to_be_bytes());
        Ok(bytes)
    }

    /// Decodes the file. A state of another client or server is discarded, or refused if it may hold a
    /// refresh token that still works.
    ///
    /// # Errors
    ///
    /// [`StateRefusal`].
    pub(in crate::token) fn read_or_discard(
        &self,
        bytes: &[u8],
        now: &Stamp,
    ) -> Result<Decoded, StateRefusal> {
        let read = self.read(bytes, now);
        if !matches!(read, Err(StateRefusal::Foreign)) {
            return read;
        }
        match read_header(bytes).and_then(|header| self.decode(&header, now)) {
            Ok(Decoded { state, sequence, .. }) if !state.has_live_refresh_token() => {
                let discarded = Some(state.contents());
                Ok(Decoded { state: State::default(), sequence, has_old_key: false, discarded })
            }
            Err(refusal) if refusal.is_damage() => Err(refusal),
            _ => Err(StateRefusal::Foreign),
        }
    }

    pub(in crate::token) fn read(&self, bytes: &[u8], now: &Stamp) -> Result<Decoded, StateRefusal> {
        let header = read_header(bytes)?;
        if header.identity != *self.identity.as_bytes() {
            return Err(StateRefusal::Foreign);
        }
        self.decode(&header, now)
    }

    fn decode(&self, header: &Header<'_>, now: &Stamp) -> Result<Decoded, StateRefusal> {
        let Header { seal, sequence, key, bytes: header, rest, .. } = *header;
        match seal {
            SEALED => {
                if !self.keeps_tokens() {
                    return Err(StateRefusal::NoKey);
                }
                let (key, has_old_key) = self.keys.find(key).ok_or(StateRefusal::OtherKey)?;
                let body = self.unseal(key, header, rest)?;
                let state = body::from_bytes::<SealedBody>(&body)?.into_state(now, self.longest_wait)?;
                Ok(Decoded { state, sequence, has_old_key, discarded: None })
            }
            CLEAR => {
                let (body, checksum) =
                    rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or(StateRefusal::Altered)?;
                if self.checksum(header, body).as_ref() != checksum {
                    return Err(StateRefusal::Altered);
                }
                let state = body::from_bytes::<ClearBody>(body)?.into_state(now, self.longest_wait);
                Ok(Decoded { state, sequence, has_old_key: false, discarded: None })
            }
            _ => Err(StateRefusal::Altered),
        }
    }

    fn unseal(&self, key: &StateKey, header: &[u8], rest: &[u8]) -> Result<Zeroizing<Vec<u8>>, StateRefusal> {
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(StateRefusal::Altered)?;
        let mut body = Zeroizing::new(sealed.to_vec());
        let length = key
            .cipher()
            .open_in_place(Nonce::from(nonce), Aad::from(self.bound(header)), &mut body)
            .map_err(|_| StateRefusal::Altered)?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// The data that tag and checksum cover besides the body.
    fn bound(&self, header: &[u8]) -> Vec<u8> {
        [header, &self.name].concat()
    }

    fn checksum(&self, header: &[u8], body: &[u8]) -> Digest {
        let mut context = Context::new(&SHA256);
        context.update(&self.bound(header));
        context.update(body);
        context.finish()
    }
}

/// A decoded header, its bytes, and the bytes after it.
struct Header<'a> {
    seal: u8,
    identity: [u8; 32],
    sequence: u64,
    key: [u8; KEY_ID_BYTES],
    bytes: &'a [u8],
    rest: &'a [u8],
}

fn read_header(bytes: &[u8]) -> Result<Header<'_>, StateRefusal> {
    let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if !MAGIC.starts_with(start) {
        return Err(StateRefusal::NotState);
    }
    let mut rest = bytes.get(MAGIC.len()..).unwrap_or_default();
    let truncated = || StateRefusal::Truncated { bytes: bytes.len(), expected: HEADER_BYTES };
    // The version is read first, because the layout of the rest depends on the version.
    let version = u16::from_be_bytes(take(&mut rest).ok_or_else(truncated)?);
    if version != VERSION {
        return Err(StateRefusal::Version(version));
    }
    let (header, after) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(truncated)?;
    let [seal] = take(&mut rest).ok_or_else(truncated)?;
    let identity: [u8; 32] = take(&mut rest).ok_or_else(truncated)?;
    let sequence = u64::from_be_bytes(take(&mut rest).ok_or_else(truncated)?);
    let key = take(&mut rest).ok_or_else(truncated)?;
    let length = u32::from_be_bytes(take(&mut rest).ok_or_else(truncated)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if after.len() < length {
        let expected = length.saturating_add(HEADER_BYTES);
        return Err(StateRefusal::Truncated { bytes: bytes.len(), expected });
    }
    if after.len() > length {
        return Err(StateRefusal::Overlong(after.len() - length));
    }
    Ok(Header { seal, identity, sequence, key, bytes: header, rest: after })
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests;
