//! No token and no secret in any output; every other test searches its output too.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bearerd::config::source::diagnostics::Sources;
use bearerd::config::{Environment, parse};
use testkit::authorization_server::Answer;
use testkit::pki::Pki;

use crate::harness::{Http2Caller, Request, World, daemon, eventually};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

/// All failures of tokens with the log at TRACE; `finish` searches the log.
#[tokio::test]
async fn the_log_at_trace_has_no_secret() {
    let world: World = daemon()
        .credential("client_auth = \"client_secret_post\"\nquota = { requests = 100, per = \"1s\" }")
        .start()
        .await;
    let echo = format!("{{\"error\":\"invalid_client\",\"error_description\":\"not {CLIENT_SECRET}\"}}");
    let mut http2 = Http2Caller::connect(world.address).await;
    for answer in [
        Answer::status(500, &format!("secret={CLIENT_SECRET}")),
        Answer::status(200, "{\"access_token\":\"tok_unusable token\"}"),
        Answer::Hangup,
        Answer::SameAgain,
    ] {
        world.authorization.answer_next(answer);
        world.authorization.revoke_all();
        world.get("/x").await;
        http2.send(&Request::post("/echo", b"x")).await;
    }
    world.authorization.answer_next(Answer::status(401, &echo));
    world.authorization.revoke_all();
    let reply = world.get("/x").await;
    assert!(!reply.text().contains(CLIENT_SECRET), "{}", reply.text());
    world.send(&Request::get("/break/chunked").method("HEAD")).await;
    let _ = world.caller().await.try_send(&Request::get("/break/length")).await;
    world.get("/a/../b?access_token=the-callers-own-token").await;
    eventually("traces", async || world.process.output().contains("TRACE")).await;
    world.finish().await;
}

/// A refusal's description quotes no secret of the request, in no encoding and no part.
#[tokio::test]
async fn an_echoed_client_secret_is_not_quoted() {
    let form: String = url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect();
    let spaced = form.replace('+', "%20");
    let lower = form.replace("%3A", "%3a").replace("%2B", "%2b").replace("%C3%BC", "%c3%bc");
    let pair = format!("{CLIENT_ID}:{CLIENT_SECRET}");
    let form_pair = format!("{CLIENT_ID}:{form}");
    let mut echoes = vec![CLIENT_SECRET.to_owned(), form, spaced, lower];
    for text in [CLIENT_SECRET, &pair, &form_pair] {
        echoes.push(STANDARD.encode(text));
        echoes.push(URL_SAFE.encode(text));
    }
    let cut: Vec<String> = echoes[..6].iter().map(|echo| echo.chars().take(12).collect()).collect();
    echoes.extend(cut);
    let mut worlds = Vec::new();
    for echo in &echoes {
        // In the error code, in the description, and across the place where the description is cut.
        for (code, description) in
            [(echo.as_str(), ""), ("denied", echo), ("denied", &format!("{}{echo}", "x".repeat(190)))]
        {
            let body = serde_json::json!({ "error": code, "error_description": description });
            worlds.push((echo.clone(), body.to_string()));
        }
    }
    for (echo, body) in worlds {
        let world = daemon()
            .without_token()
            .credential("basic_encoding = \"raw\"")
            .start_after(async |server| server.answer_next(Answer::status(401, &body)))
            .await;
        let failed = world.process.event("token refresh failed").await;
        assert!(failed["error"].as_str().unwrap().contains("withheld"), "{body}: {failed}");
        let reply = world.get("/x").await;
        assert_eq!(reply.code().as_deref(), Some("client_rejected"));
        assert_absent(&reply.text(), &echo);
        // The first characters of a base64 pair are the id's.
        let tail: String = echo.chars().skip(echo.chars().count().saturating_sub(24)).collect();
        assert_absent(&world.process.output(), &tail);
        world.finish().await;
    }
}

