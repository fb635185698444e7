//! One-time refresh tokens with reuse detection (RFC 9700 §4.14.2).
//!
//! They are one family. Whoever uses one that was used before may have stolen it, or the one who used it then; nobody
//! knows, and the family ends.

/// A family of refresh tokens, each the successor of the one before.
#[derive(Clone, Default)]
pub struct RefreshTokens {
    /// All that were handed out.
    handed_out: Vec<String>,
    /// Whether the last of them has been used and its successor is on its way.
    is_taken: bool,
    is_revoked: bool,
    reuses: usize,
}

impl RefreshTokens {
    /// The one that was handed out last.
    pub fn latest(&self) -> Option<&str> {
        self.handed_out.last().map(String::as_str)
    }

    /// The one before it.
    pub fn before(&self) -> Option<&str> {
        self.handed_out.iter().rev().nth(1).map(String::as_str)
    }

    /// All that were handed out.
    pub fn all(&self) -> &[String] {
        &self.handed_out
    }

    /// How often one was used that had been used before.
    pub const fn reuses(&self) -> usize {
        self.reuses
    }

    /// Begins a family; the one before is forgotten.
    pub(super) fn begin(&mut self) -> String {
        *self = Self::default();
        self.add()
    }

    /// Begins a family with the next that is handed out.
    pub(super) fn expect(&mut self) {
        *self = Self::default();
        self.is_taken = true;
    }

    /// Uses one; answers whether it was good for that.
    pub(super) fn take(&mut self, token: &str) -> bool {
        let is_known = self.handed_out.iter().any(|known| known == token);
        if is_known && (self.is_taken || self.latest() != Some(token)) {
            self.reuses += 1;
            self.is_revoked = true;
        }
        self.is_taken = is_known && !self.is_revoked;
        self.is_taken
    }

    /// The successor of the one that was used.
    pub(super) fn hand_out(&mut self) -> Option<String> {
        std::mem::take(&mut self.is_taken).then(|| self.add())
    }

    /// Forgets what became of this one: it is good once more. Whether anything had.
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

/// They are as good as any, and are not shown.
impl std::fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshTokens").field("count", &self.handed_out.len()).finish_non_exhaustive()
    }
}
