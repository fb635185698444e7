//! Every grant and every client authentication, as the authorization server receives them.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use serde_json::Value;
use tempfile::TempDir;
use testkit::authorization_server::{Answer, Asked, AuthorizationServer};
use testkit::pki::Pki;

use crate::harness::{World, daemon, eventually};
use testkit::harness::connect_proxy::{ConnectProxy, Does};
use testkit::harness::raw::RawPeer;
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

const PASSWORD: &str = "acc3ss:k3y%+&=/ünïcode====";
const SUBJECT_TOKEN: &str = "subject+token/of=another";

fn parameter<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    let mut found = asked.form.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let value = found.next();
    assert_eq!(found.next(), None, "{name} twice");
    value
}

/// RFC 6749 §2.3: a request has at most one method.
fn methods(asked: &Asked) -> Vec<&'static str> {
    let mut methods = Vec::new();
    if asked.headers.contains_key("authorization") {
        methods.push("basic");
    }
    for (name, method) in [("client_secret", "post"), ("client_assertion", "jwt")] {
        methods.extend(parameter(asked, name).map(|_| method));
    }
    if methods.is_empty() && parameter(asked, "client_id") == Some(CLIENT_ID) {
        methods.push("id");
    }
    methods
}

/// A world with these lines whose server accepts every client, after two token requests.
async fn world(lines: &str) -> World {
    let world = daemon()
        .environment("PASSWORD", PASSWORD)
        .environment("SUBJECT_TOKEN", SUBJECT_TOKEN)
        .credential(lines)
        .start_after(async |server| server.take_all())
        .await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 2);
    world
}

async fn finish(world: World) {
    let output = world.process.output();
    assert!(output.contains("TRACE"));
    for asked in world.authorization.asked() {
        for name in ["assertion", "client_assertion"] {
            if let Some(jwt) = parameter(&asked, name) {
                assert_absent(&output, jwt.rsplit('.').next().unwrap());
            }
        }
    }
    assert_absent(&output, PASSWORD);
    assert_absent(&output, SUBJECT_TOKEN);
    world.finish().await;
}

#[tokio::test]
async fn each_grant_is_sent_with_one_client_authentication() {
    let password = "grant = \"password\"\nusername = \"key-id\"\npassword = { env = \"PASSWORD\" }\n";
    let exchange = "grant = \"token_exchange\"\nsubject_token = { env = \"SUBJECT_TOKEN\" }\n";
    for (grant, expected) in [
        ("", vec![("grant_type", "client_credentials")]),
        (password, vec![("grant_type", "password"), ("username", "key-id"), ("password", PASSWORD)]),
        (
            exchange,
            vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token", SUBJECT_TOKEN),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ],
        ),
    ] {
        for (auth, method) in [
            ("client_secret_basic", "basic"),
            ("client_secret_post", "post"),
            ("client_secret_jwt", "jwt"),
            ("none", "id"),
        ] {
            let world = world(&format!("{grant}client_auth = \"{auth}\"")).await;
            for asked in world.authorization.asked() {
                assert_eq!(methods(&asked), [method], "{}", asked.raw);
                for (name, value) in &expected {
                    assert_eq!(parameter(&asked, name), Some(*value));
                }
                if method == "post" {
                    assert_eq!(parameter(&asked, "client_secret"), Some(CLIENT_SECRET));
                }
            }
            finish(world).await;
        }
    }
}

/// The claims of a valid JWT.
fn claims(jwt: &str, key: &DecodingKey, algorithm: Algorithm, audience: &str) -> Value {
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[audience]);
    validation.leeway = 0;
    let token = jsonwebtoken::decode::<Value>(jwt, key, &validation).unwrap();
    assert_eq!(token.claims["iss"], CLIENT_ID);
    token.claims
}

