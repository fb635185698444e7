//! What is accepted, what is refused, and what is said about it.

use super::*;
use crate::config::{Checked, ClientAuth, parse};

const CREDENTIAL: &str = "
    [credentials.cxone]
    token_url = \"https://as.example.com/token\"
    client_id = \"client\"
    client_secret = { env = \"SECRET\" }
";

const ROUTE: &str = "
    [[routes]]
    upstream = \"https://api.example.com\"
    credential = \"cxone\"
";

fn environment() -> Environment {
    Environment::from([("SECRET", "hunter2")])
}

fn read(text: &str) -> Result<Checked, Box<Diagnostics>> {
    parse(Path::new("proxy.toml"), text.to_owned(), &environment())
}

fn accepted(text: &str) -> Config {
    read(text).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

/// A good configuration with these lines put into [server].
fn with_server(lines: &str) -> String {
    format!("[server]\n{lines}\n{CREDENTIAL}{ROUTE}")
}

fn with_credential(lines: &str) -> String {
    format!("{CREDENTIAL}\n{lines}\n{ROUTE}")
}

fn with_route(lines: &str) -> String {
    format!("{CREDENTIAL}{ROUTE}\n{lines}\n")
}

/// The refusals' titles.
fn refused(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => panic!("was accepted: {text}"),
        Err(diagnostics) => diagnostics.problems().iter().map(|problem| problem.title.clone()).collect(),
    }
}

#[test]
fn what_is_not_written_has_the_documented_default() {
    let config = accepted(&format!("{CREDENTIAL}{ROUTE}"));

    assert_eq!(config.server.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(config.server.drain, Duration::from_secs(20));
    assert_eq!(config.server.limits.replay_body, 1 << 20);
    assert_eq!(config.server.limits.body_bytes, None);
    assert!(config.server.hosts.contain("localhost") && !config.server.hosts.contain("evil.test"));
    let credential = &config.credentials[0];
    assert_eq!(credential.client_auth, ClientAuth::Basic(file::BasicEncoding::Raw));
    assert_eq!(credential.refresh_margin, Duration::from_mins(5));
    assert_eq!(credential.quota.requests.get(), 10);
    assert!(credential.required);
    let route = &config.routes[0];
    assert_eq!((route.path.as_str(), route.timeout), ("/", Duration::from_mins(1)));
}

#[test]
fn every_problem_is_found_in_one_reading() {
    let problems = refused(
        "
        [server]
        listen = \"here\"
        drain = 20
        replay_body = \"1MiB\"
        [server.limits]
        replay_bdoy = \"1MiB\"
        [credentials.a]
        token_url = \"http://as.example.com/token\"
        client_secret = { env = \"NOT_THERE\" }
        username = \"u\"
        [[routes]]
        upstream = \"ftp://api.example.com\"
        credential = \"b\"
        ",
    );

    for expected in [
        "not an address to listen on",
        "`server.drain`: invalid type: integer `20`, expected a duration such as \"30s\"",
        "unknown key `replay_body` in [server]",
        "unknown key `replay_bdoy` in [server.limits]",
        "plain http:// would show the credential to the network",
        "the environment variable NOT_THERE is not set",
        "`client_id` is missing",
        "`username` is not supported yet by this version",
        "ftp:// is neither https:// nor http://",
        "there is no credential `b`",
    ] {
        assert!(problems.iter().any(|problem| problem == expected), "{expected:?} not in {problems:#?}");
    }
    assert_eq!(problems.iter().filter(|problem| problem.contains("missing")).count(), 1, "{problems:#?}");
}

#[test]
fn a_problem_says_where_it_is_and_what_would_mend_it() {
    let shown = read(&with_server("[server.limits]\nreplay_bdoy = \"1MiB\"")).unwrap_err().to_string();

    assert!(shown.contains("proxy.toml:3:1"), "{shown}");
    assert!(shown.contains("did you mean `replay_body`?"), "{shown}");

    let shown = read(&with_server("replay_body = \"1MiB\"")).unwrap_err().to_string();
    assert!(shown.contains("`replay_body` belongs to [server.limits]"), "{shown}");
}

#[test]
fn several_syntax_errors_are_all_shown() {
    let problems = refused("[server]\nlisten = \ndrain = \"20s\nworkers = = 3\n");

    assert!(problems.iter().filter(|problem| problem.starts_with("not TOML")).count() >= 2, "{problems:#?}");
}

#[test]
fn a_key_that_is_wrong_is_not_called_missing() {
    let problems = refused(&with_credential("").replace("client_id = \"client\"", "client_id = 5"));

    assert_eq!(problems, ["`credentials.cxone.client_id`: invalid type: integer `5`, expected a string"]);
}

#[test]
fn no_secret_is_in_what_is_said_about_it() {
    for wrong in
        ["hunter2", "[\"hunter2\"]", "{ hunter2 = 1 }", "\"hunter2", "{ env = \"SECRET\", file = \"x\" }"]
    {
        let text = with_credential("").replace("{ env = \"SECRET\" }", wrong);
        if let Err(diagnostics) = read(&text) {
            let shown = diagnostics.to_string();
            // As a key of an inline table it is no value, and a typing error is worth showing.
            assert!(wrong.starts_with('{') || !shown.contains("hunter2"), "{shown}");
        }
    }
    let shown = read(&with_credential("").replace("{ env = \"SECRET\" }", "4711")).unwrap_err().to_string();
    assert!(!shown.contains("4711"), "{shown}");
}

#[test]
fn a_plain_secret_is_a_warning_that_does_not_show_it() {
    let text = with_credential("").replace("{ env = \"SECRET\" }", "\"hunter2\"");
    let warnings = read(&text).unwrap().warnings;

    assert_eq!((warnings.errors(), warnings.warnings()), (0, 1));
    assert!(!warnings.to_string().contains("hunter2"), "{warnings}");
}

#[test]
fn off_loopback_the_callers_and_the_hosts_must_be_named() {
    let problems = refused(&with_server("listen = \"0.0.0.0:8080\""));
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains("server.allow_from") && problems[1].contains("server.hosts"));

    let config = accepted(&with_server(
        "listen = [\"0.0.0.0:8080\", \"[::]:8080\"]\nallow_from = [\"private\", \"203.0.113.7\"]\nhosts = [\"gw\"]",
    ));
    assert!(config.server.allow_from.contains(&"203.0.113.7/32".parse().unwrap()));
    assert!(config.server.allow_from.contains(&"10.0.0.0/8".parse().unwrap()));
    assert!(!config.server.hosts.contain("localhost"));
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for local in ["http://127.0.0.1:1/", "http://[::1]:1", "http://localhost:1/base"] {
        accepted(&with_route("").replace("https://api.example.com", local));
    }
    for remote in ["http://api.example.com", "http://10.0.0.1", "http://localhost.example.com"] {
        let problems = refused(&with_route("").replace("https://api.example.com", remote));
        assert_eq!(problems, ["plain http:// would show the credential to the network"], "{remote}");
    }
    for remote in ["http://as.example.com/token", "http://127.0.0.1.example.com/token"] {
        let problems = refused(&with_credential("").replace("https://as.example.com/token", remote));
        assert_eq!(problems, ["plain http:// would show the credential to the network"], "{remote}");
    }
}

#[test]
fn an_upstream_may_carry_a_path_and_a_port_but_nothing_else() {
    let config =
        accepted(&with_route("").replace("https://api.example.com", "https://API.example.com:8443/base/"));
    let upstream = &config.routes[0].upstream;
    assert_eq!((upstream.authority.as_str(), upstream.path.as_str()), ("api.example.com:8443", "/base"));

    for wrong in
        ["https://u:p@api.example.com", "https://api.example.com?x=1", "https://api.example.com#x", "api"]
    {
        refused(&with_route("").replace("https://api.example.com", wrong));
    }
}

#[test]
fn two_routes_for_the_same_requests_are_refused() {
    let again = "[[routes]]\npath = \"/api/\"\nupstream = \"https://b.example.com\"\ncredential = \"none\"";
    let problems = refused(&with_route(&format!("path = \"/api\"\n{again}")));
    assert_eq!(problems, ["the same host and path as route 1"]);

    accepted(&with_route(&format!("path = \"/api\"\nhost = \"a.example.com\"\n{again}")));
}

#[test]
fn a_path_prefix_is_written_plainly() {
    for wrong in ["", "api", "/a//b", "/a/../b", "/a%2fb", "/a?b", "/a b", "//"] {
        refused(&with_route(&format!("path = \"{wrong}\"")));
    }
    for (written, matched) in
        [("/", "/"), ("/api/", "/api"), ("/inContactAPI/services", "/inContactAPI/services")]
    {
        assert_eq!(accepted(&with_route(&format!("path = \"{written}\""))).routes[0].path, matched);
    }
}

#[test]
fn a_ca_file_must_be_there_and_hold_certificates() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("empty.pem"), "nothing here").unwrap();
    std::fs::write(
        folder.path().join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    for (file, said) in [
        ("gone.pem", "cannot read"),
        ("empty.pem", "holds no certificate"),
        ("broken.pem", "holds an unusable certificate"),
    ] {
        let text = with_route(&format!("ca_file = \"{file}\""));
        let problems =
            parse(&folder.path().join("proxy.toml"), text, &environment()).unwrap_err().to_string();
        assert!(problems.contains(said), "{problems}");
    }
}

#[test]
fn what_is_designed_and_not_built_is_refused_by_name() {
    for (text, said) in [
        (with_server("state_dir = \"/var\""), "`state_dir` is not supported yet by this version"),
        (with_server("listen = \"unix:/run/b.sock\""), "a unix socket is not supported yet by this version"),
        (with_credential("grant = \"password\""), "this grant is not supported yet by this version"),
        (with_credential("provider = \"genesys\""), "this provider is not supported yet by this version"),
        (with_route("allow = [\"GET /**\"]"), "`allow` is not supported yet by this version"),
        (
            format!("[audit]\noutput = \"stdout\"\n{CREDENTIAL}{ROUTE}"),
            "`audit` is not supported yet by this version",
        ),
    ] {
        assert_eq!(refused(&text), [said]);
    }
}

#[test]
fn an_override_in_the_environment_wins_over_the_file() {
    let environment = Environment::from([
        ("SECRET", "hunter2"),
        ("BEARERD_SERVER__LISTEN", "127.0.0.1:1234"),
        ("BEARERD_SERVER__WORKERS", "3"),
        ("BEARERD_SERVER__LIMITS__REPLAY_BODY", "2MiB"),
        ("BEARERD_CREDENTIALS__CXONE__CLIENT_ID", "4711"),
        ("BEARERD_CREDENTIALS__CXONE__SCOPES", "[\"a\", \"b\"]"),
        ("BEARERD_PORT", "tcp://10.0.0.1:8080"),
        ("BEARERD_SERVICE_HOST", "10.0.0.1"),
    ]);
    let text = format!("[server]\nlisten = \"127.0.0.1:9\"\n{CREDENTIAL}{ROUTE}");

    let config = parse(Path::new("proxy.toml"), text, &environment).unwrap().config;

    assert_eq!(config.server.listen, ["127.0.0.1:1234".parse().unwrap()]);
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.server.limits.replay_body, 2 << 20);
    assert_eq!(config.credentials[0].client_id, "4711");
    assert_eq!(config.credentials[0].scopes, ["a", "b"]);
}

