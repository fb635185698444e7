//! Accepted grants and client authentications, and refused combinations of keys.

use crate::config::fixture::keys;
use crate::config::model::identity::{Assertion, ClientAuth, Grant};
use crate::config::{Checked, Diagnostics, Environment};

const PLAIN: &str = "
    [credentials.c]
    token_url = \"https://as.example.com/token\"
    client_id = \"client\"
";

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with an RSA key, a P-256 key, a certificate with its key, and a file of text.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        for (name, content) in [
            ("rsa.pem", keys::rsa().0[0].clone()),
            ("p256.pem", keys::p256().0[1].clone()),
            ("client.pem", client.cert.pem()),
            ("client-key.pem", client.signing_key.serialize_pem()),
            ("text.pem", "hunter2".to_owned()),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        Self(folder)
    }

    fn read(&self, lines: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "{PLAIN}{lines}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        let environment = Environment::from([("SECRET", "hunter2")]);
        crate::config::parse(&self.0.path().join("proxy.toml"), text, &environment)
    }

    fn identity(&self, lines: &str) -> crate::config::Identity<crate::config::Secret> {
        let checked = self.read(lines).unwrap_or_else(|problems| panic!("{lines}: {problems}"));
        checked.config.credentials[0].identity.clone()
    }
}

const SECRET: &str = "client_secret = { env = \"SECRET\" }\n";

#[test]
fn every_grant_and_authentication_is_read() {
    let folder = Folder::new();
    assert!(matches!(folder.identity(SECRET).grant, Grant::ClientCredentials));
    let password = "grant = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }\n";
    assert!(matches!(
        folder.identity(&format!("{SECRET}{password}")).grant,
        Grant::Password { username, .. } if username == "u"
    ));
    let exchange = "grant = \"token_exchange\"\nclient_auth = \"none\"\nsubject_token = { env = \"SECRET\" }";
    assert!(matches!(
        folder.identity(exchange).grant,
        Grant::TokenExchange { subject_token_type, .. }
            if subject_token_type == "urn:ietf:params:oauth:token-type:access_token"
    ));
    let key = "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"rsa.pem\" } }";
    let ClientAuth::PrivateKeyJwt(Assertion::Signed(assertion)) = folder.identity(key).client_auth else {
        panic!()
    };
    assert_eq!(
        (assertion.subject.as_deref(), assertion.audience.as_str()),
        (Some("client"), "https://as.example.com/token")
    );
    let bearer = "grant = \"jwt_bearer\"\nclient_auth = \"private_key_jwt\"\n\
        assertion = { key = { file = \"p256.pem\" }, alg = \"ES256\", kid = \"k\", aud = \"a\", sub = \"s\" }";
    let identity = folder.identity(bearer);
    let (ClientAuth::PrivateKeyJwt(Assertion::Signed(client)), Grant::JwtBearer(Assertion::Signed(grant))) =
        (identity.client_auth, identity.grant)
    else {
        panic!()
    };
    assert_eq!((client.subject.as_deref(), client.audience.as_str()), (Some("client"), "a"));
    assert_eq!(
        (grant.subject.as_deref(), grant.audience.as_str(), grant.kid.as_deref()),
        (Some("s"), "a", Some("k"))
    );
    let jwt = format!("{SECRET}client_auth = \"client_secret_jwt\"\nassertion = {{ aud = \"a\" }}");
    assert!(
        matches!(folder.identity(&jwt).client_auth, ClientAuth::SecretJwt { audience, .. } if audience == "a")
    );
    let tls = "client_auth = \"tls_client_auth\"\nclient_certificate = \"client.pem\"\nclient_key = \"client-key.pem\"";
    assert!(matches!(folder.identity(tls).client_auth, ClientAuth::TlsClientAuth));
    // A certificate may be asked for besides.
    folder.identity(&format!("{SECRET}{}", tls.replace("\"tls_client_auth\"", "\"client_secret_post\"")));
}

