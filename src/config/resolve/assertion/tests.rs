//! Accepted and refused assertions, request headers and grant types.

use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::json;

use crate::config::fixture::keys;
use crate::config::model::identity::{Assertion, ClientAuth, Grant, Identity};
use crate::config::{Checked, Diagnostics, Environment, Secret};

fn read(folder: &Path, lines: &str) -> Result<Checked, Box<Diagnostics>> {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let files = [
        ("key.pem", keys::p256().0[0].clone()),
        ("certified.pem", key.serialize_pem() + &certificate),
        ("other.pem", keys::p256().0[0].clone() + &certificate),
        ("jwt", "eyJh.eyJi.c2ln\n".to_owned()),
        ("empty", "\n".to_owned()),
        ("blanks", "two words".to_owned()),
    ];
    for (name, content) in files {
        std::fs::write(folder.join(name), content).unwrap();
    }
    let text = format!(
        "[credentials.c]\ntoken_url = \"https://as.example.com/token\"\nclient_id = \"client\"\n{lines}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
    );
    let environment = Environment::from([("SECRET", "hunter2hunter2"), ("LINES", "a\nb")]);
    crate::config::parse(&folder.join("proxy.toml"), text, &environment)
}

fn identity(lines: &str) -> Identity<Secret> {
    let folder = tempfile::tempdir().unwrap();
    let checked = read(folder.path(), lines).unwrap_or_else(|problems| panic!("{lines}: {problems}"));
    checked.config.credentials[0].identity.clone()
}

const SECRET: &str = "client_secret = { env = \"SECRET\" }\n";
const PRIVATE: &str = "client_auth = \"private_key_jwt\"\n";

#[test]
fn additional_claims_are_those_of_every_jwt_of_the_credential() {
    let key = "key = { file = \"key.pem\" }, alg = \"ES256\"";
    let claims = "claims = { tenant = \"t\", n = -5, f = 1.5, is = true, list = [\"a\", 1, [false]] }";
    let expected = json!({ "tenant": "t", "n": -5, "f": 1.5, "is": true, "list": ["a", 1, [false]] });
    let Identity { client_auth, grant, .. } =
        identity(&format!("{PRIVATE}grant = \"jwt_bearer\"\nassertion = {{ {key}, {claims} }}"));
    let (ClientAuth::PrivateKeyJwt(Assertion::Signed(client)), Grant::JwtBearer(Assertion::Signed(grant))) =
        (client_auth, grant)
    else {
        panic!()
    };
    assert_eq!((json!(client.claims), json!(grant.claims)), (expected.clone(), expected.clone()));
    let of_secret =
        identity(&format!("{SECRET}client_auth = \"client_secret_jwt\"\nassertion = {{ {claims} }}"));
    let ClientAuth::SecretJwt { claims, .. } = of_secret.client_auth else { panic!() };
    assert_eq!(json!(claims), expected);
}

#[test]
fn an_empty_subject_is_none_and_the_thumbprint_is_of_the_certificate_beside_the_key() {
    let of = |keys: &str| {
        let lines = format!(
            "{PRIVATE}grant = \"jwt_bearer\"\n\
             assertion = {{ key = {{ file = \"certified.pem\" }}, alg = \"ES256\"{keys} }}"
        );
        let Identity { client_auth, grant, .. } = identity(&lines);
        let (
            ClientAuth::PrivateKeyJwt(Assertion::Signed(client)),
            Grant::JwtBearer(Assertion::Signed(grant)),
        ) = (client_auth, grant)
        else {
            panic!()
        };
        assert_eq!(client.subject.as_deref(), Some("client"));
        assert_eq!((client.lifetime, client.has_thumbprint), (grant.lifetime, grant.has_thumbprint));
        (grant.subject, grant.lifetime.as_secs(), grant.has_thumbprint)
    };
    assert_eq!(of(""), (Some("client".to_owned()), 270, false));
    assert_eq!(of(", sub = \"\", lifetime = \"2m\", x5t = true"), (None, 120, true));
}

#[test]
fn an_assertion_of_another_process_is_read_from_its_file() {
    let bearer = identity(&format!("{SECRET}grant = \"jwt_bearer\"\nassertion = {{ file = \"jwt\" }}"));
    let Grant::JwtBearer(Assertion::File(file)) = &bearer.grant else { panic!() };
    assert_eq!(file.initial().expose_secret(), "eyJh.eyJi.c2ln");
    assert_eq!(bearer.subjects(false).count(), 1);
    let client = identity(&format!("{PRIVATE}assertion = {{ file = \"jwt\" }}"));
    assert!(matches!(client.client_auth, ClientAuth::PrivateKeyJwt(Assertion::File(_))));
    assert_eq!(client.subjects(false).count(), 1);
}