#[test]
fn an_override_that_is_wrong_is_named() {
    for (variable, value, said) in [
        ("BEARERD_SERVER__DRAIN", "soon", "not a duration"),
        ("BEARERD_SERVER__LISTNE", "127.0.0.1:1", "[server] has no `listne`"),
        ("BEARERD_SERVICE__X", "y", "names no section of the file"),
    ] {
        let environment = Environment::from([("SECRET", "hunter2"), (variable, value)]);
        let shown = parse(Path::new("proxy.toml"), format!("{CREDENTIAL}{ROUTE}"), &environment)
            .unwrap_err()
            .to_string();
        assert!(shown.contains(variable) && shown.contains(said), "{shown}");
    }
}

#[test]
fn required_scopes_are_a_list_or_all_that_are_asked_for() {
    let asked = "scopes = [\"openid\", \"offline_access\", \"api:read\"]\n";
    let required = |line: &str| {
        accepted(&with_credential(&format!("{asked}{line}"))).credentials[0].require_scopes.clone()
    };

    assert_eq!(required("require_scopes = true"), ["api:read"]);
    assert_eq!(required("require_scopes = [\"x\"]"), ["x"]);
    assert!(required("require_scopes = false").is_empty());
    assert!(required("").is_empty());
    refused(&with_credential("scopes = [\"two words\"]"));
}
