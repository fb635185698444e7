//! A small configuration for tests of other modules: a credential `c`, and a route that uses it.

use std::path::Path;

use super::{Config, Environment, parse};

/// A configuration with these sections, and these keys of the credential.
///
/// Unless `credential` sets them, `client_id` is "id", the client secret is `secret`, and there is a `token_url`.
pub(crate) fn config(sections: &str, credential: &str, secret: &str) -> Config {
    let unless_given = |key: &str, line| if credential.contains(key) { "" } else { line };
    let client_id = unless_given("client_id =", "client_id = \"id\"");
    let url = if credential.contains("region =") { "" } else { "token_url = \"https://as.example.com/t\"" };
    let token_url = unless_given("issuer =", url);
    let needs_none = ["none", "private_key_jwt", "tls_client_auth"]
        .iter()
        .any(|auth| credential.contains(&format!("client_auth = \"{auth}\"")));
    let client_secret =
        if needs_none { "" } else { unless_given("client_secret =", "client_secret = { env = \"S\" }") };
    let text = format!(
        "{sections}\n[credentials.c]\n{token_url}\n{client_id}\n\
         {client_secret}\n{credential}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\""
    );
    parse(Path::new("proxy.toml"), text, &Environment::from([("S", secret)])).unwrap().config
}

/// Private keys in PEM, made for one test.
pub(crate) mod keys {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    };
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    pub(crate) fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    /// An RSA key as PKCS#8 and as PKCS#1, and its public half (PKCS#1).
    pub(crate) fn rsa() -> ([String; 2], Vec<u8>) {
        use aws_lc_rs::encoding::Pkcs8V1Der;
        use aws_lc_rs::signature::KeyPair as _;

        let key = RsaKey::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let der = der.as_ref();
        // PKCS#8 adds 26 bytes in front of a key of this size.
        let pems = [pem("PRIVATE KEY", der), pem("RSA PRIVATE KEY", &der[26..])];
        (pems, key.public_key().as_ref().to_vec())
    }

    /// A P-256 key as PKCS#8 and as SEC1, and its public half (a point).
    pub(crate) fn p256() -> ([String; 2], Vec<u8>) {
        on_curve(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    /// A P-384 key as PKCS#8 and as SEC1, and its public half (a point).
    pub(crate) fn p384() -> ([String; 2], Vec<u8>) {
        on_curve(&ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn on_curve(curve: &'static EcdsaSigningAlgorithm) -> ([String; 2], Vec<u8>) {
        use aws_lc_rs::encoding::EcPrivateKeyRfc5915Der;
        use aws_lc_rs::signature::KeyPair as _;

        let key = EcdsaKeyPair::generate(curve).unwrap();
        let sec1 = AsDer::<EcPrivateKeyRfc5915Der<'_>>::as_der(&key.private_key()).unwrap();
        let pems =
            [pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref()), pem("EC PRIVATE KEY", sec1.as_ref())];
        (pems, key.public_key().as_ref().to_vec())
    }
}
