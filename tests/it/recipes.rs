//! The recipes of the documentation, each run unchanged against a platform that behaves as the vendor's documentation, or
//! the tutorial, says.

mod contact_centres;
mod keys;
mod vendor_recipes;
mod vendor_server;

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Caller, Internet, Process, Reply, Request, command, eventually, spawn};
use contact_centres::{Answer, Platform, Realm};
pub(crate) use keys::write_key;
use testkit::harness::world::assert_absent;

/// The value of the recipes' secrets. CXone's access keys end like this.
pub(crate) const SECRETS: [(&str, &str); 18] = [
    ("CXONE_CLIENT_SECRET", "cx0ne/secret+with%all&of=it"),
    ("CXONE_DEVTEST_CLIENT_SECRET", "devtest-cx0ne-secret"),
    ("CXONE_ACCESS_KEY_SECRET", "QWNjZXNzS2V5U2VjcmV0T2ZGaWZ0eVNpeENoYXJhY3RlcnMrLw===="),
    ("GENESYS_CLIENT_SECRET", "g3nesys_secret-of-a-client"),
    ("CXONE_STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ("ZOOM_CLIENT_SECRET", "z00m_secret-of-a-client"),
    ("AUTH0_CLIENT_SECRET", "auth0_secret-of-a-client"),
    ("KEYCLOAK_CLIENT_SECRET", "keycl0ak_secret-of-a-client"),
    ("ZOHO_CLIENT_SECRET", "z0h0_secret-of-a-client"),
    ("ZOHO_REFRESH_TOKEN", "1000.z0h0-refresh-token.of-a-user"),
    ("ZOHO_STATE_KEY", "em9oby1rZXkwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc="),
    ("XERO_CLIENT_SECRET", "xer0_secret-of-a-client"),
    ("XERO_STATE_KEY", "eGVyby1rZXkwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc="),
    ("SERVICENOW_CLIENT_SECRET", "serv1cenow_secret-of-a-client"),
    ("SERVICENOW_PASSWORD", "serv1cenow-password-of-a-user"),
    ("TALKDESK_CLIENT_SECRET", "talkd3sk_secret-of-a-client"),
    ("REDIS_PASSWORD", "passw0rd-of-the-store"),
    ("SHARED_KEY", "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="),
];

fn secret(name: &str) -> &'static str {
    SECRETS.iter().find(|(known, _)| *known == name).unwrap().1
}

fn recipe(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes").join(name).with_extension("toml");
    std::fs::read_to_string(path).unwrap()
}

