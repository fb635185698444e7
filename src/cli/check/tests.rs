//! For every configuration, `check` says what `run` would decide.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::config::source::file;
use crate::systemd::sockets::PassedSockets;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Lines of `[server]`. Port 0 stands for a free port: that another process listens is not of the configuration.
const LISTEN: &[&str] = &[
    "\"127.0.0.1:0\"",
    "[\"127.0.0.1:0\", \"[::1]:0\"]",
    "\"unix:s\"",
    "[\"unix:s\", \"unix:./s\"]",
    "\"unix:none/s\"",
    "\"unix:file\"",
    "\"0.0.0.0:0\"",
    "[\"127.0.0.1:0\", 5]",
    "\"here\"",
];
const STATE_DIR: &[&str] = &["", "state_dir = \"state\"", "state_dir = \"missing\"", "state_dir = \"file\""];
const TLS: &[&str] = &[
    "",
    "tls = { certificate = \"cert.pem\", private_key = \"key.pem\" }",
    "tls = { certificate = \"cert.pem\", private_key = \"key.pem\", client_ca = \"ca.pem\" }",
    "tls = { certificate = \"cert.pem\", private_key = \"key.pem\", client_ca = \"file\" }",
    "tls = { certificate = \"cert.pem\", private_key = \"other.pem\" }",
    "tls = { certificate = \"none.pem\", private_key = \"key.pem\" }",
    "tls = { certificate = \"cert.pem\" }",
    "limits = { streams = 0 }",
    "limits = { header_bytes = \"1MiB\", strems = 1 }",
];
const CLIENT: &[&str] = &[
    "client_secret = { env = \"SECRET\" }",
    "client_secret = { env = \"UNSET\" }",
    "client_secret = { file = \"file\" }",
    "client_auth = \"none\"",
    "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"p256.pem\" }, alg = \"ES256\" }",
    "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"p256.pem\" } }",
    "client_auth = \"tls_client_auth\"\nclient_certificate = \"cert.pem\"\nclient_key = \"key.pem\"",
    "client_auth = \"tls_client_auth\"\nclient_certificate = \"cert.pem\"\nclient_key = \"other.pem\"",
    "",
];
const ENDPOINT: &[&str] = &[
    "token_url = \"https://127.0.0.1:1/t\"",
    "token_url = \"http://127.0.0.1:1/t\"",
    "issuer = \"https://127.0.0.1:1/\"",
    "token_url = \"https://\"",
    "token_url = \"https://[::1/t\"",
    "provider = \"genesys\"\nregion = \"mypurecloud.de\"",
    "provider = \"cxone\"",
];
const GRANT: &[&str] = &[
    "",
    "state_key = { env = \"KEY\" }",
    "state_key = { env = \"SECRET\" }",
    "grant = \"refresh_token\"\nrefresh_token = { env = \"SECRET\" }\nstate_key = { env = \"KEY\" }",
    "grant = \"authorization_code\"\nauthorize_url = \"https://127.0.0.1:1/a\"\nstate_key = { env = \"KEY\" }",
    "grant = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }",
    "fallback = \"password\"",
];
/// Lines of a credential or a route.
const TRANSPORT: &[&str] = &[
    "",
    "ca_file = \"ca.pem\"",
    "ca_file = \"ca.pem\"\nsystem_roots = true",
    "ca_file = \"file\"",
    "ca_file = \"none.pem\"",
    "proxy = \"http://127.0.0.1:2\"",
    "proxy = \"ftp://127.0.0.1:2\"",
    "http_version = \"2\"",
    "timeout = \"0s\"",
];
const ROUTE: &[&str] = &[
    "upstream = \"https://127.0.0.1:1\"",
    "upstream = \"http://127.0.0.1:1\"",
    "upstream = \"https://a..b/\"",
    "upstream = \"https://api.example.com/\"\nserver_name = \"a b\"",
    "upstream = \"region\"",
    "upstream = \"discover\"",
    "upstream = \"https://127.0.0.1:1\"\nupgrade = [\"websocket\"]",
    "upstream = \"https://127.0.0.1:1\"\nclient_certificate = \"cert.pem\"\nclient_key = \"key.pem\"",
    "upstream = \"https://127.0.0.1:1\"\nclient_certificate = \"cert.pem\"\nclient_key = \"other.pem\"",
    "upstream = \"https://127.0.0.1:1\"\nbreaker = { failures = 0 }",
    "upstream = \"https://127.0.0.1:1\"\ncallers = [\"CN=a\"]",
];
/// Lines of `[admin]`.
const ADMIN: &[&str] = &[
    "listen = \"127.0.0.1:0\"",
    "listen = \"unix:a\"",
    "listen = \"unix:s\"",
    "listen = \"unix:file\"",
    "listen = \"0.0.0.0:0\"",
    "listen = \"127.0.0.1:0\"\ntls = { certificate = \"cert.pem\", private_key = \"key.pem\" }",
    "listen = \"127.0.0.1:0\"\ntls = { certificate = \"none.pem\", private_key = \"other.pem\" }",
    "listen = \"127.0.0.1:0\"\ntoken = { file = \"none\" }",
];
/// Sections about what operators see.
const REPORTS: &[&str] = &[
    "",
    "[health]\nlisten = \"127.0.0.1:0\"",
    "[health]\nlisten = \"unix:./a\"",
    "[audit]\noutput = \"file:audit\"\nkey = { env = \"KEY\" }",
    "[audit]\noutput = \"file:new/folder/audit\"\non_failure = \"refuse\"",
    "[audit]\noutput = \"file:state\"",
    "[audit]\noutput = \"file:file/audit\"",
    "[audit]\noutput = \"file:audit\"\nkey = { env = \"UNSET\" }",
    "[audit]\noutput = \"file:l\"\n[log]\noutput = \"file:./l\"",
    "[[webhooks]]\nurl = \"https://127.0.0.1:1/\"\nca_file = \"ca.pem\"",
    "[[webhooks]]\nurl = \"https://127.0.0.1:1/\"\nca_file = \"none.pem\"",
    "[[webhooks]]\nurl = \"https://127.0.0.1:1/\"\nsecret = { env = \"SECRET\" }",
    "[[webhooks]]\nurl = { env = \"SECRET\" }",
    "[tracing]\notlp_endpoint = \"http://127.0.0.1:1\"\nsample = 0.5",
    "[tracing]\notlp_endpoint = \"ftp://127.0.0.1:1\"",
    "[tracing]\nsample = 2",
];
/// Lines of a second credential.
const STATE_FILE: &[&str] = &[
    "",
    "state_file = \"state/d\"",
    "state_file = \"state/c.state\"",
    "state_file = \"link/../link/c.state\"",
    "state_file = \"none/d\"",
    "state_file = \"file/d\"",
    "state_file = \"state\"",
];
const STATE: &[Option<&str>] = &[None, None, Some("{}"), Some("")];

