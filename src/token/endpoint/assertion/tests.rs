//! Our JWTs as a server sees them: checked by another library.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::*;
use crate::clock::wall_clock;
use crate::config::fixture::keys;

fn checked(jwt: &SecretString, key: &DecodingKey, algorithm: Algorithm) -> (Option<String>, Value) {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&["https://as.example.com/t"]);
    validation.leeway = 0;
    let token = jsonwebtoken::decode::<Value>(jwt.expose_secret(), key, &validation).unwrap();
    assert_eq!(token.header.typ.as_deref(), Some("JWT"));
    (token.header.kid, token.claims)
}

fn assertion(pem: &str, algorithm: SigningAlgorithm, subject: &str) -> Assertion<SecretString> {
    Assertion {
        key: SecretString::from(pem.to_owned()),
        kid: Some("key-1".into()),
        algorithm,
        audience: "https://as.example.com/t".into(),
        subject: subject.into(),
    }
}

#[test]
fn a_jwt_signed_with_a_key_of_any_form_conforms_to_rfc_7523() {
    let (rsa, rsa_public) = keys::rsa();
    let (p256, p256_public) = keys::p256();
    let rsa_public = DecodingKey::from_rsa_der(&rsa_public);
    let p256_public = DecodingKey::from_ec_der(&p256_public);
    for (pem, algorithm, public, same) in [
        (&rsa[0], SigningAlgorithm::Rs256, &rsa_public, Algorithm::RS256),
        (&rsa[1], SigningAlgorithm::Rs256, &rsa_public, Algorithm::RS256),
        (&p256[0], SigningAlgorithm::Es256, &p256_public, Algorithm::ES256),
        (&p256[1], SigningAlgorithm::Es256, &p256_public, Algorithm::ES256),
    ] {
        let now = wall_clock();
        let jwt = under_key("client", &assertion(pem, algorithm, "user@example.com"), now).unwrap();

        let (kid, claims) = checked(&jwt, public, same);

        assert_eq!(kid.as_deref(), Some("key-1"));
        assert_eq!(
            (claims["iss"].as_str(), claims["sub"].as_str()),
            (Some("client"), Some("user@example.com"))
        );
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (iat, exp) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert!(iat < now && now < exp && exp - iat <= 300, "{iat} {now} {exp}");
    }
}

#[test]
fn a_jwt_signed_with_the_secret_is_hs256_and_issued_by_the_client() {
    let secret = SecretString::from("s:%+ é====".to_owned());
    let jwt = under_secret("client", &secret, "https://as.example.com/t", wall_clock());

    let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
    let (kid, claims) = checked(&jwt, &key, Algorithm::HS256);

    assert_eq!(kid, None);
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("client"), Some("client")));
}

#[test]
fn no_two_jwts_have_the_same_id() {
    let secret = SecretString::from("secret".to_owned());
    let key = DecodingKey::from_secret(b"secret");
    let now = wall_clock();
    let ids: BTreeSet<String> = (0..100)
        .map(|_| under_secret("client", &secret, "https://as.example.com/t", now))
        .map(|jwt| checked(&jwt, &key, Algorithm::HS256).1["jti"].as_str().unwrap().to_owned())
        .collect();

    assert_eq!(ids.len(), 100);
}

#[test]
fn a_key_of_another_kind_signs_nothing() {
    let (rsa, _) = keys::rsa();
    let (p256, _) = keys::p256();
    for (pem, algorithm, error) in [
        (rsa[0].as_str(), SigningAlgorithm::Es256, KeyError::NotP256),
        (rsa[1].as_str(), SigningAlgorithm::Es256, KeyError::NotP256),
        (p256[0].as_str(), SigningAlgorithm::Rs256, KeyError::NotRsa),
        (p256[1].as_str(), SigningAlgorithm::Rs256, KeyError::NotRsa),
        ("hunter2", SigningAlgorithm::Rs256, KeyError::NotPem),
        (&keys::pem("PRIVATE KEY", b"hunter2"), SigningAlgorithm::Rs256, KeyError::NotRsa),
        (&keys::pem("ENCRYPTED PRIVATE KEY", b"hunter2"), SigningAlgorithm::Es256, KeyError::NotPem),
    ] {
        let refused = under_key("client", &assertion(pem, algorithm, "x"), wall_clock()).unwrap_err();
        assert_eq!(refused, error);
    }
}