/// A daemon that runs a recipe unchanged except for the ports.
#[derive(Debug)]
struct Deployment {
    prepared: Prepared,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

/// A folder with a recipe after these changes, the key that it names and a folder of states, and the environment of the
/// recipe in this internet.
fn prepare(name: &str, changes: &[(&str, &str)], internet: &Internet) -> (TempDir, Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let text = changes.iter().fold(recipe(name), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    write_key(&text, folder.path());
    std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
    create_state_folder(folder.path());
    let mut environment = internet.environment(folder.path());
    let own = [
        ("BEARERD_SERVER__LISTEN", "127.0.0.1:0"),
        ("BEARERD_ADMIN__LISTEN", "127.0.0.1:0"),
        ("BEARERD_LOG__FORMAT", "json"),
        ("RUST_LOG", "trace"),
    ];
    let all = SECRETS.iter().chain(&own);
    environment.extend(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    (folder, environment)
}

fn create_state_folder(folder: &Path) {
    std::fs::create_dir(folder.join("state")).unwrap();
    std::fs::set_permissions(folder.join("state"), Permissions::from_mode(0o700)).unwrap();
}

/// Logs in with a browser that ends at an address without a listener, and pastes that address. Answers the command's output.
async fn log_in(
    environment: &[(String, String)],
    folder: &Path,
    credential: &str,
    admin: &str,
    paste: impl Fn(&str) -> String,
) -> String {
    let launch = command(&["login", "--no-browser", credential], environment, folder);
    let mut process = launch.variable("BEARERD_ADMIN__LISTEN", admin).with_input().start();
    eventually("an address", async || process.output().contains("Waiting for")).await;
    let output = process.output();
    let address = output.lines().find(|line| line.starts_with("https://")).unwrap();
    process.type_line(&paste(address)).await;
    let status = process.ended().await;
    let output = process.output();
    assert_eq!(status.code(), Some(0), "{output}");
    output
}

/// A recipe in a folder, for commands.
#[derive(Debug)]
struct Prepared {
    platform: Platform,
    environment: Vec<(String, String)>,
    folder: TempDir,
}

impl Prepared {
    fn new(name: &str, platform: Platform) -> Self {
        let (folder, environment) = prepare(name, &[], &platform.internet);
        Self { platform, environment, folder }
    }

    async fn log_in(&self, credential: &str, realm: usize, admin: &str) -> String {
        let paste = |address: &str| self.platform.authorize(realm, address);
        let output = log_in(&self.environment, self.folder.path(), credential, admin, paste).await;
        for secret in self.platform.secrets() {
            assert_absent(&output, secret.rsplit('.').next().unwrap());
        }
        output
    }

    async fn run(self) -> Deployment {
        let process = spawn(&["run"], &self.environment, self.folder.path());
        let address = async |message| {
            process.event(message).await["address"].as_str().unwrap().parse::<SocketAddr>().unwrap()
        };
        let (address, admin) = (address("listening").await, address("admin listening").await);
        Deployment { prepared: self, process, address, admin }
    }
}

impl Deployment {
    async fn start(name: &str, platform: Platform) -> Self {
        Prepared::new(name, platform).run().await
    }

    /// Without the quota of the preset, for a test that sends more requests than a caller would.
    async fn start_without_quota(name: &str, platform: Platform) -> Self {
        let (from, to) = ("provider = \"genesys\"", "provider = \"genesys\"\napi_quota = \"\"");
        let (folder, environment) = prepare(name, &[(from, to)], &platform.internet);
        Prepared { platform, environment, folder }.run().await
    }

    async fn start_ready(name: &str, platform: Platform) -> Self {
        let deployment = Self::start(name, platform).await;
        eventually("ready", async || deployment.readiness().await.0 == 200).await;
        deployment
    }

    async fn readiness(&self) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}/readyz?verbose", self.admin)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn send(&self, request: &Request) -> Reply {
        Caller::connect(self.address).await.send(request).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.send(&Request::get(target)).await
    }

    /// A login of an SDK: the daemon answers with a worthless token.
    async fn logs_in(&self, request: &Request) {
        assert!(self.send(request).await.is_stub());
    }

    async fn finish(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.ended().await;
        let output = self.process.output();
        assert_eq!(status.code(), Some(0), "{output}");
        let violations = self.prepared.platform.violations();
        assert!(violations.is_empty(), "{violations:#?}");
        assert!(!output.contains("panicked"), "{output}");
        for secret in self.prepared.platform.secrets() {
            // All JWTs begin with the same characters.
            assert_absent(&output, secret.rsplit('.').next().unwrap());
        }
        for (_, secret) in SECRETS {
            assert_absent(&output, secret);
        }
    }
}

#[tokio::test]
async fn every_recipe_is_valid_and_lists_its_requirements() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let index = std::fs::read_to_string(docs.join("configure/recipes.md")).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(docs.join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("(../recipes/{file})")), "{file} is not in the index");
        seen += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = recipe(name);
        let run = tempfile::tempdir().unwrap();
        write_key(&text, run.path());
        std::fs::write(run.path().join("proxy.toml"), &text).unwrap();
        create_state_folder(run.path());
        let needed = SECRETS.iter().filter(|(name, _)| text.contains(&format!("\"{name}\"")));
        let environment: Vec<(String, String)> = needed
            .map(|(name, value)| {
                assert!(
                    text.contains(&format!("# Environment: {name}"))
                        || text.contains(&format!(", {name}"))
                        || text.contains(&format!("; {name}")),
                    "{file} does not say that it needs {name}"
                );
                ((*name).to_owned(), (*value).to_owned())
            })
            .collect();
        let mut process = spawn(&["check"], &environment, run.path());
        let status = process.ended().await;
        let output = process.output();
        assert_eq!(status.code(), Some(0), "{file}:\n{output}");
        // Warnings about values to fill in, about a login to come and about a tutorial's address are expected.
        let is_tutorial = text.contains("tutorial") || text.contains("forum");
        let is_expected = |line: &str| {
            let is_before_login = line == "warning: nobody has logged in for this credential yet";
            is_tutorial || is_before_login || line == "warning: looks like a placeholder"
        };
        let mut warnings = output.lines().filter(|line| line.starts_with("warning: "));
        assert!(warnings.all(is_expected), "{file}:\n{output}");
    }
    assert_eq!(seen, 20);
}

