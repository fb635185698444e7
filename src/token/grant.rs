//! The token request: what is sent for a grant, and how the client says who it is.
//!
//! RFC 6749 §4.4.2 (`client_credentials`) and §2.3.1 (client authentication): one method a request, always a
//! form, nothing in the URI.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use crate::config::{BasicEncoding, ClientAuth, Credential};

/// A token request without its address.
pub struct TokenRequest {
    /// The form, `application/x-www-form-urlencoded`.
    pub body: SecretString,
    /// HTTP Basic, where the client authenticates by it; marked sensitive.
    pub authorization: Option<HeaderValue>,
}

impl TokenRequest {
    /// The request for a credential's grant, with this client secret.
    pub fn new(credential: &Credential, secret: &SecretString) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !credential.scopes.is_empty() {
            form.append_pair("scope", &credential.scopes.join(" "));
        }
        let authorization = match credential.client_auth {
            ClientAuth::Basic(encoding) => Some(basic(&credential.client_id, secret, encoding)),
            ClientAuth::Post => {
                form.append_pair("client_id", &credential.client_id);
                form.append_pair("client_secret", secret.expose_secret());
                None
            }
        };
        Self { body: SecretString::from(form.finish()), authorization }
    }
}

/// RFC 6749 §2.3.1 has both encoded as in a form before they are joined; most servers expect them raw.
fn basic(client_id: &str, secret: &SecretString, encoding: BasicEncoding) -> HeaderValue {
    let encode = |text: &str| match encoding {
        BasicEncoding::Raw => text.to_owned(),
        BasicEncoding::Form => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
    };
    let pair = SecretString::from(format!("{}:{}", encode(client_id), encode(secret.expose_secret())));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair.expose_secret())))
        .expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn request(lines: &str, secret: &str) -> TokenRequest {
        let config = fixture::config("", &format!("client_id = \"id:with%+ ü\"\n{lines}"), secret);
        let credential = &config.credentials[0];
        TokenRequest::new(credential, credential.client_secret.initial())
    }

    fn pair(request: &TokenRequest) -> String {
        let value = request.authorization.as_ref().unwrap().to_str().unwrap();
        String::from_utf8(STANDARD.decode(value.strip_prefix("Basic ").unwrap()).unwrap()).unwrap()
    }

    const SECRET: &str = "s:%+ é====";

    #[test]
    fn basic_sends_id_and_secret_raw_unless_told_to_encode_them() {
        let raw = request("", SECRET);
        assert_eq!(pair(&raw), "id:with%+ ü:s:%+ é====");
        assert_eq!(raw.body.expose_secret(), "grant_type=client_credentials");

        let form = request("basic_encoding = \"form\"", SECRET);
        assert_eq!(pair(&form), "id%3Awith%25%2B+%C3%BC:s%3A%25%2B+%C3%A9%3D%3D%3D%3D");
    }

    #[test]
    fn the_body_is_always_form_encoded() {
        let post = request("client_auth = \"client_secret_post\"\nscopes = [\"a:read\", \"b\"]", SECRET);

        assert!(post.authorization.is_none());
        assert_eq!(
            post.body.expose_secret(),
            "grant_type=client_credentials&scope=a%3Aread+b&client_id=id%3Awith%25%2B+%C3%BC\
             &client_secret=s%3A%25%2B+%C3%A9%3D%3D%3D%3D"
        );
    }

    #[test]
    fn a_request_is_not_shown() {
        let request = request("", "hunter2");

        assert!(!format!("{request:?}{:?}", request.authorization).contains("aHVudGVyMg"));
        assert!(!format!("{request:?}").contains("hunter2"));
    }
}
