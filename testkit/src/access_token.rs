//! The form of the authorization server's tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A random token: opaque, or a JWT that names a tenant.
pub(super) fn new_token(tenant: Option<&str>) -> String {
    let random = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    match tenant {
        None => format!("tok_{random}"),
        Some(tenant) => {
            let header = encoded(&serde_json::json!({ "alg": "RS256", "kid": random }));
            format!("{header}.{}.{random}", encoded(&serde_json::json!({ "tenantId": tenant })))
        }
    }
}

/// A JWT with this payload and without a valid signature.
pub fn jwt(payload: &serde_json::Value) -> String {
    format!("{}.{}.c2ln", encoded(&serde_json::json!({ "alg": "RS256" })), encoded(payload))
}

fn encoded(json: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
