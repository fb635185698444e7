//! Keys for what a server expects of a token request besides the standard: fields, a grant type, an assertion that another
//! process makes, and the encoding of HTTP Basic.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use testkit::authorization_server::{Answer, Asked};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;
use url::form_urlencoded;

use crate::harness::{World, daemon, eventually};

fn parameter<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
    asked.form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A parameter of all token requests.
fn all(world: &World, name: &str) -> Vec<String> {
    let asked = world.authorization.asked();
    asked.iter().filter_map(|asked| parameter(asked, name).map(str::to_owned)).collect()
}

#[tokio::test]
async fn configured_fields_are_sent_and_a_changed_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "f1rst-k3y-of-the-server\n").unwrap();
    let world = daemon()
        .credential(&format!(
            "request_headers = {{ User-Agent = \"acme/1\", X-Tenant = \"17\", X-Api-Key = {{ file = \"{}\" }} }}",
            key.display()
        ))
        .start()
        .await;
    let expect = |asked: &Asked, key: &str| {
        for (name, value) in [("user-agent", "acme/1"), ("x-tenant", "17"), ("x-api-key", key)] {
            let sent: Vec<_> = asked.headers.get_all(name).iter().collect();
            assert_eq!(sent, [value]);
        }
        assert_eq!(asked.headers.get_all("accept").iter().count(), 1);
    };
    expect(&world.authorization.asked()[0], "f1rst-k3y-of-the-server");

    fs::write(&key, "s3cond-k3y-of-the-server\n").unwrap();
    world.authorization.revoke_all();
    let quoted = "{\"error\":\"invalid_request\",\"error_description\":\"no key s3cond-k3y-of-the-server\"}";
    world.authorization.answer_next(Answer::status(400, quoted));
    assert_eq!(world.get("/x").await.code().as_deref(), Some("client_rejected"));

    expect(world.authorization.asked().last().unwrap(), "s3cond-k3y-of-the-server");
    let failed = world.process.event("token refresh failed").await;
    assert!(failed["error"].as_str().unwrap().contains("withheld"), "{failed}");
    for secret in ["f1rst-k3y-of-the-server", "s3cond-k3y-of-the-server"] {
        assert_absent(&world.process.output(), secret);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_servers_own_grant_type_is_sent() {
    let world = daemon()
        .credential("grant_type = \"account_credentials\"\nextra = { account_id = \"a\" }")
        .start_after(async |server| server.take_all())
        .await;

    assert_eq!(world.authorization.asked()[0].raw, "grant_type=account_credentials&account_id=a");
    world.finish().await;
}

/// Replaces a file as the kubelet does: readers see the old content or the new.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn a_new_assertion_of_another_process_is_used_at_once() {
    for (lines, name) in
        [("grant = \"jwt_bearer\"", "assertion"), ("client_auth = \"private_key_jwt\"", "client_assertion")]
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "eyJh.f1rst.c2ln\n").unwrap();
        let world = daemon()
            .credential(&format!("{lines}\nassertion = {{ file = \"{}\" }}", file.display()))
            .start_after(async |server| server.take_all())
            .await;
        assert_eq!(all(&world, name), ["eyJh.f1rst.c2ln"]);

        replace(&file, "eyJh.s3cond.c2ln\n");

        eventually("asked", async || all(&world, name) == ["eyJh.f1rst.c2ln", "eyJh.s3cond.c2ln"]).await;
        assert_eq!(world.get("/x").await.status, 200);
        if name == "client_assertion" {
            assert_eq!(all(&world, "client_id"), [CLIENT_ID, CLIENT_ID]);
        }
        for assertion in ["f1rst", "s3cond"] {
            assert_absent(&world.process.output(), assertion);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn an_assertion_that_cannot_be_read_is_reported_and_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "eyJh.f1rst.c2ln").unwrap();
    let world = daemon()
        .limits("token_wait = \"100ms\"")
        .credential(&format!("grant = \"jwt_bearer\"\nassertion = {{ file = \"{}\" }}", file.display()))
        .start_after(async |server| server.take_all())
        .await;

    replace(&file, "\n");
    world.authorization.revoke_all();
    let refused = world.get("/x").await;

    assert_eq!((refused.status, refused.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    let failed = world.process.event("token refresh failed").await;
    assert_eq!((&failed["outcome"], &failed["needs_person"]), (&"assertion".into(), &false.into()));
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("the file of the assertion is not usable") && error.contains("is empty"),
        "{error}"
    );
    assert_eq!(world.authorization.requests(), 1);

    replace(&file, "eyJh.s3cond.c2ln");
    eventually("recovered", async || world.get("/x").await.status == 200).await;
    assert_eq!(all(&world, "assertion"), ["eyJh.f1rst.c2ln", "eyJh.s3cond.c2ln"]);
    world.finish().await;
}

/// The encodings of HTTP Basic of all token requests.
fn encodings(world: &World) -> Vec<&'static str> {
    let form = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = |id: &str, secret: &str| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
    let (raw, form) = (basic(CLIENT_ID, CLIENT_SECRET), basic(&form(CLIENT_ID), &form(CLIENT_SECRET)));
    let asked = world.authorization.asked();
    let sent = asked.iter().map(|asked| asked.headers["authorization"].to_str().unwrap());
    sent.map(|sent| {
        if sent == raw {
            "raw"
        } else if sent == form {
            "form"
        } else {
            "other"
        }
    })
    .collect()
}

#[tokio::test]
async fn a_server_that_decodes_the_secret_gets_it_form_encoded_at_once() {
    let mut world = daemon().start_after(async |server| server.expect_form_encoding()).await;
    assert_eq!(encodings(&world), ["raw", "form"]);
    assert!(world.process.events("token refresh failed").is_empty());
    world.process.event("client id and secret accepted form-encoded").await;

    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(encodings(&world), ["raw", "form", "form"]);

    // Without a state the daemon learns the encoding again.
    world.kill().await;
    world.start_again().await;
    world.ready().await;
    assert_eq!(encodings(&world), ["raw", "form", "form", "raw", "form"]);
    world.finish().await;
}

#[tokio::test]
async fn a_refused_client_is_tried_once_in_each_encoding_unless_one_is_configured() {
    let invalid = || Answer::status(401, "{\"error\":\"invalid_client\"}");
    for (lines, expected) in [
        ("", &["raw", "form"][..]),
        ("basic_encoding = \"auto\"", &["raw", "form"]),
        ("basic_encoding = \"raw\"", &["raw"]),
        ("basic_encoding = \"form\"", &["form"]),
    ] {
        let world = daemon()
            .credential(lines)
            .without_token()
            .start_after(async |server| (0..5).for_each(|_| server.answer_next(invalid())))
            .await;

        eventually("rejected", async || world.get("/x").await.code().as_deref() == Some("client_rejected"))
            .await;

        assert_eq!(encodings(&world), expected, "{lines}");
        world.finish().await;
    }
}
