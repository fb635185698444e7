//! The meaning of a change of each key, with a row for every key of the schema.

use std::collections::BTreeSet;
use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::config::fixture::keys;
use crate::config::source::reader::Table;
use crate::config::source::schema;
use crate::config::{Environment, parse};

type Lines = &'static [(&'static str, &'static str)];

const ENVIRONMENT: [(&str, &str); 8] = [
    ("S", "secret"),
    ("OTHER", "another"),
    ("NEXT", "next"),
    ("SUBJECT", "subject"),
    ("KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ("NEW_KEY", "OTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTBmZWRjYmE="),
    ("OLD_KEY", "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI="),
    ("HEADER", "header"),
];

/// All keys that go with every grant, or with most.
const FULL: Lines = &[
    ("token_url", "\"https://as.example.com/t\""),
    ("client_id", "\"id\""),
    ("client_secret", "{ env = \"S\" }"),
    ("client_secret_next", "{ env = \"NEXT\" }"),
    ("client_certificate", "\"client.pem\""),
    ("client_key", "\"client-key.pem\""),
    ("audience", "\"a\""),
    ("resource", "[\"https://api.example.com/\"]"),
    ("extra", "{ tenant = \"1\" }"),
    ("request_headers", "{ X-Tenant = \"1\", X-Key = { env = \"HEADER\" } }"),
    ("request_format", "\"form\""),
    ("request_fields", "{ audience = \"aud\" }"),
    ("fields.access_token", "\"t\""),
    ("fields.expires_in", "\"e\""),
    ("fields.refresh_token", "\"r\""),
    ("fields.scope", "\"s\""),
    ("token_types", "[\"Bearer\"]"),
    ("errors.dead", "[\"d\"]"),
    ("errors.throttled", "[\"t\"]"),
    ("errors.client", "[\"c\"]"),
    ("errors.transient", "[\"p\"]"),
    ("scopes", "[\"a\"]"),
    ("require_scopes", "[\"a\"]"),
    ("expect_jwt", "false"),
    ("refresh_margin", "\"60s\""),
    ("default_lifetime", "\"60s\""),
    ("timeout", "\"9s\""),
    ("connect_timeout", "\"2s\""),
    ("quota", "{ requests = 7, per = \"60s\" }"),
    ("api_quota", "{ requests = 7, per = \"60s\" }"),
    ("retry_after_max", "\"10s\""),
    ("ca_file", "\"ca.pem\""),
    ("proxy", "\"http://localhost:3128\""),
    ("http_version", "\"1.1\""),
    ("state_file", "\"c.state\""),
    ("state_key", "{ env = \"KEY\" }"),
    ("required", "true"),
    ("login_stub", "[\"/login\"]"),
];
const PASSWORD: Lines = &[("grant", "\"password\""), ("username", "\"u\""), ("password", "{ env = \"S\" }")];
const REFRESH: Lines =
    &[("grant", "\"refresh_token\""), ("refresh_token", "{ env = \"SUBJECT\" }"), ("max_rotations", "5")];
const FALLBACK: Lines = &[
    ("grant", "\"refresh_token\""),
    ("fallback", "\"password\""),
    ("username", "\"u\""),
    ("password", "{ env = \"S\" }"),
];
const LOGIN: Lines =
    &[("grant", "\"authorization_code\""), ("authorize_url", "\"https://as.example.com/a\"")];
const EXCHANGE: Lines = &[("grant", "\"token_exchange\""), ("subject_token", "{ env = \"SUBJECT\" }")];
const BEARER: Lines = &[
    ("grant", "\"jwt_bearer\""),
    ("assertion.key", "{ file = \"p256.pem\" }"),
    ("assertion.kid", "\"k\""),
    ("assertion.alg", "\"ES256\""),
    ("assertion.aud", "\"a\""),
    ("assertion.sub", "\"s\""),
    ("assertion.claims", "{ a = 1, b = [\"c\"] }"),
];
const CERTIFIED: Lines = &[
    ("grant", "\"jwt_bearer\""),
    ("assertion.key", "{ file = \"certified.pem\" }"),
    ("assertion.alg", "\"ES256\""),
];
const BEARER_FILE: Lines = &[("grant", "\"jwt_bearer\""), ("assertion.file", "\"jwt\"")];
const CLIENT_FILE: Lines = &[
    ("client_auth", "\"private_key_jwt\""),
    ("client_secret", ""),
    ("client_secret_next", ""),
    ("assertion.file", "\"jwt\""),
];
const FALLBACK_BEARER: Lines = &[
    ("grant", "\"refresh_token\""),
    ("fallback", "\"jwt_bearer\""),
    ("assertion.key", "{ file = \"p256.pem\" }"),
    ("assertion.alg", "\"ES256\""),
    ("assertion.sub", "\"s\""),
];
const CLIENT_JWT: Lines = &[
    ("client_auth", "\"private_key_jwt\""),
    ("client_secret", ""),
    ("client_secret_next", ""),
    ("assertion.key", "{ file = \"p256.pem\" }"),
    ("assertion.alg", "\"ES256\""),
    ("assertion.kid", "\"k\""),
    ("assertion.aud", "\"a\""),
];
const SECRET_JWT: Lines = &[("client_auth", "\"client_secret_jwt\"")];
const ISSUER: Lines = &[("token_url", ""), ("issuer", "\"https://as.example.com\"")];
const CXONE: Lines = &[
    ("provider", "\"cxone\""),
    ("issuer", "\"https://cxone.niceincontact.com\""),
    ("grant", "\"client_credentials\""),
];
const GENESYS: Lines = &[("token_url", ""), ("provider", "\"genesys\""), ("region", "\"mypurecloud.de\"")];

/// The meaning of a change, in the order of the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Account,
    Token,
    Request,
    Operation,
    Nothing,
}