#[test]
fn a_request_header_is_a_text_or_a_secret() {
    let identity = identity(&format!(
        "{SECRET}request_headers = {{ User-Agent = \"acme/1\", X-Tenant = \"17\", \"x-api-key\" = {{ env = \"SECRET\" }}, \
         Accept = \"application/vnd.acme+json\" }}"
    ));
    let mut headers: Vec<_> = identity
        .request_headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.initial().expose_secret(), header.is_secret))
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("accept", "application/vnd.acme+json", true),
            ("user-agent", "acme/1", false),
            ("x-api-key", "hunter2hunter2", true),
            ("x-tenant", "17", false)
        ]
    );
}

/// The lines besides the client, and the expected title, marked text and remedy.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    ("iss = \"x\"", "`claims` must not hold `iss`", "iss", "`client_id` sets this claim"),
    ("sub = \"x\"", "`claims` must not hold `sub`", "sub", "`sub` of `assertion`"),
    ("aud = \"x\"", "`claims` must not hold `aud`", "aud", "`aud` of `assertion`"),
    ("exp = 1", "`claims` must not hold `exp`", "exp", "bearerd sets this claim"),
    ("iat = 1", "`claims` must not hold `iat`", "iat", "bearerd sets this claim"),
    ("nbf = 1", "`claims` must not hold `nbf`", "nbf", "bearerd sets this claim"),
    ("jti = \"x\"", "`claims` must not hold `jti`", "jti", "bearerd sets this claim"),
    ("x = {}", "must be a string, a number, true, false, or a list of these, not a table", "x = ", ""),
    (
        "x = [{}]",
        "claims.x[0]` must be a string, a number, true, false, or a list of these, not a table",
        "x = ",
        "",
    ),
    ("x = 1979-05-27", "must be a string, a number, true, false", "x = ", ""),
    ("x = nan", "must be a number that JSON has", "x = ", ""),
];

const FILE_MISTAKES: &[Mistake] = &[
    ("file = \"gone\"", "cannot read", "gone", "create the file for the daemon's user alone"),
    ("file = \"empty\"", "is empty", "empty", "write the secret into that file"),
    ("file = \"blanks\"", "holds no assertion", "blanks", "a file with an assertion, and nothing else"),
    ("file = 5", "must be the path of a file", "5", ""),
    ("file = \"jwt\", kid = \"k\"", "`kid` of `assertion` is not used beside `file`", "kid", "remove `file`"),
    ("file = \"jwt\", alg = \"ES256\"", "`alg` of `assertion` is not used beside", "alg", "remove `file`"),
    ("file = \"jwt\", aud = \"a\"", "`aud` of `assertion` is not used beside", "aud", "remove `file`"),
    ("file = \"jwt\", sub = \"s\"", "`sub` of `assertion` is not used beside", "sub", "remove `file`"),
    ("file = \"jwt\", claims = { a = 1 }", "`claims` of `assertion` is not used beside", "claims", "remove"),
    (
        "file = \"jwt\", key = { file = \"key.pem\" }",
        "`key` of `assertion` is not used beside",
        "key.pem",
        "remove `file`",
    ),
    (
        "file = \"jwt\", lifetime = \"1m\"",
        "`lifetime` of `assertion` is not used beside",
        "lifetime",
        "remove",
    ),
    ("file = \"jwt\", x5t = true", "`x5t` of `assertion` is not used beside", "x5t", "remove `file`"),
    (
        "key = { file = \"key.pem\" }, alg = \"ES256\", x5t = true",
        "no certificate in PEM form beside the private key",
        "key.pem",
        "the private key, which fits `alg`, and its certificate",
    ),
    (
        "key = { file = \"other.pem\" }, alg = \"ES256\", x5t = true",
        "the certificate belongs to another private key",
        "other.pem",
        "and its certificate",
    ),
    (
        "key = { file = \"certified.pem\" }, alg = \"RS256\", x5t = true",
        "the key fits ES256",
        "certified.pem",
        "which fits `alg`",
    ),
    (
        "key = { file = \"key.pem\" }, alg = \"ES256\", lifetime = \"56m\"",
        "must be longer than zero, and at most 55 minutes",
        "lifetime",
        "for one token request",
    ),
    ("key = { file = \"key.pem\" }, alg = \"ES256\", lifetime = \"0s\"", "longer than zero", "lifetime", ""),
    ("", "`assertion` lacks `key`", "assertion", "or { file = "),
];

