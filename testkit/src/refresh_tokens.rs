//! One-time refresh tokens with reuse detection (RFC 9700 §4.14.2).
//!
//! All tokens are one family. The use of a token that was used before revokes the family, as one of the two uses may be
//! a thief's.

/// A family of refresh tokens, each the successor of the one before.
#[derive(Clone, Default)]
pub struct RefreshTokens {
    /// All tokens that were issued.
    handed_out: Vec<String>,
    /// Whether the last token was used and its successor was not issued yet.
    is_taken: bool,
    is_revoked: bool,
    reuses: usize,
}

impl RefreshTokens {
    /// The token that was issued last.
    pub fn latest(&self) -> Option<&str> {
        self.handed_out.last().map(String::as_str)
    }

    /// The token that was issued before the last.
    pub fn before(&self) -> Option<&str> {
        self.handed_out.iter().rev().nth(1).map(String::as_str)
    }

    /// All tokens that were issued.
    pub fn all(&self) -> &[String] {
        &self.handed_out
    }

    /// How often a token was used again.
    pub const fn reuses(&self) -> usize {
        self.reuses
    }

    /// Begins a new family in the place of the former.
    pub(super) fn begin(&mut self) -> String {
        *self = Self::default();
        self.add()
    }

    /// Begins a new family with the next token.
    pub(super) fn expect(&mut self) {
        *self = Self::default();
        self.is_taken = true;
    }

    /// Uses a token; returns whether the token was valid.
    pub(super) fn take(&mut self, token: &str) -> bool {
        let is_known = self.handed_out.iter().any(|known| known == token);
        if is_known && (self.is_taken || self.latest() != Some(token)) {
            self.reuses += 1;
            self.is_revoked = true;
        }
        self.is_taken = is_known && !self.is_revoked;
        self.is_taken
    }

    /// Issues the successor of the token that was used.
    pub(super) fn hand_out(&mut self) -> Option<String> {
        std::mem::take(&mut self.is_taken).then(|| self.add())
    }

    /// Makes a token valid again; returns whether it had been used.
    pub(super) fn take_back(&mut self, token: &str) -> bool {
        let was_taken = std::mem::take(&mut self.is_taken);
        let before = self.handed_out.len();
        if let Some(at) = self.handed_out.iter().position(|known| known == token) {
            self.handed_out.truncate(at + 1);
        }
        was_taken || self.handed_out.len() < before
    }

    fn add(&mut self) -> String {
        let token = format!("ref_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.handed_out.push(token.clone());
        token
    }
}

/// Without the tokens.
impl std::fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshTokens").field("count", &self.handed_out.len()).finish_non_exhaustive()
    }
}
