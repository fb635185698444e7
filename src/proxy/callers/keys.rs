//! The keys of callers: in `X-Api-Key`, or as the password of `Basic`. Only their hashes are known.

use std::collections::HashSet;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use percent_encoding::percent_decode;
use secrecy::zeroize::Zeroizing;

use super::identified::{CallerIndex, Unidentified};
use crate::config::KeyHash;
use crate::config::model::fields::is_same_field;
use crate::http::basic_password;

/// The field of a caller's key.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The shortest key in bytes: whoever has the configuration can try out the shorter ones.
const MIN_KEY: usize = 16;
/// The longest key in bytes.
const MAX_KEY: usize = 512;

/// The hashes of keys, each with its caller.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hashes: Vec<(KeyHash, CallerIndex)>,
    /// The same hashes, for what is no attempt to authenticate.
    known: HashSet<KeyHash>,
}

impl Keys {
    pub(super) fn add(&mut self, hash: KeyHash, caller: CallerIndex) {
        self.hashes.push((hash, caller));
        self.known.insert(hash);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The caller whose key a request shows. A key of nobody is no key.
    pub(super) fn shown(&self, headers: &HeaderMap) -> Result<Option<CallerIndex>, Unidentified> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut fields = headers.get_all(X_API_KEY).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(Unidentified::SeveralKeys);
        }
        let mut found = field.and_then(|key| self.of(key.as_bytes()));
        for password in headers.get_all(AUTHORIZATION).iter().filter_map(basic_password) {
            let Some(caller) = self.of(password.as_bytes()) else { continue };
            if found.is_some_and(|other| other != caller) {
                return Err(Unidentified::TwoCallers);
            }
            found = Some(caller);
        }
        Ok(found)
    }

    /// The caller with this key. The time depends on the number of hashes alone, and not on which of them fits.
    fn of(&self, key: &[u8]) -> Option<CallerIndex> {
        if !(MIN_KEY..=MAX_KEY).contains(&key.len()) {
            return None;
        }
        let shown = KeyHash::of(key);
        self.hashes.iter().fold(
            None,
            |found, (hash, caller)| {
                if hash.matches(&shown) { Some(*caller) } else { found }
            },
        )
    }

    /// Whether a query contains a key, as the value of a parameter or as a parameter without a value.
    pub(super) fn are_in(&self, query: &str) -> bool {
        if self.is_empty() || query.len() < MIN_KEY {
            return false;
        }
        let parameters = query.as_bytes().split(|byte| matches!(byte, b'&' | b';'));
        parameters.into_iter().any(|parameter| {
            let value = parameter.iter().position(|byte| *byte == b'=').map(|at| &parameter[at + 1..]);
            self.has(parameter) || value.is_some_and(|value| self.has(value))
        })
    }

    /// Whether an encoded text is a key.
    fn has(&self, encoded: &[u8]) -> bool {
        // An escape has three bytes.
        if !(MIN_KEY..=3 * MAX_KEY).contains(&encoded.len()) {
            return false;
        }
        let decoded = Zeroizing::new(percent_decode(encoded).collect::<Vec<u8>>());
        decoded.len() >= MIN_KEY && self.known.contains(&KeyHash::of(&decoded))
    }

    /// Removes the field of a key, in every spelling that a server may take for it.
    pub(super) fn remove(&self, headers: &mut HeaderMap, has_odd_name: bool) {
        if self.is_empty() {
            return;
        }
        headers.remove(X_API_KEY);
        if has_odd_name {
            let is_spelling = |name: &&HeaderName| is_same_field(name.as_str(), X_API_KEY.as_str());
            let spellings: Vec<HeaderName> = headers.keys().filter(is_spelling).cloned().collect();
            for name in spellings {
                headers.remove(name);
            }
        }
    }
}