fn client_credentials_realm() -> Realm {
    Realm {
        expects: vec![
            ("grant_type", "client_credentials"),
            ("client_id", "your-client-id"),
            ("client_secret", secret("CXONE_CLIENT_SECRET")),
            ("scope", "openid conversation:read agent:read"),
        ],
        token_host: "platform.niceincontact.com",
        token_path: "/oauth2/v1/token",
        api_host: "platform.niceincontact.com",
        lifetime: 3600,
        scope: "conversation:read agent:read",
        ..Realm::default()
    }
}

async fn both_platforms() -> Platform {
    let production = client_credentials_realm();
    let mut devtest = Realm {
        token_host: "platform.devtest.niceincontact.com",
        api_host: "platform.devtest.niceincontact.com",
        ..client_credentials_realm()
    };
    devtest.expects[1].1 = "your-devtest-client-id";
    devtest.expects[2].1 = secret("CXONE_DEVTEST_CLIENT_SECRET");
    Platform::start(vec![production, devtest], vec![]).await
}

/// A token that reaches the wrong platform is a violation, which `finish` reports.
#[tokio::test]
async fn client_credentials_production_and_devtest_work_side_by_side() {
    let deployment = Deployment::start_ready("cxone-client-credentials", both_platforms().await).await;
    for (realm, prefix) in [(0, "/production"), (1, "/devtest")] {
        let path = format!("{prefix}/api/v2/users?x=%2F");
        assert_eq!(deployment.get(&path).await.status, 200);
        // The application's retry on a 401 is not needed.
        deployment.prepared.platform.revoke(realm);
        assert_eq!(deployment.get(&path).await.status, 200);
        deployment
            .logs_in(&Request::post(&format!("{prefix}/oauth2/v1/token"), b"grant_type=client_credentials"))
            .await;

        let run = deployment.prepared.platform.run(realm);
        let calls: Vec<_> = run.calls.iter().map(|call| (call.path.as_str(), call.status)).collect();
        let path = "/api/v2/users?x=%2F";
        assert_eq!(calls, [(path, 200), (path, 401), (path, 200)]);
        assert_eq!(run.asked.len(), 2);
    }
    assert_eq!(deployment.get("/api/v2/users").await.code().as_deref(), Some("route_not_found"));
    deployment.finish().await;
}

#[tokio::test]
async fn client_credentials_that_devtest_rejects_do_not_affect_production() {
    let platform = both_platforms().await;
    platform.on_token_request(1, vec![Answer(403, vec![], "{\"error\":\"access_denied\"}"); 3]);
    platform.on_token_request(0, [Answer(429, vec![("retry-after", "1")], "")]);
    let deployment = Deployment::start("cxone-client-credentials", platform).await;

    // The platform asks to wait for a second, and callers wait.
    assert_eq!(deployment.get("/production/api/v2/users").await.status, 200);
    let refused = deployment.get("/devtest/api/v2/users").await;

    assert_eq!(
        (refused.status, refused.code().as_deref()),
        (503, Some("client_rejected")),
        "{}",
        refused.text()
    );
    assert_eq!(deployment.readiness().await.0, 200);
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 2);
    assert_eq!(deployment.prepared.platform.run(1).asked.len(), 1);
    deployment.finish().await;
}

fn forum_realm() -> Realm {
    Realm {
        token_host: "api.nicecxone.com",
        token_path: "/auth/oauth/token",
        api_host: "api.nicecxone.com",
        expects: vec![
            ("grant_type", "client_credentials"),
            ("client_id", "your-client-id"),
            ("client_secret", secret("CXONE_CLIENT_SECRET")),
        ],
        lifetime: 7200,
        ..Realm::default()
    }
}