/// Whether there is a secret, the other lines, and the expected title, key and remedy.
type Mistake = (bool, &'static str, &'static str, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    (
        true,
        "username = \"u\"",
        "`username` is not used by this grant",
        "username",
        "set grant = \"password\"",
    ),
    (
        true,
        "password = { env = \"SECRET\" }",
        "`password` is not used by this grant",
        "password",
        "set grant = \"password\"",
    ),
    (
        true,
        "subject_token_type = \"urn:x\"",
        "`subject_token_type` is not used by this grant",
        "subject_token_type",
        "set grant = \"token_exchange\"",
    ),
    (
        true,
        "grant = \"password\"\nusername = \"u\"",
        "`password` is missing",
        "[credentials.c]",
        "write password = { env = \"NAME\" }",
    ),
    (
        true,
        "grant = \"password\"\npassword = { env = \"SECRET\" }",
        "`username` is missing",
        "[credentials.c]",
        "the name of the user",
    ),
    (
        true,
        "grant = \"token_exchange\"",
        "`subject_token` is missing",
        "[credentials.c]",
        "write subject_token = ",
    ),
    (true, "grant = \"jwt_bearer\"", "`assertion` is missing", "[credentials.c]", "write assertion = "),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { alg = \"RS256\" }",
        "`assertion` lacks `key`, the private key",
        "assertion",
        "write assertion = ",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"rsa.pem\" }, alg = \"ES256\" }",
        "not a key on the curve P-256, which ES256 needs",
        "assertion",
        "\"RS256\" or \"PS256\" for an RSA key",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"p256.pem\" } }",
        "not an RSA key of at least 2048 bits, which RS256 needs",
        "assertion",
        "\"ES256\" for a key on the curve P-256",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"text.pem\" } }",
        "no private key in PEM form",
        "assertion",
        "",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"rsa.pem\" }, sub = \"s\" }",
        "`sub` of `assertion` is not used here",
        "assertion",
        "`sub` is for grant = \"jwt_bearer\"",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"rsa.pem\" }, alg = \"HS256\" }",
        "must be one of: \"RS256\", \"PS256\", \"ES256\", \"ES384\"",
        "assertion",
        "",
    ),
    (
        false,
        "client_auth = \"private_key_jwt\"\nassertion = { kye = \"x\" }",
        "unknown key `kye` in `credentials.c.assertion`",
        "kye",
        "did you mean `key`?",
    ),
    (
        true,
        "client_auth = \"client_secret_jwt\"\nassertion = { kid = \"k\" }",
        "`kid` of `assertion` is not used here",
        "assertion",
        "signs with the client secret",
    ),
    (
        true,
        "assertion = { key = { file = \"rsa.pem\" } }",
        "`assertion` is used by neither grant nor client authentication",
        "assertion",
        "set client_auth = \"private_key_jwt\"",
    ),
    (
        true,
        "client_auth = \"none\"",
        "`client_secret` is not used by this client authentication",
        "client_secret",
        "set client_auth = \"client_secret_basic\"",
    ),
    (
        true,
        "client_auth = \"client_secret_post\"\nbasic_encoding = \"form\"",
        "`basic_encoding` is not used by this client authentication",
        "basic_encoding",
        "set client_auth = \"client_secret_basic\"",
    ),
    (
        false,
        "client_auth = \"client_secret_post\"",
        "`client_secret` is missing",
        "[credentials.c]",
        "write client_secret = ",
    ),
    (
        false,
        "client_auth = \"tls_client_auth\"",
        "`client_certificate` is missing",
        "[credentials.c]",
        "its key is `client_key`",
    ),
    (
        true,
        "client_certificate = \"client.pem\"",
        "a client certificate needs its key",
        "client_certificate",
        "write both",
    ),
    (
        true,
        "client_certificate = \"client.pem\"\nclient_key = \"p256.pem\"",
        "p256.pem is not the key of the certificate",
        "client_key",
        "the private key of `client_certificate`",
    ),
    (
        true,
        "client_certificate = \"text.pem\"\nclient_key = \"client-key.pem\"",
        "text.pem holds no certificate in PEM form",
        "client_certificate",
        "a PEM file with the client's certificate",
    ),
];

#[test]
fn wrong_combinations_of_keys_are_reported_with_place_and_remedy() {
    let folder = Folder::new();
    for (has_secret, lines, title, key, remedy) in MISTAKES {
        let lines = format!("{}{lines}", if *has_secret { SECRET } else { "" });
        let problems = folder.read(&lines).expect_err(&lines);
        let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
        let shown = problems.to_string();
        assert!(problem.title.contains(title), "{shown}");
        assert!(shown.lines().any(|line| line.contains("| ") && line.contains(key)), "{key}: {shown}");
        assert!(shown.contains('^') && shown.contains(remedy), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_wrong_grant_or_authentication_causes_no_errors_of_other_keys() {
    let folder = Folder::new();
    for (lines, title) in [
        (
            "grant = \"pasword\"\nusername = \"u\"\npassword = { env = \"SECRET\" }",
            "`credentials.c.grant` must be one of",
        ),
        (
            "client_auth = 5\nassertion = { key = { file = \"rsa.pem\" } }",
            "`credentials.c.client_auth` must be one of: \"client_secret_basic\", ",
        ),
    ] {
        let problems = folder.read(&format!("{SECRET}{lines}")).expect_err(lines);
        let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
        assert!(problem.title.starts_with(title), "{problems}");
    }
}

#[test]
fn a_client_without_authentication_causes_a_warning() {
    let checked = Folder::new().read("client_auth = \"none\"").unwrap();
    let [warning] = checked.warnings.problems() else { panic!("{}", checked.warnings) };
    assert_eq!(warning.title, "the client does not authenticate");
}