use Change::{Account, Nothing, Operation, Request, Token};

/// The key that changes, in which configuration, to which value, and what that means. Keys behind the first change with it,
/// as it could not be written alone.
const TABLE: &[(&str, Lines, Lines, Change)] = &[
    ("provider", FULL, &[("provider", "\"genesys\"")], Operation),
    ("provider", FULL, &[("provider", "\"oauth2\"")], Nothing),
    ("region", GENESYS, &[("region", "\"mypurecloud.ie\"")], Account),
    ("issuer", ISSUER, &[("issuer", "\"https://as.example.com/x\"")], Account),
    // Only the issuer that says where the API is: the token endpoint is written.
    ("issuer", CXONE, &[("issuer", "\"https://cxone-gov.niceincontact.com\"")], Token),
    ("grant", FULL, &[("grant", "\"refresh_token\"")], Account),
    ("fallback", REFRESH, &[("fallback", "\"client_credentials\"")], Token),
    ("token_url", FULL, &[("token_url", "\"https://as.example.com/other\"")], Account),
    ("token_url", ISSUER, &[("token_url", "\"https://as.example.com\""), ("issuer", "")], Account),
    ("authorize_url", LOGIN, &[("authorize_url", "\"https://as.example.com/b\"")], Operation),
    ("redirect_uri", LOGIN, &[("redirect_uri", "\"http://127.0.0.1:1/\"")], Operation),
    ("grant_type", FULL, &[("grant_type", "\"own\"")], Token),
    ("grant_type", FULL, &[("grant_type", "\"\"")], Nothing),
    ("grant_type", FALLBACK, &[("grant_type", "\"own\"")], Token),
    ("client_id", FULL, &[("client_id", "\"another\"")], Account),
    ("client_secret", FULL, &[("client_secret", "{ env = \"OTHER\" }")], Request),
    ("client_secret", FULL, &[("client_secret", "\"secret\"")], Operation),
    ("client_secret_next", FULL, &[("client_secret_next", "{ env = \"OTHER\" }")], Request),
    ("client_auth", FULL, &[("client_auth", "\"client_secret_post\"")], Token),
    ("client_auth", FULL, &[("client_auth", "\"client_secret_basic\"")], Nothing),
    ("basic_encoding", FULL, &[("basic_encoding", "\"form\"")], Request),
    ("basic_encoding", FULL, &[("basic_encoding", "\"auto\"")], Nothing),
    ("assertion.key", BEARER, &[("assertion.key", "{ file = \"other-p256.pem\" }")], Request),
    ("assertion.kid", BEARER, &[("assertion.kid", "\"l\"")], Token),
    (
        "assertion.alg",
        BEARER,
        &[("assertion.alg", "\"RS256\""), ("assertion.key", "{ file = \"rsa.pem\" }")],
        Request,
    ),
    ("assertion.aud", BEARER, &[("assertion.aud", "\"b\"")], Token),
    ("assertion.sub", BEARER, &[("assertion.sub", "\"t\"")], Token),
    ("assertion.claims", BEARER, &[("assertion.claims", "{ a = 2, b = [\"c\"] }")], Token),
    ("assertion.claims", BEARER, &[("assertion.claims", "{ b = [\"c\"], a = 1 }")], Nothing),
    ("assertion.claims", SECRET_JWT, &[("assertion.claims", "{ a = 1 }")], Token),
    ("assertion.lifetime", BEARER, &[("assertion.lifetime", "\"60s\"")], Request),
    ("assertion.lifetime", BEARER, &[("assertion.lifetime", "\"270s\"")], Nothing),
    ("assertion.lifetime", SECRET_JWT, &[("assertion.lifetime", "\"60s\"")], Request),
    ("assertion.sub", BEARER, &[("assertion.sub", "\"\"")], Token),
    ("assertion.x5t", CERTIFIED, &[("assertion.x5t", "true")], Request),
    // A path leads to the assertion of one principal.
    ("assertion.file", BEARER_FILE, &[("assertion.file", "\"other-jwt\"")], Token),
    ("assertion.file", CLIENT_FILE, &[("assertion.file", "\"other-jwt\"")], Token),
    ("assertion.sub", FALLBACK_BEARER, &[("assertion.sub", "\"t\"")], Token),
    ("assertion.kid", CLIENT_JWT, &[("assertion.kid", "\"l\"")], Token),
    // The client's own assertion may name the server by its issuer or by its endpoint.
    ("assertion.aud", CLIENT_JWT, &[("assertion.aud", "\"b\"")], Request),
    ("client_certificate", FULL, &[("client_certificate", "\"renewed.pem\"")], Token),
    // The subject and the alternative names are the same.
    ("client_certificate", FULL, &[("client_certificate", "\"reissued.pem\"")], Request),
    // Without any name, each certificate is another principal.
    (
        "client_certificate",
        &[("client_certificate", "\"nameless.pem\"")],
        &[("client_certificate", "\"nameless-reissued.pem\"")],
        Token,
    ),
    // The same content in another file.
    ("client_certificate", FULL, &[("client_certificate", "\"copy.pem\"")], Operation),
    // Another certificate that leads to the authority.
    ("client_certificate", FULL, &[("client_certificate", "\"chain.pem\"")], Request),
    ("client_key", FULL, &[("client_key", "\"client-key-sec1.pem\"")], Request),
    ("username", PASSWORD, &[("username", "\"v\"")], Token),
    ("username", FALLBACK, &[("username", "\"v\"")], Token),
    ("password", PASSWORD, &[("password", "{ env = \"OTHER\" }")], Request),
    ("password", FALLBACK, &[("password", "{ env = \"OTHER\" }")], Request),
    ("refresh_token", REFRESH, &[("refresh_token", "{ env = \"OTHER\" }")], Token),
    ("max_rotations", REFRESH, &[("max_rotations", "6")], Operation),
    ("rotation_grace", REFRESH, &[("rotation_grace", "\"10s\"")], Operation),
    ("subject_token", EXCHANGE, &[("subject_token", "{ env = \"OTHER\" }")], Token),
    ("subject_token_type", EXCHANGE, &[("subject_token_type", "\"urn:other\"")], Token),
    ("audience", FULL, &[("audience", "\"b\"")], Token),
    ("resource", FULL, &[("resource", "[\"https://api.example.com/x\"]")], Token),
    ("extra", FULL, &[("extra", "{ tenant = \"2\" }")], Token),
    (
        "request_headers",
        FULL,
        &[("request_headers", "{ X-Tenant = \"2\", X-Key = { env = \"HEADER\" } }")],
        Token,
    ),
    (
        "request_headers",
        FULL,
        &[("request_headers", "{ X-Tenant = \"1\", X-Key = { env = \"OTHER\" } }")],
        Token,
    ),
    ("request_headers", FULL, &[("request_headers", "{ X-Tenant = \"1\" }")], Token),
    (
        "request_headers",
        FULL,
        &[("request_headers", "{ X-Tenant = \"1\", X-Keys = { env = \"HEADER\" } }")],
        Token,
    ),
    ("request_format", FULL, &[("request_format", "\"json\"")], Request),
    ("request_fields", FULL, &[("request_fields", "{ audience = \"for\" }")], Token),
    ("fields.access_token", FULL, &[("fields.access_token", "\"u\"")], Request),
    ("fields.expires_in", FULL, &[("fields.expires_in", "\"u\"")], Request),
    ("fields.refresh_token", FULL, &[("fields.refresh_token", "\"u\"")], Request),
    ("fields.scope", FULL, &[("fields.scope", "\"u.v\"")], Request),
    ("token_types", FULL, &[("token_types", "[\"Bearer\", \"N_A\"]")], Request),
    ("errors.dead", FULL, &[("errors.dead", "[\"u\"]")], Request),
    ("errors.throttled", FULL, &[("errors.throttled", "[\"u\"]")], Request),
    ("errors.client", FULL, &[("errors.client", "[\"u\"]")], Request),
    ("errors.transient", FULL, &[("errors.transient", "[\"u\"]")], Request),
    ("scopes", FULL, &[("scopes", "[\"a\", \"b\"]")], Token),
    ("require_scopes", FULL, &[("require_scopes", "[]")], Token),
    ("expect_jwt", FULL, &[("expect_jwt", "true")], Token),
    ("refresh_margin", FULL, &[("refresh_margin", "\"30s\"")], Operation),
    ("default_lifetime", FULL, &[("default_lifetime", "\"30s\"")], Operation),
    ("timeout", FULL, &[("timeout", "\"8s\"")], Operation),
    ("connect_timeout", FULL, &[("connect_timeout", "\"1s\"")], Operation),
    ("quota", FULL, &[("quota", "{ requests = 8, per = \"60s\" }")], Operation),
    ("quota", FULL, &[("quota", "{ requests = 7, per = \"61s\" }")], Operation),
    ("api_quota", FULL, &[("api_quota", "{ requests = 8, per = \"60s\" }")], Operation),
    ("api_quota", FULL, &[("api_quota", "{ requests = 7, per = \"60s\", wait = \"3s\" }")], Operation),
    ("api_quota", FULL, &[("api_quota", "\"\"")], Operation),
    ("retry_after_max", FULL, &[("retry_after_max", "\"11s\"")], Operation),
    ("ca_file", FULL, &[("ca_file", "\"renewed.pem\"")], Operation),
    ("system_roots", FULL, &[("system_roots", "true")], Operation),
    ("proxy", FULL, &[("proxy", "\"http://localhost:3129\"")], Operation),
    ("http_version", FULL, &[("http_version", "\"2\"")], Operation),
    ("state_file", FULL, &[("state_file", "\"d.state\"")], Operation),
    ("state_key", FULL, &[("state_key", "{ env = \"NEW_KEY\" }")], Operation),
    ("state_key_previous", FULL, &[("state_key_previous", "{ env = \"OLD_KEY\" }")], Operation),
    ("required", FULL, &[("required", "false")], Operation),
    ("login_stub", FULL, &[("login_stub", "[\"/other\"]")], Operation),
];