/// An application that sends JSON in the place of a form, and logs in before every call.
#[tokio::test]
async fn form_encoded_an_application_that_logs_in_before_each_call_works() {
    let platform = Platform::start(vec![forum_realm()], vec![]).await;
    platform.on_token_request(0, [Answer(503, vec![], "<html>")]);
    let deployment = Deployment::start("cxone-form-encoded", platform).await;
    let login =
        json!({ "grant_type": "client_credentials", "client_id": "app", "client_secret": "of-the-app" });
    let login = Request::post("/auth/oauth/token", login.to_string().as_bytes())
        .field("content-type", "application/json");

    for _ in 0..50 {
        deployment.logs_in(&login).await;
        let call = Request::get("/api/v2/audit").field("authorization", "Bearer bearerd-local");
        assert_eq!(deployment.send(&call).await.status, 200);
    }

    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 2, "one after the 503 for all fifty");
    let issued = deployment.process.event("token refreshed").await;
    assert!(issued.to_string().contains("7200") || issued.to_string().contains("2h"), "{issued}");
    deployment.finish().await;
}

fn genesys_realm(region: &'static str) -> Realm {
    let (token_host, api_host) = match region {
        "mypurecloud.de" => ("login.mypurecloud.de", "api.mypurecloud.de"),
        _ => ("login.mypurecloud.com", "api.mypurecloud.com"),
    };
    Realm {
        token_host,
        token_path: "/oauth/token",
        api_host,
        expects: vec![("grant_type", "client_credentials")],
        basic: Some(("your-client-id", secret("GENESYS_CLIENT_SECRET"))),
        lifetime: 86_399,
        ..Realm::default()
    }
}

fn batch_realm() -> Realm {
    Realm {
        token_host: "mypurecloud.com",
        token_path: "/api/v2/oauth/token",
        api_host: "api.mypurecloud.com",
        expects: vec![
            ("grant_type", "client_credentials"),
            ("client_id", "your-client-id"),
            ("client_secret", secret("GENESYS_CLIENT_SECRET")),
            ("scope", "user:read analytics:query"),
        ],
        basic: None,
        lifetime: 3600,
        scope: "user:read analytics:query",
        ..Realm::default()
    }
}

/// Reads all pages of a list, as the tutorial does.
async fn pages(deployment: &Deployment) -> Vec<Value> {
    let mut next = Some("/api/v2/users".to_owned());
    let mut entities = Vec::new();
    while let Some(path) = next {
        let reply = deployment.get(&path).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut page: Value = serde_json::from_slice(&reply.body).unwrap();
        entities.append(page["entities"].as_array_mut().unwrap());
        next = page["nextPageUri"].as_str().map(str::to_owned);
    }
    entities
}

#[tokio::test]
async fn genesys_batch_pages_are_followed_while_the_token_is_replaced() {
    let platform = Platform::start(vec![batch_realm()], vec![]).await;
    let deployment = Deployment::start_without_quota("genesys-batch", platform).await;
    // Before the first token all callers share one token request.
    let callers = (0..40).map(|_| deployment.get("/api/v2/users?pageNumber=3"));
    for reply in futures_util::future::join_all(callers).await {
        assert_eq!(reply.status, 200);
    }
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 1);
    deployment.finish().await;

    let platform = Platform::start(vec![Realm { lifetime: 2, ..batch_realm() }], vec![]).await;
    let deployment = Deployment::start_without_quota("genesys-batch", platform).await;
    eventually("two refreshes", async || {
        assert_eq!(pages(&deployment).await, [json!({ "id": 1 }), json!({ "id": 2 }), json!({ "id": 3 })]);
        deployment.prepared.platform.run(0).asked.len() >= 3
    })
    .await;

    assert!(deployment.prepared.platform.run(0).calls.iter().all(|call| call.status == 200));
    deployment.finish().await;
}