/// The grant's and the client's own secrets are not quoted either.
#[tokio::test]
async fn an_echoed_password_or_assertion_is_not_quoted() {
    let password =
        "basic_encoding = \"raw\"\ngrant = \"password\"\nusername = \"u\"\npassword = { env = \"PASSWORD\" }";
    for (lines, parameter) in
        [(password, "password"), ("client_auth = \"client_secret_jwt\"", "client_assertion")]
    {
        let world = daemon()
            .without_token()
            .environment("PASSWORD", "acc3ss:k3y====")
            .credential(lines)
            .start_after(async |server| {
                server.take_all();
                server.answer_next(Answer::Echo(parameter));
            })
            .await;
        let failed = world.process.event("token refresh failed").await;
        assert!(failed["error"].as_str().unwrap().contains("withheld"), "{failed}");
        assert_absent(&world.process.output(), "acc3ss:k3y====");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_echoed_current_token_is_not_quoted() {
    let world = daemon().start().await;
    let token = world.authorization.issued().swap_remove(0);
    let body = serde_json::json!({ "error": "denied", "error_description": format!("you have {token}") });
    world.authorization.answer_next(Answer::status(400, &body.to_string()));
    world.authorization.revoke_all();

    let reply = world.get("/x").await;

    assert_eq!(reply.code().as_deref(), Some("client_rejected"));
    let failed = world.process.event("token refresh failed").await;
    assert!(failed["error"].as_str().unwrap().contains("withheld"), "{failed}");
    assert_absent(&reply.text(), &token);
    world.finish().await;
}

#[tokio::test]
async fn debug_output_of_the_scripted_servers_has_no_secret() {
    let world = daemon().start().await;
    let shown = format!(
        "{:?} {:?} {:?} {:?}",
        world.authorization,
        world.authorization.introspection(),
        world.authorization.asked(),
        Pki::new(&["localhost"]).unwrap(),
    );
    assert_absent(&shown, CLIENT_SECRET);
    for token in world.authorization.issued() {
        assert_absent(&shown, &token);
    }
    world.finish().await;
}

#[tokio::test]
async fn debug_output_of_public_types_has_no_secret() {
    let text = format!(
        "[credentials.api]\ntoken_url = \"https://as.example.com/token\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = {{ env = \"API_SECRET\" }}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"api\"\n"
    );
    let environment = Environment::from([("API_SECRET", CLIENT_SECRET)]);
    let checked = parse(Path::new("proxy.toml"), text.clone(), &environment).unwrap();
    let plain = text.replace("{ env = \"API_SECRET\" }", "'s3cr3t-in-the-file'");
    let in_file = parse(Path::new("proxy.toml"), plain, &environment).unwrap();

    let overriding = Environment::from([("BEARERD_CREDENTIALS__API__CLIENT_SECRET", CLIENT_SECRET)]);
    let overridden = parse(Path::new("proxy.toml"), text.clone(), &overriding).unwrap();
    let broken = text.replace("{ env = \"API_SECRET\" }", "['s3cr3t-in-the-file']");
    let refused = parse(Path::new("proxy.toml"), broken.clone(), &environment).unwrap_err();
    let mut sources = Sources::new(Path::new("proxy.toml"), broken);
    sources.add_override("BEARERD_CREDENTIALS__API__CLIENT_SECRET", CLIENT_SECRET);

    for shown in [
        format!("{environment:?}"),
        format!("{checked:?}"),
        format!("{:#?}", checked.config),
        format!("{in_file:?}"),
        in_file.warnings.to_string(),
        format!("{overridden:?}"),
        overridden.warnings.to_string(),
        format!("{refused:?}"),
        refused.to_string(),
        format!("{sources:#?}"),
    ] {
        assert_absent(&shown, CLIENT_SECRET);
        assert_absent(&shown, "s3cr3t-in-the-file");
    }
}

#[tokio::test]
async fn a_daemon_leaves_no_core_dump() {
    let world = daemon().start().await;

    let limits = std::fs::read_to_string(format!("/proc/{}/limits", world.process.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{limits}");
    world.finish().await;
}