/// A folder with the files that the configurations name.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let ([client, client_sec1], _) = keys::p256();
    let key = KeyPair::from_pem(&client).unwrap();
    let certificate =
        |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let nameless = || {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.self_signed(&key).unwrap().pem()
    };
    let (first, renewed) = (certificate("client"), certificate("renewed"));
    write("reissued.pem", &certificate("client"));
    write("copy.pem", &first);
    write("nameless.pem", &nameless());
    write("nameless-reissued.pem", &nameless());
    write("client.pem", &first);
    write("renewed.pem", &renewed);
    write("certified.pem", &format!("{client}{first}"));
    write("chain.pem", &(first + &renewed));
    write("ca.pem", &certificate("authority"));
    write("client-key.pem", &client);
    write("client-key-sec1.pem", &client_sec1);
    write("p256.pem", &keys::p256().0[0]);
    write("other-p256.pem", &keys::p256().0[0]);
    write("jwt", "eyJh.eyJi.c2ln");
    write("other-jwt", "eyJh.eyJi.c2ln");
    write("rsa.pem", &keys::rsa().0[0]);
    folder
}

/// The credential with these lines, the later ones in the place of earlier ones; without a value there is no line.
fn credential(folder: &Path, lines: &[Lines], environment: &[(&str, &str); 8]) -> Credential {
    let mut all: Vec<(&str, &str)> = FULL.to_vec();
    for (key, value) in lines.iter().copied().flatten().copied() {
        all.retain(|(other, _)| *other != key);
        all.push((key, value));
    }
    all.retain(|(_, value)| !value.is_empty());
    let written: Vec<String> = all.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let text = format!(
        "[credentials.c]\n{}[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n",
        written.concat()
    );
    let parsed = parse(&folder.join("proxy.toml"), text, &Environment::from(*environment));
    let mut config = parsed.unwrap_or_else(|problems| panic!("{problems}")).config;
    Credential::clone(&config.credentials.remove(0))
}