#[tokio::test]
async fn genesys_batch_api_errors_reach_the_exporter_and_cost_no_token() {
    let platform = Platform::start(vec![batch_realm()], vec![]).await;
    platform.on_token_request(0, [Answer(429, vec![("retry-after", "1")], "")]);
    let deployment = Deployment::start_ready("genesys-batch", platform).await;
    let limit = Answer(429, vec![("retry-after", "3")], "{\"message\":\"Rate limit exceeded\"}");
    deployment
        .prepared
        .platform
        .on_call(0, [limit, Answer(403, vec![], "{\"message\":\"missing permission\"}")]);

    let limited = deployment.get("/api/v2/users").await;
    // Until then, bearerd refuses requests that would wait for too long.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let refused = deployment.get("/api/v2/users").await;

    assert_eq!((limited.status, limited.get("retry-after")), (429, Some("3")));
    assert_eq!((refused.status, refused.code()), (403, None));
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 2);
    deployment.finish().await;
}

#[tokio::test]
async fn genesys_throttling_with_a_400_is_waited_out_and_revocation_is_denied() {
    let platform = Platform::start(vec![genesys_realm("mypurecloud.de")], vec![]).await;
    let deployment = Deployment::start_ready("genesys", platform).await;
    let throttled = "{\"error\":\"invalid_request\",\"description\":\"rate limit exceeded\",\
                     \"error_description\":\"rate limit exceeded; wait\"}";
    deployment.prepared.platform.on_token_request(0, vec![Answer(400, vec![], throttled); 5]);

    let revoking = Request::get("/api/v2/tokens/me").method("DELETE");
    let refused = deployment.send(&revoking).await;
    assert_eq!((refused.status, refused.code().as_deref()), (403, Some("request_denied")));
    assert_eq!(deployment.get("/api/v2/users").await.status, 200);
    assert!(deployment.prepared.platform.run(0).calls.iter().all(|call| call.method == "GET"));

    deployment.prepared.platform.revoke(0);
    let waiting = deployment.get("/api/v2/users").await;
    assert_eq!((waiting.status, waiting.code().as_deref()), (503, Some("token_endpoint_rate_limited")));
    assert!(waiting.get("retry-after").unwrap().parse::<u64>().unwrap() >= 30, "{waiting:?}");
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 2);
    deployment.finish().await;
}

/// The store of the recipe does not exist: a grant without a refresh token goes on alone.
#[tokio::test]
async fn replicas_serve_requests_while_their_store_is_away() {
    let platform = Platform::start(vec![genesys_realm("mypurecloud.de")], vec![]).await;
    let deployment = Deployment::start_ready("replicas", platform).await;

    assert_eq!(deployment.get("/api/v2/users").await.status, 200);
    deployment.prepared.platform.revoke(0);
    assert_eq!(deployment.get("/api/v2/users").await.status, 200);

    deployment.process.event("shared store lost").await;
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 2);
    deployment.finish().await;
}

fn cxone_realm() -> Realm {
    Realm {
        token_host: "cxone.niceincontact.com",
        token_path: "/auth/token",
        api_host: "api-na1.niceincontact.com",
        expects: vec![
            ("grant_type", "password"),
            ("username", "your-access-key-id"),
            ("password", secret("CXONE_ACCESS_KEY_SECRET")),
        ],
        basic: Some(("your-client-id", secret("CXONE_CLIENT_SECRET"))),
        lifetime: 3600,
        claims: json!({ "tenantId": "11eb-0001" }),
        rotates: true,
        ..Realm::default()
    }
}

#[tokio::test]
async fn cxone_the_access_key_leads_to_the_tenants_api() {
    let configuration = json!({ "api_endpoint": "https://api-na1.niceincontact.com", "area": "na1" });
    let path = "/.well-known/cxone-configuration?tenantId=11eb-0001";
    let platform =
        Platform::start(vec![cxone_realm()], vec![("cxone.niceincontact.com", path, configuration)]).await;
    let deployment = Deployment::start_ready("cxone", platform).await;
    let path = "/inContactAPI/services/v34.0/agents?fields=a%2Cb";

    let list = deployment.get(path).await;
    assert_eq!(list.status, 200);
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    let next = format!("http://{}/api/v2/users?pageNumber=2", deployment.address);
    assert_eq!(list["_links"]["next"], next);
    deployment.prepared.platform.revoke(0);
    assert_eq!(deployment.send(&Request::get(path).field("accept", "text/csv")).await.status, 200);
    deployment.logs_in(&Request::post("/auth/token", b"grant_type=password")).await;

    {
        let run = deployment.prepared.platform.run(0);
        assert_eq!(run.asked.len(), 2);
        assert!(run.calls.iter().all(|call| call.path == path));
        let accepts: Vec<_> = run.calls.iter().map(|call| call.accept.as_deref().unwrap()).collect();
        assert_eq!(accepts, ["application/json", "text/csv", "text/csv"]);
    }
    deployment.finish().await;
}