#[tokio::test]
async fn each_request_has_a_newly_signed_jwt() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    for (kind, alg, algorithm) in [
        (&rcgen::PKCS_RSA_SHA256, "RS256", Algorithm::RS256),
        (&rcgen::PKCS_RSA_SHA256, "PS256", Algorithm::PS256),
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256", Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384", Algorithm::ES384),
    ] {
        let pair = KeyPair::generate_for(kind).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        let public = match algorithm {
            Algorithm::RS256 | Algorithm::PS256 => DecodingKey::from_rsa_der(pair.der_bytes()),
            _ => DecodingKey::from_ec_der(pair.der_bytes()),
        };
        let world = world(&format!(
            "grant = \"jwt_bearer\"\nclient_auth = \"private_key_jwt\"\n\
             assertion = {{ key = {{ file = \"{}\" }}, alg = \"{alg}\", aud = \"https://as.test\", sub = \"service\", \
             claims = {{ tenant = \"t\", roles = [1, 2] }} }}",
            key.display()
        ))
        .await;
        let mut ids = Vec::new();
        for asked in world.authorization.asked() {
            assert_eq!(methods(&asked), ["jwt"]);
            for (name, subject) in [("assertion", "service"), ("client_assertion", CLIENT_ID)] {
                let jwt = parameter(&asked, name).unwrap();
                let claims = claims(jwt, &public, algorithm, "https://as.test");
                assert_eq!(claims["sub"], subject);
                assert_eq!((&claims["tenant"], &claims["roles"]), (&"t".into(), &serde_json::json!([1, 2])));
                ids.push(claims["jti"].as_str().unwrap().to_owned());
            }
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4);
        finish(world).await;
    }
}

#[tokio::test]
async fn a_jwt_signed_with_the_secret_names_the_token_url_as_audience() {
    let world = world("client_auth = \"client_secret_jwt\"").await;
    let key = DecodingKey::from_secret(CLIENT_SECRET.as_bytes());
    for asked in world.authorization.asked() {
        let jwt = parameter(&asked, "client_assertion").unwrap();
        let url = world.authorization.token_url();
        assert_eq!(claims(jwt, &key, Algorithm::HS256, &url)["sub"], CLIENT_ID);
        assert_eq!(parameter(&asked, "client_id"), None);
    }
    finish(world).await;
}

/// A client with a certificate, and a server that asks for it.
struct Certified {
    /// The folder of the client's files.
    folder: TempDir,
    key: KeyPair,
    /// The lines of the credential that name the files.
    lines: String,
    pki: Pki,
    server: AuthorizationServer,
}

async fn certified() -> Certified {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let lines = format!(
        "client_certificate = \"{}\"\nclient_key = \"{}\"",
        file("client.pem", certificate.pem()).display(),
        file("client-key.pem", key.serialize_pem()).display()
    );
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = pki.server_config_for(&[b"http/1.1"], Some(certificate.der())).unwrap();
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
    server.take_all();
    Certified { folder, key, lines, pki, server }
}

#[tokio::test]
async fn a_server_that_asks_for_a_client_certificate_gets_certificate_and_id() {
    let Certified { folder: _folder, key, lines, pki, server } = certified().await;
    let world = daemon()
        .without_token()
        .credential("client_auth = \"tls_client_auth\"\nca_file = \"ca.pem\"")
        .credential(&lines)
        .token_url(server.token_url())
        .start_with(pki, async |_| {})
        .await;

    eventually("ready", async || world.admin_status("/readyz").await == 200).await;

    let asked = server.asked();
    assert_eq!((asked.len(), methods(&asked[0])), (1, vec!["id"]));
    assert_eq!(asked[0].raw, format!("grant_type=client_credentials&client_id={CLIENT_ID}"));
    assert_absent(&world.process.output(), &key.serialize_pem());
    world.finish().await;
}

