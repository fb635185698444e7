//! Triggers of a reload: a signal, an operator, and the watched file; and the reported outcome.

use std::os::unix::fs::symlink;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{World, daemon, eventually, remains};

const TABLE: &str = "[routes.headers]\nset = { x-table = \"1\" }\n";

fn reloads(world: &World) -> usize {
    world.process.events("configuration reloaded").len()
}

/// Sends a request to the admin address; returns the status and the JSON.
async fn ask(world: &World, method: reqwest::Method, fields: &[(&str, &str)], body: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, format!("http://{}/reload", world.admin)).body(body.to_owned());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_reload_reports_its_changes_and_the_keys_that_need_a_restart() {
    let world = daemon().route(TABLE).start().await;
    world.configure(|text| {
        text.replace("workers = 2", "workers = 3\ndrain = \"5s\"")
            .replace("format = \"json\"", "format = \"text\"\nlevel = \"warn\"")
            .replace("x-table = \"1\"", "x-table = \"2\"")
            + "\n[audit]\noutput = \"file:audit.jsonl\"\n\
               [tracing]\notlp_endpoint = \"http://127.0.0.1:4318\"\n"
    });

    let (status, answer) = world.admin_post("/reload").await;

    let nothing = json!([]);
    let expected = json!({
        "routes": { "kept": 0, "changed": ["/"], "added": nothing, "removed": nothing },
        "credentials": { "kept": 1, "changed": nothing, "added": nothing, "removed": nothing },
        "listeners": { "kept": 1, "changed": nothing, "added": nothing, "removed": nothing },
        "settings": ["server.drain"],
        "without_token": nothing,
        // RUST_LOG overrides the file's level.
        "restart_needed": ["server.workers", "audit.output", "log.format", "tracing"],
        "warnings": nothing,
    });
    assert_eq!((status, &answer), (200, &expected), "{answer}");
    let told = world.process.event("some keys count from the next start on").await;
    assert_eq!(told["keys"], "server.workers, audit.output, log.format, tracing");
    assert_eq!(world.process.event("operator acted").await["cause"], "reload");
    // A second reload reports the keys that need a restart again.
    assert_eq!(world.admin_post("/reload").await.1["restart_needed"], expected["restart_needed"]);
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-table"), Some("2"));
    world.finish().await;
}

