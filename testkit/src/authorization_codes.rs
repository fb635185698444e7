//! Authorization codes: each valid once, with the redirect URI and the code verifier of its request (RFC 7636 §4.6).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The codes that were issued.
#[derive(Default)]
pub struct AuthorizationCodes {
    handed_out: Vec<String>,
    /// Unused codes, each with its challenge and redirect URI.
    good: Vec<[String; 3]>,
}

impl AuthorizationCodes {
    /// All codes that were issued.
    pub fn all(&self) -> &[String] {
        &self.handed_out
    }

    /// Issues a code.
    pub(super) fn begin(&mut self, challenge: &str, redirect_uri: &str) -> String {
        let code = format!("cod_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.handed_out.push(code.clone());
        self.good.push([code.clone(), challenge.to_owned(), redirect_uri.to_owned()]);
        code
    }

    /// Uses a code; returns whether the code was valid.
    pub(super) fn take(&mut self, code: &str, redirect_uri: &str, verifier: &str) -> bool {
        let Some(at) = self.good.iter().position(|[known, ..]| known == code) else { return false };
        let [_, challenge, sent_to] = self.good.remove(at);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        challenge == URL_SAFE_NO_PAD.encode(digest) && sent_to == redirect_uri
    }
}