#[tokio::test]
async fn a_client_with_a_certificate_uses_the_issuers_mtls_endpoint() {
    let Certified { folder: _folder, lines, pki, server, .. } = certified().await;
    let document = format!(
        "{{\"issuer\":\"{{issuer}}\",\"token_endpoint\":\"https://localhost:1/t\",\
         \"mtls_endpoint_aliases\":{{\"token_endpoint\":\"{}\"}}}}",
        server.token_url()
    );
    let world = daemon()
        .without_token()
        .credential("issuer = \"{issuer}\"\nclient_auth = \"tls_client_auth\"\nca_file = \"ca.pem\"")
        .credential(&lines)
        .start_with(pki, async |issuer| {
            issuer.set_metadata("/.well-known/oauth-authorization-server", Answer::status(200, &document));
        })
        .await;

    eventually("ready", async || world.admin_status("/readyz").await == 200).await;

    assert_eq!(server.requests(), 1);
    world.finish().await;
}

/// Secrets in files are read again for each request: passwords and private keys too.
#[tokio::test]
async fn a_password_or_a_key_that_changes_is_used_from_the_next_request_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first").unwrap();
    let world = daemon()
        .credential("grant = \"password\"\nusername = \"u\"")
        .credential(&format!("password = {{ file = \"{}\" }}", file.display()))
        .start_after(async |server| server.take_all())
        .await;
    std::fs::write(&file, "second").unwrap();
    world.authorization.revoke_all();

    assert_eq!(world.get("/x").await.status, 200);

    let passwords: Vec<_> = world
        .authorization
        .asked()
        .iter()
        .map(|asked| parameter(asked, "password").unwrap().to_owned())
        .collect();
    assert_eq!(passwords, ["first", "second"]);
    world.finish().await;
}

#[tokio::test]
async fn a_key_file_that_loses_its_key_leaves_the_last_key_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let world = daemon()
        .credential("client_auth = \"private_key_jwt\"")
        .credential(&format!("assertion = {{ key = {{ file = \"{}\" }}, alg = \"ES256\" }}", file.display()))
        .start_after(async |server| server.take_all())
        .await;
    std::fs::write(&file, "half a k").unwrap();
    world.authorization.revoke_all();

    assert_eq!(world.get("/x").await.status, 200);

    let warning = world.process.event("secret not readable, kept the last one").await;
    assert!(warning["error"].as_str().unwrap().contains("no private key in PEM form"), "{warning}");
    world.finish().await;
}

/// The format of CXone's regional endpoint.
#[tokio::test]
async fn a_json_endpoint_with_its_own_member_names_is_supported() {
    let answer = "{\"token\":\"{token}\",\"refreshToken\":\"x\",\"tokenExpirationTimeSec\":\"1800\"}";
    let world = daemon()
        .environment("PASSWORD", PASSWORD)
        .credential("grant = \"password\"\nusername = \"key-id\"\npassword = { env = \"PASSWORD\" }")
        .credential("client_auth = \"none\"\nrequest_format = \"json\"")
        .credential("request_fields = { username = \"accessKeyId\", password = \"accessKeySecret\", grant_type = \"\", client_id = \"\" }")
        .credential("fields = { access_token = \"token\", expires_in = \"tokenExpirationTimeSec\" }")
        .start_after(async |server| {
            server.take_all();
            server.answer_next(Answer::status(200, answer));
        })
        .await;
    assert_eq!(world.get("/x").await.status, 200);

    let asked = &world.authorization.asked()[0];
    assert_eq!(asked.headers["content-type"], "application/json");
    assert!(!asked.headers.contains_key("authorization"));
    let sent: Value = serde_json::from_str(&asked.raw).unwrap();
    assert_eq!(sent, serde_json::json!({ "accessKeyId": "key-id", "accessKeySecret": PASSWORD }));
    assert_eq!(world.process.event("token refreshed").await["lifetime_seconds"], 1800);
    assert_absent(&world.process.output(), PASSWORD);
    world.finish().await;
}

#[tokio::test]
async fn members_of_a_response_are_read_at_their_paths() {
    let answer =
        "{\"ok\":true,\"data\":{\"access_token\":\"{token}\",\"expires\":{\"in\":1800},\"scope\":\"a,b\"}}";
    let world = daemon()
        .credential("fields = { access_token = \"data.access_token\", expires_in = \"data.expires.in\", scope = \"data.scope\" }")
        .credential("require_scopes = [\"a\", \"b\"]")
        .start_after(async |server| server.answer_next(Answer::status(200, answer)))
        .await;

    assert_eq!(world.get("/x").await.status, 200);

    assert_eq!(world.process.event("token refreshed").await["lifetime_seconds"], 1800);
    world.finish().await;
}

