//! `bearerd explain` says of each request what the daemon does with it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{BEARERD, Caller, Reply, World, daemon};
use testkit::harness::world::assert_absent;

const SECRET: &str = "hunter2hunter2";

/// Runs `explain` in a folder with this configuration.
fn explained_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BEARERD);
    command.arg("explain").args(arguments).env_clear().env("SECRET", SECRET).current_dir(folder);
    let output = command.output().unwrap();
    for stream in [&output.stdout, &output.stderr] {
        assert_absent(&String::from_utf8_lossy(stream), SECRET);
    }
    output
}

fn explained(config: &str, arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let output = explained_in(folder.path(), arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn json(config: &str, arguments: &[&str]) -> (i32, Value) {
    let (code, text) = explained(config, &[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

const CONFIG: &str = "
[server]
hosts = [\"*.internal\", \"gateway.internal\"]

[credentials.api]
token_url = \"https://login.example.com/token\"
client_id = \"4711\"
client_secret = { env = \"SECRET\" }

[credentials.genesys]
provider = \"genesys\"
region = \"mypurecloud.de\"
client_id = \"4711\"
client_secret = { env = \"SECRET\" }

[credentials.cxone]
provider = \"cxone\"
issuer = \"https://cxone.niceincontact.com\"
client_id = \"4711\"
client_secret = { env = \"SECRET\" }
username = \"u\"
password = { env = \"SECRET\" }

[[routes]]
path = \"/api\"
upstream = \"https://api.example.com:8443/base\"
credential = \"api\"
strip_prefix = true
allow = [\"GET /api/v2/**\", \"POST /api/v2/search\"]
deny = [\"* /api/v2/secret/**\"]
token_field = \"X-Access-Token\"
token_scheme = \"\"
headers = { set = { X-Tenant = \"17\" }, remove = [\"X-Debug\"], pass = [\"X-Real-Ip\"] }
forwarded = \"x-forwarded\"
via = true
retry_429 = { attempts = 2, max_wait = \"20s\" }
timeout = \"1500ms\"

[[routes]]
path = \"/genesys\"
upstream = \"region\"
credential = \"genesys\"
strip_prefix = true

[[routes]]
path = \"/cxone\"
upstream = \"discover\"
credential = \"cxone\"

[[routes]]
host = \"open.internal\"
upstream = \"https://open.example.com\"
credential = \"none\"
retry_stale = false
";

#[test]
fn a_forwarded_request_is_explained_stage_by_stage() {
    let (code, text) = explained(CONFIG, &["GET", "http://gateway.internal:8080/api/v2/users?x=%2F&y"]);

    assert_eq!(code, 0, "{text}");
    let mut rest = text.as_str();
    for expected in [
        "request     GET /api/v2/users?x=%2F&y\n            host: gateway.internal:8080\n",
        "caller      from a network in server.allow_from; certificate names: none\n",
        "guard       accepted\n",
        "route       /api (host: any, path: /api)\n",
        "rules       allowed by the pattern \"GET /api/v2/**\" in allow\n",
        "credential  api\n",
        "upstream    GET https://api.example.com:8443/base/v2/users?x=%2F&y\n",
        "host: api.example.com:8443\n",
        "x-tenant: 17\n",
        "cdn-loop: bearerd-<instance>\n",
        "via: 1.1 bearerd-<instance>\n",
        "x-forwarded-host: gateway.internal:8080\n",
        "x-access-token: <token>\n",
        "(and the caller's address)\n",
        "replaced    host\n",
        "dropped     if a caller sends them: authorization, x-access-token, x-debug, x-tenant\n",
        "except x-real-ip\n",
        "retries     after 401: once, with a new token (bodies up to 1048576 bytes)\n",
        "after 429: up to 2 times within 20s\n",
        "on a new connection: once, if a reused one closed before the response\n",
        "timeouts    for a usable token: 10s\n",
        "for the response head: 1.5s\n",
        "result      forwarded\n",
    ] {
        let at = rest.find(expected).unwrap_or_else(|| panic!("{expected:?} in its place in:\n{text}"));
        rest = &rest[at + expected.len()..];
    }
    assert_eq!(rest, "");
}

#[test]
fn a_refused_request_has_its_rule_its_code_and_the_callers_detail() {
    for (arguments, code, status, kind, pattern) in [
        (["POST", "/api/v2/users"], "request_denied", 403, "allow", None),
        (["GET", "/api/v2/Secret/x"], "request_denied", 403, "deny", Some("* /api/v2/secret/**")),
        (
            ["DELETE", "/genesys/api/v2/tokens/me"],
            "request_denied",
            403,
            "preset",
            Some("DELETE /**/api/v2/tokens/**"),
        ),
        (["GET", "/api/v2//users"], "bad_request", 400, "encoded", None),
    ] {
        let (exit, report) = json(CONFIG, &arguments);
        assert_eq!(exit, 1, "{report}");
        assert_eq!((&report["code"], &report["status"]), (&code.into(), &status.into()), "{report}");
        assert_eq!((&report["rule"]["kind"], &report["rule"]["pattern"]), (&kind.into(), &pattern.into()));
        assert!(
            report["detail"].as_str().unwrap().ends_with('.') && report["upstream"].is_null(),
            "{report}"
        );
        let (exit, text) = explained(CONFIG, &arguments);
        assert_eq!(exit, 1);
        assert!(text.contains(&format!("result      refused: {status} {code}\n")), "{text}");
        assert!(text.contains(report["detail"].as_str().unwrap()), "{text}");
    }
    for (arguments, code, route) in [
        (["GET", "http://evil.test/"], "host_not_allowed", Value::Null),
        (["GET", "/elsewhere"], "route_not_found", Value::Null),
        (["TRACE", "/api/v2/x"], "method_not_supported", Value::Null),
        (["GET", "/api/../x"], "bad_request", Value::Null),
        (["GET", "/api/v2/x?access_token=1"], "bad_request", Value::Null),
    ] {
        let (exit, report) = json(CONFIG, &arguments);
        assert_eq!((exit, &report["code"], &report["route"]), (1, &code.into(), &route), "{report}");
    }
}

#[test]
fn a_url_without_a_host_is_at_the_first_accepted_host() {
    let (_, report) = json(CONFIG, &["GET", "/api/v2/x"]);
    assert_eq!(report["request"]["host"], "gateway.internal");
    assert!(report["request"]["remarks"][0].as_str().unwrap().contains("assumed"), "{report}");

    let (code, report) = json(CONFIG, &["PUT", "http://open.internal/a?b#c"]);
    assert_eq!((code, &report["upstream"]), (0, &"https://open.example.com/a?b".into()), "{report}");
    assert!(report["credential"].is_null() && report["retries"]["retry_on"] == serde_json::json!([]));
    assert_eq!(report["retries"]["retry_stale"], false);
    assert!(!report["fields"]["sent"].to_string().contains("authorization"), "{report}");
}

#[test]
fn an_address_that_is_not_known_yet_is_shown_as_such() {
    let (code, text) = explained(CONFIG, &["GET", "/cxone/incontactapi/services"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("GET https://<address-of-the-api>/cxone/incontactapi/services\n"), "{text}");
    assert!(text.contains("accept: application/json\n"), "the preset's field: {text}");
    let (code, text) = explained(CONFIG, &["POST", "/cxone/oauth2/token"]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("answered by bearerd"), "not a path of a login: {text}");
    let (code, text) = explained(CONFIG, &["POST", "/genesys/oauth/token"]);
    assert_eq!(code, 0);
    assert!(text.ends_with("answered by bearerd itself: a login at a path in login_stub\n"), "{text}");
}

#[test]
fn a_certificate_name_opens_the_routes_of_its_callers() {
    let folder = tempfile::tempdir().unwrap();
    let pki = testkit::pki::Pki::new(&["localhost"]).unwrap();
    for (name, content) in [
        ("ca.pem", pki.authority_pem().to_owned()),
        ("server.pem", pki.server().certificate.clone()),
        ("key.pem", pki.server().key.clone()),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let config = format!(
        "{CONFIG}callers = [\"CN=billing\"]\n\
         [server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"key.pem\"\nclient_ca = \"ca.pem\"\n"
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let run = |arguments: &[&str]| {
        let output = explained_in(folder.path(), arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let url = "https://open.internal/x";
    let (code, text) = run(&["GET", url, "--caller", "CN=other", "--caller", "CN=billing"]);
    assert!(code == 0 && text.contains("callers     admitted (callers: CN=billing)\n"), "{text}");
    let (code, text) = run(&["GET", url, "--caller", "CN=other"]);
    assert!(code == 1 && text.contains("refused: 403 caller_not_allowed\n"), "{text}");
    let (code, text) = run(&["GET", url]);
    assert!(code == 1 && text.contains("callers     refused"), "{text}");
}

#[test]
fn arguments_that_are_no_request_end_with_2_and_are_not_quoted() {
    for arguments in [
        &["G\u{1b}[31mET", "/"][..],
        &["GET", "/\u{1b}[31m"],
        &["GET", "/a b"],
        &["GET", "gateway.internal/x"],
        &["GET", "ftp://gateway.internal/"],
        &["GET", "http://user:hunter2hunter2@gateway.internal/"],
        &["GET", "http://gate\u{1b}way/"],
        &["GET", "/", "-H", "hunter2hunter2"],
        &["GET", "/", "-H", "a b: x"],
    ] {
        let (code, text) = explained(CONFIG, arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.starts_with("bearerd: ") && text.contains("  help: "), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    let (code, text) = explained(CONFIG, &["GET"]);
    assert_eq!(code, 2, "{text}");
    let (code, text) = explained("[server]\nhost = \"x\"", &["GET", "/"]);
    assert!(code == 78 && text.contains("proxy.toml:2:1"), "{text}");
}

#[test]
fn no_value_of_a_callers_credentials_is_shown() {
    let config = CONFIG.replace("[server]", "[server]\nrequired_header = \"X-Key: hunter2hunter2\"");
    let (code, text) = explained(&config, &["GET", "/api/v2/x"]);
    assert!(code == 1 && text.contains("header_required"), "{text}");
    let mut arguments = vec!["GET", "/api/v2/x", "-H", "X-Key: hunter2hunter2"];
    for field in
        ["Authorization: Bearer hunter2hunter2", "Cookie: a=hunter2hunter2", "X-Access-Token: hunter2hunter2"]
    {
        arguments.extend(["-H", field]);
    }
    for (code, text) in
        [explained(&config, &arguments), explained(&config, &[&arguments[..], &["--json"]].concat())]
    {
        assert!(code == 0 && text.contains("***"), "{text}");
    }
}

async fn sent(world: &World, method: &str, target: &str, fields: &str) -> Reply {
    let mut caller = Caller::connect(world.address).await;
    let host = world.address;
    caller.write(format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n").as_bytes()).await;
    caller.read().await.unwrap()
}

/// The daemon and the explanation agree about every request, and about each byte that the API receives.
#[tokio::test]
async fn the_daemon_does_what_the_explanation_says() {
    let world = daemon()
        .quiet()
        .route(
            "path = \"/a\"\nstrip_prefix = true\nallow = [\"GET /a/**\", \"DELETE /a/x/*\"]\ndeny = [\"* /a/no\"]\n\
             headers = { set = { X-Tenant = \"17\" }, set_if_absent = { Accept = \"a/b\" }, remove = [\"X-Debug\"] }",
        )
        .start()
        .await;
    world.ready().await;
    let folder = world.folder();
    let ask = async |method: &str, target: &str, fields: &[&str]| {
        let url = format!("http://{}{target}", world.address);
        let mut arguments = vec!["explain", method, &url, "--json"];
        for field in fields {
            arguments.extend(["-H", *field]);
        }
        let mut process = world.command(&arguments);
        process.ended().await;
        serde_json::from_str::<Value>(&process.output())
            .unwrap_or_else(|error| panic!("{error}: {}", process.output()))
    };
    assert!(folder.exists());
    for (method, target, fields) in [
        ("GET", "/a", &[][..]),
        ("GET", "/a/", &[]),
        ("GET", "/a?x=1", &[]),
        ("GET", "/a/b%2Dc/%7e?q=%zz&r=a/b", &[]),
        ("GET", "/%61/b", &["X-Debug: 1", "x_debug: 2", "X-Other: 3", "Accept: c/d"]),
        ("DELETE", "/a/x/1", &["Authorization: Bearer theirs", "X-Forwarded-For: 192.0.2.1"]),
        ("DELETE", "/a/x", &[]),
        ("GET", "/A/b", &[]),
        ("GET", "/a/NO", &[]),
        ("GET", "/a/b;c", &[]),
        ("GET", "/a/%2e%2e/b", &[]),
        ("GET", "/ab", &[]),
        ("POST", "/a/b", &[]),
        ("TRACE", "/a/b", &[]),
        ("GET", "/a/b", &["Origin: https://evil.test"]),
        ("GET", "/a/b", &["X-HTTP-Method-Override: DELETE"]),
        ("GET", "/a/b", &["Expect: magic"]),
    ] {
        let report = ask(method, target, fields).await;
        let before = world.upstream.request_count();
        let lines = fields.iter().fold(String::new(), |lines, field| format!("{lines}{field}\r\n"));
        let reply = sent(&world, method, target, &lines).await;
        let is_forwarded = world.upstream.request_count() > before;
        assert_eq!(report["outcome"] == "forwarded", is_forwarded, "{method} {target}: {report}");
        if !is_forwarded {
            assert_eq!(report["code"].as_str().map(str::to_owned), reply.code(), "{method} {target}");
            assert_eq!(report["status"], reply.status, "{method} {target}");
            let body: Value = serde_json::from_slice(&reply.body).unwrap();
            assert_eq!(report["detail"], body["detail"], "{method} {target}");
            continue;
        }
        let seen = world.upstream.requests().pop().unwrap();
        assert!(report["upstream"].as_str().unwrap().ends_with(&seen.target), "{report}: {seen:?}");
        let varies = |name: &str| matches!(name, "cdn-loop" | "authorization" | "x-request-id");
        let mut said: Vec<(String, String)> =
            serde_json::from_value(report["fields"]["sent"].clone()).unwrap();
        let mut received = seen.fields.clone();
        for fields in [&mut said, &mut received] {
            fields.iter_mut().filter(|(name, _)| varies(name)).for_each(|(_, value)| value.clear());
            fields.sort();
        }
        assert_eq!(said, received, "{method} {target}");
    }
    world.finish().await;
}

#[test]
fn a_caller_is_told_its_quota_and_its_share_of_what_each_api_allows() {
    let config = "
[callers.billing]
networks = [\"10.1.0.0/16\"]
weight = 2
quota = { requests = 600, per = \"60s\", wait = \"0s\" }
[callers.crm]
networks = [\"10.2.0.0/16\"]
[callers.other]
[server]
allow_from = [\"10.0.0.0/8\"]
[credentials.one]
provider = \"genesys\"
region = \"mypurecloud.de\"
client_id = \"4711\"
client_secret = { env = \"SECRET\" }
[credentials.two]
provider = \"genesys\"
region = \"mypurecloud.de\"
client_id = \"4712\"
client_secret = { env = \"SECRET\" }
api_quota = { requests = 10, per = \"1s\" }
[pools.both]
credentials = [\"one\", \"two\"]
[[routes]]
upstream = \"https://api.mypurecloud.de\"
credential = \"both\"
[[routes]]
path = \"/none\"
upstream = \"https://api.example.com\"
credential = \"none\"
";
    let (code, text) = explained(config, &["GET", "/x", "--address", "10.1.0.1"]);
    assert_eq!(code, 0, "{text}");
    let expected = "\
quota       [callers.billing]: 600 requests in 1m;
            a request waits for its turn: 0s
            [credentials.one]: 300 requests in 1m, shared by all callers;
            the share of [callers.billing]: 150 of them (weight 2 of 4);
            a request waits for its turn: 2s
            [credentials.two]: 10 requests in 1s, shared by all callers;
            the share of [callers.billing]: 5 of them (weight 2 of 4);
            a request waits for its turn: 2s
";
    assert!(text.contains(expected), "{text}");
    let (_, report) = json(config, &["GET", "/x", "--address", "10.2.0.1"]);
    assert_eq!(report["caller"]["quota"], Value::Null);
    let shares: Vec<_> =
        report["api_quotas"].as_array().unwrap().iter().map(|one| one["share"].clone()).collect();
    assert_eq!(shares, [75.0, 2.5]);
    let (_, report) = json(config, &["GET", "/none", "--address", "10.1.0.1"]);
    assert_eq!(
        (&report["api_quotas"], &report["caller"]["quota"]["requests"]),
        (&Value::Array(Vec::new()), &600.into())
    );
}