#[tokio::test]
async fn a_refused_reload_reports_line_and_caret() {
    let world = daemon().start().await;
    let good = world.configuration();
    world.configure(|text| text.replace("credential = \"api\"", "credental = \"api\""));
    let line = 1 + world.configuration().lines().position(|line| line.starts_with("credental")).unwrap();

    let (status, problem) = world.admin_post("/reload").await;

    assert_eq!((status, &problem["code"]), (422, &"configuration_invalid".into()), "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("Nothing has changed."), "{detail}");
    assert!(detail.contains(&format!("proxy.toml:{line}:1")) && detail.contains("^^^^^^^^^"), "{detail}");
    let told = world.process.event("configuration not reloaded, kept the last one").await;
    assert!(told["problems"].as_str().unwrap().contains("^^^^^^^^^"), "{told}");
    assert_eq!(world.process.event("operator refused").await["reason"], "configuration_invalid");
    assert_eq!(world.get("/x").await.status, 200);

    world.configure(|_| good);
    assert_eq!(world.admin_post("/reload").await.0, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_secret_on_a_reported_line_is_masked() {
    let world = daemon().start().await;
    let good = world.configuration();
    let source = "client_secret = { env = \"API_SECRET\" }";
    for wrong in [
        "client_secret = \"hunter2hunter2\" oops",
        "client_secret = { env = \"API_SECRET=hunter2hunter2\" }",
        "client_secret = { env = API_SECRET=hunter2hunter2 }",
        "client_secret.env = \"hunter2 hunter2\"",
        // The wrong type, or a wrong key, beside the secret.
        "client_secret = [\"hunter2hunter2\"]",
        "client_secret = { value = \"hunter2hunter2\" }",
        "client_secret = { evn = \"hunter2hunter2\", file = \"x\" }",
        "client_secrt = \"hunter2hunter2\"",
        "client_secret = \"hunter2hunter2\"\nclient_secret = \"hunter2hunter2\"",
        "client_secret = \"hunter2hunter2\"\nclient_secret_next = [\"hunter2hunter2\", 5]",
        "client_secret = \"hunter2hunter2\"\nrequest_headers = { X-Key = \"hunter2hunter2\", Host = \"hunter2hunter2\" }",
        "client_secret = \"hunter2hunter2\"\nextra = { scope = \"hunter2hunter2\", a = [\"hunter2hunter2\"] }",
        "client_secret = \"hunter2hunter2\"\nproxy = \"socks5://u:hunter2hunter2@p:1\"",
        "client_secret = \"hunter2hunter2\"\nissuer = \"https://u:hunter2hunter2@as.test\"",
        "client_secret = \"\"\"\nhunter2hunter2",
        "client_secret: hunter2hunter2",
    ] {
        world.configure(|_| good.replace(source, wrong));

        let (status, problem) = world.admin_post("/reload").await;
        assert_eq!(status, 422, "{wrong}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
        let problems = world.reload_in_vain().await;
        assert!(problems.contains('^') && !problems.contains("hunter2"), "{problems}");
        assert!(!world.process.output().contains("hunter2"), "{wrong}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_reload_needs_the_admin_token() {
    let token = "0perat0r-token-of-the-admin-address";
    let world = daemon().admin("token = { file = \"admin\" }").file("admin", token).start().await;
    let bearer = format!("Bearer {token}");
    let post = reqwest::Method::POST;
    let authorized = [("authorization", bearer.as_str())];

    assert_eq!(ask(&world, post.clone(), &[], "").await.0, 401);
    assert_eq!(ask(&world, post.clone(), &[("authorization", "Bearer guessed")], "").await.0, 401);
    assert_eq!(ask(&world, reqwest::Method::GET, &authorized, "").await.0, 405);
    let from_a_page = [authorized[0], ("origin", "https://elsewhere.example")];
    assert_eq!(ask(&world, post.clone(), &from_a_page, "").await.0, 403);
    assert!(
        ask(&world, post.clone(), &authorized, "{\"x\":1}").await.0 >= 400,
        "there is nothing to hand over"
    );
    assert_eq!(reloads(&world), 0);

    assert_eq!(ask(&world, post.clone(), &authorized, "").await.0, 200);
    // The token's new file counts from now on, and the old file no more.
    let other = "an0ther-token-of-the-admin-address";
    std::fs::write(world.folder().join("other"), other).unwrap();
    world.configure(|text| text.replace("{ file = \"admin\" }", "{ file = \"other\" }"));
    let (status, answer) = ask(&world, post.clone(), &authorized, "").await;
    assert_eq!((status, &answer["settings"]), (200, &json!(["admin.token"])));
    assert_eq!(ask(&world, post.clone(), &authorized, "").await.0, 401);
    assert_eq!(ask(&world, post, &[("authorization", &format!("Bearer {other}"))], "").await.0, 200);
    world.finish().await;
}

/// ADM-03.
#[tokio::test]
async fn a_thousand_reload_requests_at_once_are_merged_into_few_reloads() {
    let world = daemon().start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/reload", world.admin);

    let wishes = (0..50).map(|_| {
        let (client, url, world) = (&client, &url, &world);
        async move {
            let mut outcomes = Vec::new();
            for _ in 0..20 {
                world.process.signal(Signal::HUP);
                let response = client.post(url).send().await.unwrap();
                outcomes.push(response.status().as_u16());
            }
            outcomes
        }
    });
    let outcomes = join_all(wishes).await.concat();

    assert_eq!(outcomes.len(), 1000);
    assert!(outcomes.iter().all(|status| *status == 200), "{outcomes:?}");
    // Each request was answered by a reload that began after it; requests share reloads.
    assert!((20..200).contains(&reloads(&world)), "{}", reloads(&world));
    assert_eq!(world.authorization.requests(), 1);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_watched_file_is_reloaded_on_change_and_reported_once_when_broken() {
    let world = daemon().server("watch = true").route(TABLE).start().await;
    let unwatched = daemon().route(TABLE).start().await;
    let good = world.configuration();

    world.configure(|text| text.replace("[[routes]]", "[[routes"));
    unwatched.configure(|text| text.replace("[[routes]]", "[[routes"));
    let complaints = || world.process.events("configuration not reloaded, kept the last one");
    eventually("it is told of", async || !complaints().is_empty()).await;
    remains("told of once", Duration::from_secs(5), async || complaints().len() == 1).await;
    assert_eq!(world.get("/x").await.status, 200);

    world.configure(|_| good.replace("x-table = \"1\"", "x-table = \"2\""));
    world.process.event("configuration reloaded").await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.requests()[1].get("x-table"), Some("2"));

    // The file itself turns watching off.
    world.configure(|text| text.replace("watch = true", "watch = false"));
    eventually("that counts", async || reloads(&world) == 2).await;
    world.configure(|text| text.replace("x-table = \"2\"", "x-table = \"3\""));
    remains("not reloaded", Duration::from_secs(5), async || reloads(&world) == 2).await;
    assert!(unwatched.process.events("configuration not reloaded, kept the last one").is_empty());
    unwatched.finish().await;
    world.finish().await;
}

/// As Kubernetes mounts a `ConfigMap`: `proxy.toml` is a symlink to `..data/proxy.toml`, and `..data` one to a folder.
#[tokio::test]
async fn a_replaced_symlink_is_a_change_of_the_file() {
    let world = daemon().server("watch = true").route(TABLE).start().await;
    let folder = world.folder();
    let put = |version: &str, content: &str| {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("proxy.toml"), content).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    let text = world.configuration();
    put("..one", &text);
    symlink("..data/proxy.toml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), folder.join("proxy.toml")).unwrap();

    put("..two", &text.replace("x-table = \"1\"", "x-table = \"2\""));

    world.process.event("configuration reloaded").await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-table"), Some("2"));
    std::fs::remove_dir_all(folder.join("..one")).unwrap();
    put("..three", &text.replace("x-table = \"1\"", "x-table = \"3\""));
    eventually("once more", async || reloads(&world) == 2).await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.requests()[1].get("x-table"), Some("3"));
    world.finish().await;
}

/// FLT-SIG-05.
#[tokio::test]
async fn a_stop_during_a_reload_is_clean() {
    for stops in [1, 2] {
        let mut world = daemon().start().await;
        world.authorization.set_delay(Duration::from_mins(1));
        world.configure(|text| text.replace("client_id", "scopes = [\"other\"]\nclient_id"));
        let address = world.admin;
        let told = tokio::spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            client
                .post(format!("http://{address}/reload"))
                .send()
                .await
                .map(|response| response.status().as_u16())
        });
        eventually("it waits for a token", async || world.authorization.requests() == 2).await;
        assert_eq!(world.get("/x").await.status, 200, "by the table of before");

        for _ in 0..stops {
            world.process.signal(Signal::TERM);
        }

        assert_eq!(world.process.ended().await.code(), Some(0));
        assert!(!told.await.unwrap().is_ok_and(|status| status == 200), "nobody is told that it was done");
        world.check();
    }
}

#[tokio::test]
async fn a_watched_change_that_names_a_secret_which_arrives_later_is_loaded_then() {
    let world = daemon().server("watch = true").start().await;
    let complaints = || world.process.events("configuration not reloaded, kept the last one").len();

    world.configure(|text| text.replace("{ env = \"API_SECRET\" }", "{ file = \"later\" }"));
    eventually("the change is refused", async || complaints() == 1).await;
    remains("it is logged once", Duration::from_secs(5), async || complaints() == 1).await;
    assert_eq!(reloads(&world), 0);
    std::fs::write(world.folder().join("later"), testkit::harness::setup::CLIENT_SECRET).unwrap();

    eventually("the change is loaded", async || reloads(&world) == 1).await;
    remains("it is loaded once", Duration::from_secs(5), async || reloads(&world) == 1).await;
    assert_eq!(complaints(), 1);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}