#[tokio::test]
async fn each_additional_request_field_is_sent_once() {
    let world = world(
        "audience = \"api\"\nresource = [\"urn:a\", \"urn:b\"]\nextra = { tenant = \"ü & co\" }\nscopes = [\"s\"]",
    )
    .await;
    for asked in world.authorization.asked() {
        assert_eq!(
            asked.raw,
            "grant_type=client_credentials&scope=s&audience=api&resource=urn%3Aa&resource=urn%3Ab\
             &tenant=%C3%BC+%26+co"
        );
    }
    finish(world).await;
}

#[tokio::test]
async fn the_token_endpoint_is_reached_by_the_configured_proxy_or_the_environments() {
    let proxy = ConnectProxy::start(Does::Lead).await;
    let url = format!("http://user:pr0xy-passw0rd@127.0.0.1:{}", proxy.port());
    let written = format!("proxy = \"{url}\"");
    for (lines, variables, is_used) in [
        (written.as_str(), vec![], true),
        (&written, vec![("NO_PROXY", "*")], true),
        ("", vec![("HTTPS_PROXY", url.as_str())], true),
        ("", vec![("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "example.com,localhost")], false),
        ("proxy = \"\"", vec![("HTTPS_PROXY", url.as_str())], false),
        ("", vec![("HTTP_PROXY", url.as_str())], false),
    ] {
        let pki = Pki::new(&["localhost"]).unwrap();
        let tls = pki.server_config(&[b"http/1.1"]).unwrap();
        let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
        let setup = daemon().without_token().credential("ca_file = \"ca.pem\"").credential(lines);
        let setup = variables.into_iter().fold(setup, |setup, (name, value)| setup.environment(name, value));
        let world = setup.token_url(server.token_url()).start_with(pki, async |_| {}).await;

        eventually("ready", async || world.admin_status("/readyz").await == 200).await;

        assert_eq!(server.requests(), 1);
        let asked = proxy.asked();
        assert_eq!(asked.len(), usize::from(is_used), "{lines}");
        for head in asked {
            let host = server.token_url().replace("https://", "").replace("/token", "");
            assert!(head.starts_with(&format!("CONNECT {host} HTTP/1.1\r\n")), "{head}");
            let sent = STANDARD.encode("user:pr0xy-passw0rd");
            assert!(head.contains(&format!("Basic {sent}")), "{head}");
            assert!(!head.contains(&STANDARD.encode(CLIENT_SECRET)));
            assert!(!world.process.output().contains(&sent));
        }
        assert_absent(&world.process.output(), "pr0xy-passw0rd");
        world.finish().await;
    }
}

#[tokio::test]
async fn the_token_endpoint_is_offered_the_version_of_http_that_is_set() {
    for (version, expected) in [("auto", "h2"), ("1.1", "http/1.1"), ("2", "h2")] {
        let pki = Pki::new(&["localhost"]).unwrap();
        let chosen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&chosen);
        let peer = RawPeer::tls(pki.server_config(&[b"h2", b"http/1.1"]).unwrap(), move |stream| {
            let noted = Arc::clone(&noted);
            async move {
                let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                noted.lock().unwrap().push(String::from_utf8(alpn).unwrap());
            }
        })
        .await;
        let world = daemon()
            .without_token()
            .credential(&format!("ca_file = \"ca.pem\"\nhttp_version = \"{version}\""))
            .token_url(format!("https://localhost:{}/token", peer.address.port()))
            .start_with(pki, async |_| {})
            .await;

        eventually("a connection", async || !chosen.lock().unwrap().is_empty()).await;

        assert_eq!(chosen.lock().unwrap()[0], expected);
        world.finish().await;
    }
}