#[tokio::test]
async fn cxone_access_key_is_sent_as_json_to_the_regional_endpoint() {
    let realm = Realm {
        token_host: "na1.nice-incontact.com",
        token_path: "/authentication/v1/token/access-key",
        expects: vec![
            ("accessKeyId", "your-access-key-id"),
            ("accessKeySecret", secret("CXONE_ACCESS_KEY_SECRET")),
        ],
        basic: None,
        is_json: true,
        ..cxone_realm()
    };
    let deployment =
        Deployment::start_ready("cxone-access-key", Platform::start(vec![realm], vec![]).await).await;

    assert_eq!(deployment.get("/incontactapi/services/v34.0/agents").await.status, 200);

    assert_eq!(deployment.prepared.platform.run(0).asked[0].len(), 2);
    deployment.finish().await;
}

/// A redirect address without a listener.
const NO_DAEMON: &str = "127.0.0.1:1";

fn data_action_realm() -> Realm {
    Realm {
        token_host: "acme.api.nicecxone.com",
        token_path: "/oauth2/token",
        api_host: "acme.api.nicecxone.com",
        expects: vec![
            ("client_id", "your-client-id"),
            ("client_secret", secret("CXONE_CLIENT_SECRET")),
            // The platform checks this on a refresh too.
            ("redirect_uri", "https://your-app.com/oauth/callback"),
        ],
        lifetime: 3600,
        scope: "api:read api:write data_action:execute",
        rotates: true,
        ..Realm::default()
    }
}

#[tokio::test]
async fn data_action_a_login_lasts_for_five_rotations() {
    let platform = Platform::start(vec![data_action_realm()], vec![]).await;
    let prepared = Prepared::new("cxone-data-action", platform);
    prepared.log_in("data-action", 0, NO_DAEMON).await;
    assert_eq!(prepared.platform.run(0).asked.len(), 1);
    let deployment = prepared.run().await;
    let path = "/data-actions/v1/execute";

    // The login's own token is used without a token request.
    assert_eq!(deployment.get(path).await.status, 200);
    assert_eq!(deployment.prepared.platform.run(0).asked.len(), 1);
    for rotations in 1..=5 {
        deployment.prepared.platform.revoke(0);
        assert_eq!(deployment.get(path).await.status, 200, "{rotations}");
        assert_eq!(deployment.prepared.platform.run(0).refresh_tokens().len(), 1 + rotations);
    }
    deployment.prepared.platform.revoke(0);
    let limited = deployment.get(path).await;
    assert_eq!(
        (limited.status, limited.code().as_deref()),
        (503, Some("rotation_limit")),
        "{}",
        limited.text()
    );
    deployment.process.event("rotation limit reached").await;
    let refreshed = deployment.process.events("token refreshed");
    let last = refreshed.last().unwrap();
    assert_eq!((&last["rotations"], &last["success_rate"]), (&json!(5), &json!(1.0)), "{last}");
    assert!(last["latency_ms"].is_number(), "{last}");

    // The daemon is not restarted.
    let output = deployment.prepared.log_in("data-action", 0, &deployment.admin.to_string()).await;
    assert!(output.contains("handed to the daemon"), "{output}");
    assert_eq!(deployment.get(path).await.status, 200);
    deployment.finish().await;
}