/// Mostly the first one, with which a configuration is good.
fn one_of(list: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(list[0]), 2 => select(list)]
}

fn any_configuration() -> impl Strategy<Value = String> {
    let server = (one_of(LISTEN), one_of(STATE_DIR), one_of(TLS));
    let credential = (one_of(CLIENT), one_of(ENDPOINT), one_of(GRANT), one_of(TRANSPORT));
    let route = (one_of(ROUTE), one_of(TRANSPORT), one_of(&["c", "none", "x"]));
    let others = (one_of(ADMIN), one_of(REPORTS), one_of(STATE_FILE));
    (server, credential, route, others).prop_map(|(server, credential, route, others)| {
        let (listen, state_dir, tls) = server;
        let (admin, reports, state_file) = others;
        let (client, endpoint, grant, transport) = credential;
        let (upstream, of_route, name) = route;
        format!(
            "[admin]\n{admin}\n[server]\nworkers = 1\nlisten = {listen}\n{state_dir}\n{tls}\n\
             [credentials.c]\nclient_id = \"i\"\n{client}\n{endpoint}\n{grant}\n{transport}\n\
             [credentials.d]\nclient_id = \"i\"\nclient_secret = {{ env = \"SECRET\" }}\n\
             token_url = \"https://127.0.0.1:1/t\"\n{state_file}\n\
             [[routes]]\ncredential = \"{name}\"\n{upstream}\n{of_route}\n\
             [[routes]]\npath = \"/d\"\ncredential = \"d\"\nupstream = \"https://127.0.0.1:1\"\n{reports}\n"
        )
    })
}

/// Writes the files that the configurations name.
fn prepare(folder: &Path, state: Option<&str>) {
    let [pki, other] = [(), ()].map(|()| testkit::pki::Pki::new(&["localhost"]).unwrap());
    let p256 = &config::fixture::keys::p256().0[0];
    for (name, content) in [
        ("cert.pem", &*pki.server().certificate),
        ("key.pem", &pki.server().key),
        ("other.pem", &other.server().key),
        ("ca.pem", pki.authority_pem()),
        ("p256.pem", p256),
        ("file", ""),
    ] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    std::fs::create_dir(folder.join("state")).unwrap();
    std::os::unix::fs::symlink("state", folder.join("link")).unwrap();
    if let Some(state) = state {
        std::fs::write(folder.join("state/c.state"), state).unwrap();
    }
}

/// Whether `bearerd check` accepts the configuration, and what it says.
fn checked(path: &Path, environment: &Environment) -> (bool, String) {
    match config::load(path, environment).and_then(states::check) {
        Ok(checked) => match Daemon::try_out(&checked.config) {
            Ok(()) => (true, checked.warnings.to_string()),
            Err(error) => (false, in_one_line(&error)),
        },
        Err(problems) => (false, problems.to_string()),
    }
}

/// Whether `bearerd run` starts with the configuration, and why not.
fn started(path: &Path, environment: &Environment) -> (bool, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match config::check(path, file::read(path), environment) {
            Ok(checked) => match Daemon::start(&checked.config, None, PassedSockets::default()) {
                Ok(daemon) => {
                    daemon.abort().await;
                    (true, String::new())
                }
                Err(error) => (false, in_one_line(&error)),
            },
            Err(problems) => (false, problems.to_string()),
        }
    })
}

#[test]
fn check_and_run_agree_about_every_configuration() {
    let cases = 240;
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let environment = Environment::from([("SECRET", "hunter2hunter2"), ("KEY", KEY)]);
    let accepted = std::cell::Cell::new(0);
    runner
        .run(&(any_configuration(), select(STATE)), |(text, state)| {
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path(), state);
            let path = folder.path().join("proxy.toml");
            std::fs::write(&path, &text).unwrap();

            let (is_accepted, said) = checked(&path, &environment);
            let (has_started, why) = started(&path, &environment);

            prop_assert_eq!(is_accepted, has_started, "{}\ncheck: {}\nrun: {}", text, said, why);
            accepted.set(accepted.get() + u32::from(is_accepted));
            Ok(())
        })
        .unwrap();
    let accepted = accepted.get();
    assert!(accepted > 0 && accepted < cases, "{accepted} of {cases} were accepted");
}
