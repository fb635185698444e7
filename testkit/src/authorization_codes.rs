//! Authorization codes: each good once, for who asked for it, and only with what it was asked for with (RFC 7636 §4.6).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The codes that were handed out.
#[derive(Default)]
pub struct AuthorizationCodes {
    handed_out: Vec<String>,
    /// Those that were not used: the code, its challenge, and where the browser was sent.
    good: Vec<[String; 3]>,
}

impl AuthorizationCodes {
    /// All that were handed out.
    pub fn all(&self) -> &[String] {
        &self.handed_out
    }

    /// A new one.
    pub(super) fn begin(&mut self, challenge: &str, redirect_uri: &str) -> String {
        let code = format!("cod_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.handed_out.push(code.clone());
        self.good.push([code.clone(), challenge.to_owned(), redirect_uri.to_owned()]);
        code
    }

    /// Uses one; answers whether it was good for that.
    pub(super) fn take(&mut self, code: &str, redirect_uri: &str, verifier: &str) -> bool {
        let Some(at) = self.good.iter().position(|[known, ..]| known == code) else { return false };
        let [_, challenge, sent_to] = self.good.remove(at);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
        challenge == URL_SAFE_NO_PAD.encode(digest) && sent_to == redirect_uri
    }
}