/// The meaning of a change by the derived methods.
fn change(before: &Credential, after: &Credential) -> Change {
    let request = |one: &Credential| one.request_identity(&one.identity.initial());
    let found = (
        before == after,
        request(before) == request(after),
        before.shares_tokens_with(after),
        before.shares_state_with(after),
    );
    match found {
        (true, true, true, true) => Nothing,
        (false, true, true, true) => Operation,
        (false, false, true, true) => Request,
        (false, false, false, true) => Token,
        (false, false, false, false) => Account,
        other => panic!("{other:?} is no row"),
    }
}

fn keys_of<T: Table>(section: &str) -> impl Iterator<Item = String> {
    T::KEYS.iter().map(move |key| format!("{section}{key}"))
}

#[test]
fn a_change_of_each_key_means_what_the_table_says() {
    let folder = folder();
    for (key, base, changed, expected) in TABLE {
        let before = credential(folder.path(), &[base], &ENVIRONMENT);
        let after = credential(folder.path(), &[base, changed], &ENVIRONMENT);
        assert_eq!(changed[0].0, *key);
        assert_eq!(change(&before, &after), *expected, "{changed:?}");
        assert_eq!(change(&after, &before), *expected, "{changed:?}, and back");
        assert_eq!(change(&before, &before.clone()), Nothing);
    }
}