#[tokio::test]
async fn data_action_the_platforms_answers_are_understood() {
    let platform = Platform::start(vec![data_action_realm()], vec![]).await;
    let prepared = Prepared::new("cxone-data-action", platform);
    prepared.log_in("data-action", 0, NO_DAEMON).await;
    let deployment = prepared.run().await;
    let platform = &deployment.prepared.platform;
    let code = async |answer: Answer| {
        platform.revoke(0);
        platform.on_token_request(0, [answer]);
        let reply = deployment.get("/x").await;
        (reply.status, reply.code())
    };

    // The daemon waits as the platform asks, and the next answer is good: the application notices nothing.
    assert_eq!(code(Answer(429, vec![("retry-after", "1")], "")).await, (200, None));
    assert_eq!(code(Answer(503, vec![], "<html>Bad gateway")).await, (200, None));
    assert_eq!(platform.run(0).refresh_tokens().len(), 3);

    // A token without the scopes of a Data Action is not used.
    let less = "{\"access_token\":\"e30.e30.e30\",\"expires_in\":3600,\"scope\":\"api:read\"}";
    assert_eq!(code(Answer(200, vec![], less)).await, (503, Some("scope_missing".to_owned())));
    deployment.finish().await;
}

#[tokio::test]
async fn data_action_a_grant_that_has_ended_is_not_sent_again() {
    let platform = Platform::start(vec![data_action_realm()], vec![]).await;
    let prepared = Prepared::new("cxone-data-action", platform);
    prepared.log_in("data-action", 0, NO_DAEMON).await;
    let deployment = prepared.run().await;
    let platform = &deployment.prepared.platform;
    platform.on_token_request(0, [Answer(400, vec![], "{\"error\":\"invalid_grant\"}")]);
    platform.revoke(0);

    for _ in 0..10 {
        let reply = deployment.get("/x").await;
        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("reauthorization_required")));
        assert!(reply.text().contains("bearerd login data-action"), "{}", reply.text());
    }

    assert_eq!(platform.run(0).asked.len(), 2);
    deployment.finish().await;
}

/// Both SDKs of the tutorial use one gateway.
#[tokio::test]
async fn sdks_log_in_and_never_see_an_expired_token() {
    let genesys = genesys_realm("mypurecloud.com");
    let cxone = Realm {
        token_host: "cxone.niceincontact.com",
        token_path: "/auth/token",
        api_host: "api.niceincontact.com",
        expects: vec![],
        basic: Some(("your-client-id", secret("CXONE_CLIENT_SECRET"))),
        scope: "user:read",
        lifetime: 2,
        rotates: true,
        ..Realm::default()
    };
    let metadata = json!({
        "issuer": "https://cxone.niceincontact.com",
        "token_endpoint": "https://cxone.niceincontact.com/auth/token",
        "authorization_endpoint": "https://cxone.niceincontact.com/auth/authorize",
    });
    let document = ("cxone.niceincontact.com", "/.well-known/oauth-authorization-server", metadata);
    let platform = Platform::start(vec![genesys, cxone], vec![document]).await;
    // The route whose grant needs no person works before the login.
    let deployment = Deployment::start_ready("sdks", platform).await;
    let to = |host: &'static str, request: Request| request.field("host", host);

    deployment
        .logs_in(&to("genesys.localhost", Request::post("/oauth/token", b"grant_type=client_credentials")))
        .await;
    // The Python SDK sends this without a token.
    let call = || {
        to("genesys.localhost", Request::get("/api/v2/users?pageSize=25")).field("authorization", "Bearer ")
    };
    assert_eq!(deployment.send(&call()).await.status, 200);
    deployment.prepared.platform.revoke(0);
    assert_eq!(deployment.send(&call()).await.status, 200);
    deployment.prepared.platform.on_call(0, [Answer(429, vec![("retry-after", "7")], "{}")]);
    let limited = deployment.send(&call()).await;
    assert_eq!((limited.status, limited.get("retry-after")), (429, Some("7")));

    let interactions = || to("cxone.localhost", Request::get("/interactions?limit=10"));
    let before = deployment.send(&interactions()).await;
    assert_eq!((before.status, before.code().as_deref()), (503, Some("reauthorization_required")));
    deployment.prepared.log_in("cxone", 1, &deployment.admin.to_string()).await;
    deployment
        .logs_in(&to("cxone.localhost", Request::post("/auth/token", b"grant_type=refresh_token")))
        .await;
    eventually("three refresh tokens", async || {
        assert_eq!(deployment.send(&interactions()).await.status, 200);
        deployment.prepared.platform.run(1).refresh_tokens().len() >= 3
    })
    .await;
    deployment.finish().await;
}
