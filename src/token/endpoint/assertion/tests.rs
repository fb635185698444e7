//! Our JWTs as a server sees them: checked by another library.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::*;
use crate::clock::wall_clock;
use crate::config::fixture::keys;
use crate::config::model::signing_key::SigningAlgorithm;

const LIFETIME: Duration = Duration::from_secs(270);

fn validity() -> Validity {
    Validity { now: wall_clock(), lifetime: LIFETIME }
}

fn checked(jwt: &SecretString, key: &DecodingKey, algorithm: Algorithm) -> (Option<String>, Value) {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&["https://as.example.com/t"]);
    validation.leeway = 0;
    let token = jsonwebtoken::decode::<Value>(jwt.expose_secret(), key, &validation).unwrap();
    assert_eq!(token.header.typ.as_deref(), Some("JWT"));
    (token.header.kid, token.claims)
}

fn assertion(pem: &str, algorithm: SigningAlgorithm, subject: &str) -> SignedAssertion<SecretString> {
    SignedAssertion {
        key: SecretString::from(pem.to_owned()),
        kid: Some("key-1".into()),
        algorithm,
        audience: "https://as.example.com/t".into(),
        subject: Some(subject.into()),
        claims: Claims::from([("tenant".to_owned(), json!(["a", 1, true]))]),
        lifetime: LIFETIME,
        has_thumbprint: false,
    }
}

#[test]
fn a_jwt_signed_with_a_key_of_any_form_conforms_to_rfc_7523() {
    let (rsa, rsa_public) = keys::rsa();
    let (p256, p256_public) = keys::p256();
    let (p384, p384_public) = keys::p384();
    let rsa_public = DecodingKey::from_rsa_der(&rsa_public);
    let p256_public = DecodingKey::from_ec_der(&p256_public);
    let p384_public = DecodingKey::from_ec_der(&p384_public);
    for (pem, algorithm, public, same) in [
        (&rsa[0], SigningAlgorithm::Rs256, &rsa_public, Algorithm::RS256),
        (&rsa[1], SigningAlgorithm::Rs256, &rsa_public, Algorithm::RS256),
        (&rsa[0], SigningAlgorithm::Ps256, &rsa_public, Algorithm::PS256),
        (&rsa[1], SigningAlgorithm::Ps256, &rsa_public, Algorithm::PS256),
        (&p256[0], SigningAlgorithm::Es256, &p256_public, Algorithm::ES256),
        (&p256[1], SigningAlgorithm::Es256, &p256_public, Algorithm::ES256),
        (&p384[0], SigningAlgorithm::Es384, &p384_public, Algorithm::ES384),
        (&p384[1], SigningAlgorithm::Es384, &p384_public, Algorithm::ES384),
    ] {
        let now = wall_clock();
        let jwt = under_key("client", &assertion(pem, algorithm, "user@example.com"), now).unwrap();

        let (kid, claims) = checked(&jwt, public, same);

        assert_eq!(kid.as_deref(), Some("key-1"));
        assert_eq!(
            (claims["iss"].as_str(), claims["sub"].as_str()),
            (Some("client"), Some("user@example.com"))
        );
        assert_eq!(claims["tenant"], json!(["a", 1, true]));
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (iat, exp) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert!(iat < now && now < exp && exp - iat <= 300, "{iat} {now} {exp}");
    }
}

#[test]
fn a_jwt_signed_with_the_secret_is_hs256_and_issued_by_the_client() {
    let secret = SecretString::from("s:%+ é====".to_owned());
    let additional = Claims::from([("tenant".to_owned(), json!("a"))]);
    let jwt = under_secret("client", &secret, "https://as.example.com/t", &additional, validity());

    let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
    let (kid, claims) = checked(&jwt, &key, Algorithm::HS256);

    assert_eq!(kid, None);
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("client"), Some("client")));
    assert_eq!(claims["tenant"], "a");
}

#[test]
fn a_jwt_without_a_subject_has_the_configured_lifetime() {
    let (p256, public) = keys::p256();
    let assertion = SignedAssertion {
        subject: None,
        lifetime: Duration::from_mins(1),
        ..assertion(&p256[0], SigningAlgorithm::Es256, "")
    };
    let now = wall_clock();
    let jwt = under_key("client", &assertion, now).unwrap();

    let (_, claims) = checked(&jwt, &DecodingKey::from_ec_der(&public), Algorithm::ES256);

    assert_eq!(claims.get("sub"), None);
    assert_eq!(claims["exp"], now.duration_since(UNIX_EPOCH).unwrap().as_secs() + 60);
}

#[test]
fn a_thumbprint_names_the_certificate_beside_the_key() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = |key| rcgen::CertificateParams::default().self_signed(key).unwrap();
    let (own, other) = (certificate(&key), certificate(&rcgen::KeyPair::generate().unwrap()));
    let signed = |pem: &str| {
        let assertion =
            SignedAssertion { has_thumbprint: true, ..assertion(pem, SigningAlgorithm::Es256, "x") };
        under_key("client", &assertion, wall_clock())
    };
    let key = key.serialize_pem();

    for pem in [format!("{key}{}", own.pem()), format!("{}{key}{}", own.pem(), other.pem())] {
        let jwt = signed(&pem).unwrap();
        let header = jwt.expose_secret().split('.').next().unwrap();
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, own.der());
        assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(digest));
    }
    assert_eq!(signed(&key).unwrap_err(), KeyError::NoCertificate);
    assert_eq!(signed(&format!("{key}{}", other.pem())).unwrap_err(), KeyError::OtherCertificate);
}

#[test]
fn no_two_jwts_have_the_same_id() {
    let secret = SecretString::from("secret".to_owned());
    let key = DecodingKey::from_secret(b"secret");
    let validity = validity();
    let ids: BTreeSet<String> = (0..100)
        .map(|_| under_secret("client", &secret, "https://as.example.com/t", &Claims::new(), validity))
        .map(|jwt| checked(&jwt, &key, Algorithm::HS256).1["jti"].as_str().unwrap().to_owned())
        .collect();

    assert_eq!(ids.len(), 100);
}

#[test]
fn a_key_of_another_kind_signs_nothing() {
    use SigningAlgorithm::{Es256, Es384, Ps256, Rs256};

    let (rsa, _) = keys::rsa();
    let (p256, _) = keys::p256();
    let (p384, _) = keys::p384();
    let unfit = |needed, fitting| KeyError::Unfit { needed, fitting };
    for (pem, algorithm, error) in [
        (rsa[0].as_str(), Es256, unfit(Es256, Some(Rs256))),
        (rsa[1].as_str(), Es384, unfit(Es384, Some(Rs256))),
        (p256[0].as_str(), Rs256, unfit(Rs256, Some(Es256))),
        (p256[1].as_str(), Es384, unfit(Es384, Some(Es256))),
        (p384[0].as_str(), Es256, unfit(Es256, Some(Es384))),
        (p384[1].as_str(), Ps256, unfit(Ps256, Some(Es384))),
        ("hunter2", Rs256, KeyError::NotPem),
        (&keys::pem("PRIVATE KEY", b"hunter2"), Rs256, unfit(Rs256, None)),
        (&keys::pem("ENCRYPTED PRIVATE KEY", b"hunter2"), Es256, KeyError::NotPem),
    ] {
        let refused = under_key("client", &assertion(pem, algorithm, "x"), wall_clock()).unwrap_err();
        assert_eq!(refused, error);
    }
    assert_eq!(
        unfit(Es256, Some(Es384)).to_string(),
        "not a key on the curve P-256, which ES256 needs (the key fits ES384)"
    );
}