#[test]
fn the_table_has_every_key_of_the_schema_and_no_other() {
    let mut keys: BTreeSet<String> = keys_of::<schema::Credential>("").collect();
    assert!(keys.remove("assertion") && keys.remove("fields") && keys.remove("errors"));
    keys.extend(keys_of::<schema::Assertion>("assertion."));
    keys.extend(keys_of::<schema::Fields>("fields."));
    keys.extend(keys_of::<schema::Errors>("errors."));

    let table: BTreeSet<String> = TABLE.iter().map(|(key, ..)| (*key).to_owned()).collect();

    assert_eq!(table, keys);
}

#[test]
fn new_content_of_a_secret_in_its_place_is_never_another_principal() {
    let folder = folder();
    for (variable, base, expected) in [
        ("S", FULL, Request),
        ("HEADER", FULL, Request),
        ("NEXT", FULL, Request),
        ("S", PASSWORD, Request),
        ("SUBJECT", REFRESH, Request),
        ("SUBJECT", EXCHANGE, Request),
        ("S", FALLBACK, Request),
    ] {
        let before = credential(folder.path(), &[base], &ENVIRONMENT);
        let environment =
            ENVIRONMENT.map(|(name, value)| (name, if name == variable { "rotated" } else { value }));
        let after = credential(folder.path(), &[base], &environment);
        assert_eq!(change(&before, &after), expected, "{variable} of {base:?}");
    }
    let before = credential(folder.path(), &[], &ENVIRONMENT);
    let environment =
        ENVIRONMENT.map(|(name, value)| (name, if name == "KEY" { ENVIRONMENT[5].1 } else { value }));
    assert_eq!(change(&before, &credential(folder.path(), &[], &environment)), Operation, "a state key");
}

