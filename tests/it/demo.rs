//! `bearerd demo`: the steps, what it tells a visitor, and its servers alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode};
use rustix::process::Signal;

use crate::harness::{Process, command, eventually, spawn};

#[tokio::test]
async fn every_step_of_the_demo_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    // The demo reads neither a file nor the environment.
    std::fs::write(folder.path().join("proxy.toml"), "nonsense").unwrap();
    let environment = [("BEARERD_SERVER__LISTEN".to_owned(), "nonsense".to_owned())];
    let mut demo = spawn(&["demo", "--once"], &environment, folder.path());

    assert_eq!(demo.ended_within(Duration::from_mins(5)).await.code(), Some(0), "{}", demo.output());

    let output = demo.output();
    for step in 1..=5 {
        assert!(output.contains(&format!("\n{step}. ")), "{output}");
    }
    assert!(!output.contains("tok_"), "{output}");
}

/// The first word of the output after this text.
fn printed(process: &Process, before: &str) -> String {
    let output = process.output();
    output.split(before).nth(1).unwrap().split_whitespace().next().unwrap().trim_matches('"').to_owned()
}

#[tokio::test]
async fn the_demo_tells_a_visitor_what_becomes_of_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = spawn(&["demo", "--listen", "127.0.0.1:0"], &[], folder.path());
    eventually("the first revocation", async || demo.output().contains("the token was revoked")).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = printed(&demo, "curl -i ");

    for _ in 0..2 {
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
    }
    client.get(&url).header("host", "elsewhere.test").send().await.unwrap();

    let has =
        |text: &str| demo.output().lines().any(|line| line.contains("GET /hello") && line.contains(text));
    eventually("a replayed request", async || has("→ 401 → refreshed → 200 in ")).await;
    eventually("a plain request", async || has("GET /hello → 200 in ")).await;
    eventually("a refusal", async || has("→ 421 host_not_allowed in ")).await;
    let output = demo.output();
    let after_the_steps = output.split("What becomes of your requests").nth(1).unwrap();
    assert_eq!(after_the_steps.matches("GET /hello").count(), 3, "{output}");
    assert!(!output.contains("tok_"), "{output}");
    let page = printed(&demo, "status page: ");
    assert_eq!(client.get(format!("{page}livez")).send().await.unwrap().text().await.unwrap().trim(), "ok");
    let admin = printed(&demo, "bearerd status --admin ");
    let mut status = spawn(&["status", "--admin", &admin], &[], folder.path());
    assert_eq!(status.ended().await.code(), Some(0), "{}", status.output());
    assert!(status.output().contains("demo") && status.output().contains("valid"), "{}", status.output());

    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0), "{}", demo.output());
}

/// Starts the platform, which writes its authority's certificate to `ca.pem`.
async fn platform(folder: &Path) -> Process {
    let arguments =
        ["demo", "--platform", "--listen", "127.0.0.1:0", "--name", "localhost", "--ca-out", "ca.pem"];
    let platform = spawn(&arguments, &[], folder);
    eventually("the introduction", async || platform.output().contains("health check: ")).await;
    platform
}

#[tokio::test]
async fn the_platform_serves_a_daemon_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut platform = platform(folder.path()).await;
    let ca_file = folder.path().join("ca.pem");
    assert_eq!(ca_file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");

    // The lines that it prints are a configuration.
    let output = platform.output();
    let lines = output.split("For proxy.toml:").nth(1).unwrap().split("health check").next().unwrap();
    let head =
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n";
    std::fs::write(folder.path().join("proxy.toml"), format!("{head}{lines}")).unwrap();
    let daemon = command(&["run"], &[], folder.path()).start();
    let address = daemon.logged_address("listening").await;
    let client = Client::builder().no_proxy().build().unwrap();
    let hello = client.get(format!("http://{address}/hello")).send().await.unwrap();
    assert_eq!(hello.status(), StatusCode::OK, "{}", daemon.output());

    let authority = Certificate::from_pem(&std::fs::read(&ca_file).unwrap()).unwrap();
    let direct = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let health = printed(&platform, "health check: ");
    assert_eq!(direct.get(&health).send().await.unwrap().text().await.unwrap(), "ok\n");
    let upstream = printed(&platform, "upstream      = ");
    assert_eq!(
        direct.get(format!("{upstream}/hello")).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    // As the health check of a container.
    let admin = health.strip_suffix("/livez").unwrap();
    let mut check = command(&["health", "--admin", admin], &[], folder.path())
        .variable("SSL_CERT_FILE", ca_file.to_str().unwrap())
        .start();
    assert_eq!(check.ended().await.code(), Some(0), "{}", check.output());

    platform.signal(Signal::TERM);
    assert_eq!(platform.ended().await.code(), Some(0), "{}", platform.output());
}

#[tokio::test]
async fn the_platform_replaces_the_certificate_of_an_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), "of an earlier run").unwrap();
    let _platform = platform(folder.path()).await;
    let written = std::fs::read_to_string(folder.path().join("ca.pem")).unwrap();
    assert!(written.starts_with("-----BEGIN CERTIFICATE-----"), "{written}");

    let elsewhere =
        ["demo", "--platform", "--listen", "127.0.0.1:0", "--name", "x", "--ca-out", "no/folder/ca.pem"];
    let mut failing = spawn(&elsewhere, &[], folder.path());
    assert_eq!(failing.ended().await.code(), Some(1));
    assert!(failing.output().contains("no/folder/ca.pem cannot be written"), "{}", failing.output());
}

#[tokio::test]
async fn the_platform_needs_an_address_a_name_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["demo", "--platform", "--listen", "127.0.0.1:0", "--name", "x"][..],
        &["demo", "--platform", "--name", "x", "--ca-out", "ca.pem"],
        &["demo", "--name", "x"],
        &["demo", "--once", "--open"],
    ] {
        let mut demo = spawn(arguments, &[], folder.path());
        assert_eq!(demo.ended().await.code(), Some(2), "{arguments:?}: {}", demo.output());
    }
}