const OTHER_MISTAKES: &[Mistake] = &[
    (
        "client_auth = \"client_secret_jwt\"\nassertion = { file = \"jwt\" }",
        "`file` of `assertion` is not used here",
        "jwt",
        "only \"private_key_jwt\" has a key",
    ),
    (
        "client_auth = \"client_secret_jwt\"\nassertion = { x5t = true }",
        "`x5t` of `assertion` is not used here",
        "x5t",
        "only \"private_key_jwt\" has a key",
    ),
    ("grant_type = \"password\"", "`grant_type` does not choose the grant", "password", "write `grant`"),
    ("grant_type = \"two words\"", "not a grant type", "two words", "a name without blanks"),
    (
        "request_fields = { grant_type = \"\" }\ngrant_type = \"x\"",
        "`grant_type` is not sent",
        "grant_type",
        "remove `grant_type`",
    ),
    ("request_headers = { \"a b\" = \"x\" }", "not the name of a header field", "a b", ""),
    ("request_headers = { \"\" = \"x\" }", "not the name of a header field", "request_headers", ""),
    ("request_headers = { X-A = \" x\" }", "is not the value of a header field", "X-A", "one header field"),
    ("request_headers = { X-A = \"\" }", "is empty", "X-A", "one header field"),
    ("request_headers = { X-A = { env = \"LINES\" } }", "is not the value of a header field", "X-A", ""),
    ("request_headers = { X-A = { env = \"GONE\" } }", "GONE is not set", "X-A", ""),
    ("request_headers = { X-A = 5 }", "must be { env = ", "X-A", ""),
    ("request_headers = { X-A = \"1\", x-a = \"2\" }", "`x-a` is set twice", "x-a", "write the field once"),
];

#[test]
fn mistakes_are_reported_with_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let within = |lines: &[Mistake], text: fn(&str) -> String| {
        lines.iter().map(move |mistake| (text(mistake.0), *mistake)).collect::<Vec<_>>()
    };
    let claims = within(MISTAKES, |claims| {
        format!("{SECRET}client_auth = \"client_secret_jwt\"\nassertion = {{ claims = {{ {claims} }} }}")
    });
    let files = within(FILE_MISTAKES, |keys| format!("{PRIVATE}assertion = {{ {keys} }}"));
    let others = within(OTHER_MISTAKES, |lines| format!("{SECRET}{lines}"));
    let reserved = [
        "Authorization",
        "content-type",
        "Content-Length",
        "Host",
        "Transfer-Encoding",
        "Connection",
        "TE",
        "Keep-Alive",
        "Proxy-Authorization",
        "Upgrade",
        "Trailer",
        "Expect",
        "Accept-Encoding",
        "Via",
    ];
    let reserved = reserved.map(|name| {
        let lines = format!("{SECRET}request_headers = {{ {name} = \"x\" }}");
        (lines, ("", "a token request cannot change", name, "bearerd sets the fields"))
    });
    for (lines, (_, title, marked, remedy)) in claims.into_iter().chain(files).chain(others).chain(reserved) {
        let problems = read(folder.path(), &lines).expect_err(&lines);
        let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
        let shown = problems.to_string();
        assert!(problem.title.contains(title), "{lines}: {shown}");
        assert!(shown.contains('^') && shown.contains(marked) && shown.contains(remedy), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_grant_type_belongs_to_one_grant() {
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let folder = tempfile::tempdir().unwrap();
    let with_state = |lines: &str| {
        let lines =
            format!("{SECRET}state_file = \"s\"\nstate_key = \"{KEY}\"\ngrant_type = \"own\"\n{lines}");
        read(folder.path(), &lines)
    };
    let login = "grant = \"authorization_code\"\nauthorize_url = \"https://as.example.com/a\"\n";
    let refresh = "grant = \"refresh_token\"\n";
    let fallback = "fallback = \"client_credentials\"";
    for good in ["", login, &format!("{refresh}{fallback}")] {
        let checked = with_state(good).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(checked.config.credentials[0].identity.grant_type.as_deref(), Some("own"));
    }
    for (lines, title) in [
        (refresh, "`grant_type` is not used by this grant"),
        (&format!("{login}{fallback}"), "`grant_type` could name the login or the fallback"),
    ] {
        let problems = with_state(lines).expect_err(lines);
        assert!(problems.to_string().contains(title), "{problems}");
    }
}