#[test]
fn another_name_is_another_account() {
    let folder = folder();
    let before = credential(folder.path(), &[], &ENVIRONMENT);
    let after = Credential { name: "d".to_owned(), ..before.clone() };

    assert_eq!(change(&before, &after), Account);
}

#[test]
fn only_the_keys_of_the_fallback_identify_its_principal() {
    let folder = folder();
    let of = |lines: &[Lines]| credential(folder.path(), lines, &ENVIRONMENT).fallback_identity();

    let identity = of(&[FALLBACK]).unwrap();
    for same in [&[("scopes", "[\"z\"]")], &[("password", "{ env = \"OTHER\" }")], &[("audience", "\"z\"")]] {
        assert_eq!(of(&[FALLBACK, same]), Some(identity), "{same:?}");
    }
    assert_ne!(of(&[FALLBACK, &[("username", "\"v\"")]]), Some(identity));
    assert_ne!(of(&[FALLBACK, &[("grant_type", "\"own\"")]]), Some(identity));
    assert_ne!(of(&[FALLBACK_BEARER]), of(&[FALLBACK_BEARER, &[("assertion.sub", "\"t\"")]]));
    assert_eq!(of(&[REFRESH]), None);
    assert_eq!(of(&[PASSWORD]), None, "of the grant itself");
}

#[test]
fn only_what_stands_for_the_principal_is_a_subject() {
    let folder = folder();
    let jwt = "eyJh.eyJi.c2ln";
    for (base, expected) in [
        (&[FULL][..], &[][..]),
        (&[PASSWORD], &[]),
        (&[BEARER], &[]),
        (&[CLIENT_JWT], &[]),
        (&[LOGIN], &[]),
        (&[REFRESH], &["subject"]),
        (&[EXCHANGE], &["subject"]),
        (&[BEARER_FILE], &[jwt]),
        (&[CLIENT_FILE], &[jwt]),
        (&[CLIENT_FILE, EXCHANGE], &["subject", jwt]),
        (&[CLIENT_FILE, BEARER_FILE], &[jwt, jwt]),
    ] {
        let identity = credential(folder.path(), base, &ENVIRONMENT).identity.initial();
        let subjects: Vec<_> = identity.subjects(false).map(ExposeSecret::expose_secret).collect();
        assert_eq!(subjects, expected, "{base:?}");
    }
}

#[test]
fn values_do_not_run_into_each_other() {
    let folder = folder();
    let of = |key: &'static str, value: &'static str| {
        let line: Lines = Box::leak(Box::new([(key, value)]));
        credential(folder.path(), &[line], &ENVIRONMENT).token_identity()
    };

    assert_ne!(of("scopes", "[\"ab\", \"c\"]"), of("scopes", "[\"a\", \"bc\"]"));
    assert_ne!(of("extra", "{ a = \"bc\" }"), of("extra", "{ ab = \"c\" }"));
    assert_ne!(of("scopes", "[]"), of("scopes", "[\"a\"]"));
}

#[test]
fn a_digest_is_not_shown() {
    let identity = credential(folder().path(), &[], &ENVIRONMENT).token_identity();

    assert_eq!(format!("{identity:?}"), "IdentityDigest { .. }");
}
