//! Accepted and refused configurations, and their problems.

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::config::model::identity::ClientAuth;
use crate::config::{BasicEncoding, Checked, Destination, HttpVersion, Listen, parse};

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

/// Reads with an additional environment variable.
fn read_with(text: &str, variable: &str, value: &str) -> Result<Checked, Box<Diagnostics>> {
    let environment = Environment::from([("SECRET", "hunter2"), (variable, value)]);
    parse(Path::new("proxy.toml"), text.to_owned(), &environment)
}

fn accepted(text: &str) -> Config {
    read(text).unwrap_or_else(|diagnostics| panic!("{diagnostics}")).config
}

/// A configuration with these lines in [server].
fn with_server(lines: &str) -> String {
    format!("[server]\n{lines}\n{CREDENTIAL}{ROUTE}")
}

fn with_credential(lines: &str) -> String {
    format!("{CREDENTIAL}\n{lines}\n{ROUTE}")
}

fn with_route(lines: &str) -> String {
    format!("{CREDENTIAL}{ROUTE}\n{lines}\n")
}

/// The titles of the problems.
fn refused(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => panic!("was accepted: {text}"),
        Err(diagnostics) => diagnostics.problems().iter().map(|problem| problem.title.clone()).collect(),
    }
}

#[test]
fn absent_keys_have_their_documented_default() {
    let config = accepted(&format!("{CREDENTIAL}{ROUTE}"));

    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]);
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.server.drain, Duration::from_secs(20));
    assert_eq!(config.server.limits.replay_body, 1 << 20);
    assert_eq!(config.server.limits.body_bytes, None);
    assert!(config.server.hosts.contain("localhost") && !config.server.hosts.contain("evil.test"));
    let credential = &config.credentials[0];
    assert!(matches!(
        credential.identity.client_auth,
        ClientAuth::Basic { encoding: BasicEncoding::Auto, .. }
    ));
    assert_eq!(credential.refresh_margin, Duration::from_mins(5));
    assert_eq!(credential.quota.requests.get(), 10);
    assert!(credential.required);
    let route = &config.routes[0];
    assert_eq!((route.path.as_str(), route.timeout), ("/", Duration::from_mins(1)));
}

#[test]
fn all_problems_are_found_in_one_run() {
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
        [callers.all]
        networks = [\"10.0.0.0/8\"]
        quota = { requests = 0, per = \"60s\" }
        [[routes]]
        upstream = \"ftp://api.example.com\"
        credential = \"b\"
        ",
    );

    for expected in [
        "not an address to listen on",
        "`server.drain` must be a duration such as \"30s\", not a number",
        "unknown key `replay_body` in [server]",
        "unknown key `replay_bdoy` in [server.limits]",
        "plain http:// would show the credential to the network",
        "the environment variable NOT_THERE is not set",
        "`client_id` is missing",
        "`requests` must be at least 1",
        "neither an https:// nor an http:// URL",
        "there is no credential `b`",
    ] {
        assert!(problems.iter().any(|problem| problem == expected), "{expected:?} not in {problems:#?}");
    }
    assert_eq!(problems.iter().filter(|problem| problem.contains("missing")).count(), 1, "{problems:#?}");
}

#[test]
fn a_problem_has_a_place_and_a_remedy() {
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
fn a_wrong_key_is_not_reported_as_missing() {
    let problems = refused(&with_credential("").replace("client_id = \"client\"", "client_id = 5"));

    assert_eq!(problems, ["`credentials.cxone.client_id` must be a string, not a number"]);
}

#[test]
fn no_message_about_a_secret_contains_its_value() {
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
fn insecure_settings_cause_warnings_at_their_place() {
    let unused = CREDENTIAL.replace("cxone", "other");
    for (text, said, place) in [
        (with_server("allow_from = [\"::/0\"]"), "callers from every network", "::/0"),
        (
            with_server("[admin]\ntoken = { env = \"SECRET\" }"),
            "SECRET is short for an admin token",
            "{ env = \"SECRET\" }",
        ),
        (format!("{CREDENTIAL}{unused}{ROUTE}"), "no route uses the credential `other`", "other"),
    ] {
        let Checked { warnings, .. } = read(&text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        let [warning] = warnings.problems() else { panic!("{warnings}") };
        assert!(warning.title.contains(said), "{warnings}");
        assert!(text[warning.place.clone().unwrap()].contains(place), "{warnings}");
        assert!(warning.help.is_some());
    }
    let private = read(&with_server("allow_from = [\"private\"]")).unwrap();
    assert_eq!(private.warnings.warnings(), 0);
}

#[test]
fn a_secret_of_several_lines_causes_a_warning_that_does_not_show_it() {
    for (value, warnings) in
        [("hunter2\n", 0), ("hunter2\r\n", 0), ("hunter2\nhunter3\n", 1), ("\nhunter2", 1)]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), value).unwrap();
        let place = format!("{{ file = \"{}\" }}", file.path().display());

        let checked = read(&with_credential("").replace("{ env = \"SECRET\" }", &place)).unwrap();

        let shown = checked.warnings.to_string();
        assert_eq!(checked.warnings.warnings(), warnings, "{value:?}: {shown}");
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(shown.contains("more than one line"), warnings == 1, "{shown}");
    }
}

#[test]
fn a_missing_or_empty_secret_is_reported_with_a_remedy() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let file = format!("{{ file = \"{}\" }}", empty.path().display());
    for (text, help) in [
        (with_credential("").replace("client_secret = { env = \"SECRET\" }", ""), "client_auth = \"none\""),
        (with_credential("").replace("{ env = \"SECRET\" }", &file), "write the secret into that file"),
    ] {
        let diagnostics = read(&text).unwrap_err();
        assert_eq!(diagnostics.errors(), 1, "{diagnostics}");
        assert!(diagnostics.to_string().contains(help), "{diagnostics}");
    }
}

#[test]
fn a_field_that_every_caller_sends_cannot_be_required() {
    for field in ["Host", "X-Forwarded-For: x", "Connection: close", "Via", "not a name"] {
        assert_eq!(refused(&with_server(&format!("required_header = \"{field}\""))).len(), 1, "{field}");
    }
    for field in ["X-Bearerd: yes", "Authorization: Basic eDp5"] {
        accepted(&with_server(&format!("required_header = \"{field}\"")));
    }
}

#[test]
fn an_origin_is_one_of_a_web_page() {
    let origins = "origins = [\"https://Desk.example.com:443\", \"http://[::1]:3000\"]";
    assert_eq!(
        accepted(&with_server(origins)).server.origins,
        ["https://desk.example.com", "http://[::1]:3000"]
    );
    for wrong in [
        "null",
        "desk.example.com",
        "https://a/b",
        "file://a/",
        "chrome-extension://a/",
        "tauri://localhost/",
        "tauri://localhost",
        "capacitor://localhost",
        "moz-extension://4b6c2d9e-7f11-4c3a-9a55-0d8c3f0e5b21/",
        "ws://a",
    ] {
        let problems = refused(&with_server(&format!("origins = [\"{wrong}\"]")));
        assert_eq!(problems, ["not an origin"], "{wrong}");
    }
}

#[test]
fn beyond_loopback_networks_and_hosts_must_be_set() {
    let problems = refused(&with_server("listen = \"0.0.0.0:8080\""));
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains("server.allow_from") && problems[1].contains("server.hosts"));

    let config = accepted(&with_server(
        "listen = [\"0.0.0.0:8080\", \"[::]:8081\"]\nallow_from = [\"private\", \"203.0.113.7\"]\nhosts = [\"gw\"]",
    ));
    assert!(config.server.allow_from.contains(&"203.0.113.7/32".parse().unwrap()));
    assert!(config.server.allow_from.contains(&"10.0.0.0/8".parse().unwrap()));
    assert!(!config.server.hosts.contain("localhost"));
}

#[test]
fn an_address_to_listen_on_may_leave_out_its_host_or_be_localhost() {
    for (written, address) in [
        (":80", "0.0.0.0:80"),
        ("*:80", "0.0.0.0:80"),
        ("localhost:80", "127.0.0.1:80"),
        ("[::]:80", "[::]:80"),
    ] {
        let config = accepted(&with_server(&format!(
            "listen = \"{written}\"\nallow_from = [\"private\"]\nhosts = [\"gw\"]"
        )));
        assert_eq!(config.server.listen, [Listen::Tcp(address.parse().unwrap())], "{written}");
    }
    for wrong in ["gateway:80", ":", ":http", "localhost", "::80"] {
        let problems = refused(&with_server(&format!("listen = \"{wrong}\"")));
        assert_eq!(problems, ["not an address to listen on"], "{wrong}");
    }
}

#[test]
fn plain_http_is_for_loopback_only() {
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
fn an_upstream_may_have_a_path_and_a_port_only() {
    let config =
        accepted(&with_route("").replace("https://api.example.com", "https://API.example.com:8443/base/"));
    let Destination::Written(address) = &config.routes[0].upstream.destination else { panic!() };
    assert_eq!((address.authority.as_str(), address.path.as_str()), ("api.example.com:8443", "/base"));

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
fn a_route_has_a_configured_name_or_that_of_its_host_and_path() {
    let named = |lines: &str| accepted(&with_route(lines)).routes.remove(0).name;
    assert_eq!(named(""), "/");
    assert_eq!(named("name = \"\"\nhost = \"A.test\"\npath = \"/api/\""), "a.test/api");
    for name in ["billing", "Genesys (EU): search & export", "Ärzte", &"x".repeat(100)] {
        assert_eq!(named(&format!("name = \"{name}\"")), name);
    }
    for wrong in [" ", "a ", " a", "a\\tb", "a\\nb", "a\\u001bb", "a\\u202eb", "a\u{a0}b", &"x".repeat(101)] {
        let problems = refused(&with_route(&format!("name = \"{wrong}\"")));
        assert_eq!(problems, ["not a name of a route"], "{wrong}");
    }
}

#[test]
fn two_routes_with_one_name_are_refused_with_the_lines_of_both() {
    let two = |first: &str, second: &str| {
        let other = "upstream = \"https://b.example.com\"\ncredential = \"none\"";
        with_route(&format!("path = \"/a\"\n{first}\n[[routes]]\npath = \"/b\"\n{second}\n{other}"))
    };
    for (first, second) in [
        ("name = \"x\"", "name = \"x\""),
        // The name of a route without the key.
        ("name = \"/b\"", ""),
        ("", "name = \"/a\""),
        ("name = \"\"", "name = \"/a\""),
    ] {
        let text = two(first, second);
        let problems = read(&text).unwrap_err();
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert_eq!(problem.title, "the same name as route 1");
        let lines = [&problem.place, &problem.other].map(|place| {
            let start = place.as_ref().unwrap().start;
            let line = text[..start].matches('\n').count();
            (line + 1, text.lines().nth(line).unwrap())
        });
        let shown = problems.to_string();
        for (number, line) in lines {
            assert!(shown.contains(&format!("{number} | {line}")), "{line} of {shown}");
        }
        assert_ne!(lines[0].0, lines[1].0);
    }
    accepted(&two("name = \"x\"", "name = \"y\""));
    // The names are those of the host and path, and follow from the first problem.
    assert_eq!(refused(&two("", "").replace("/b\"", "/a\"")), ["the same host and path as route 1"]);
    assert_eq!(refused(&two("name = \"x\"", "name = 3\ntimeout = 1")).len(), 2);
}

#[test]
fn a_route_that_allows_websockets_speaks_http_1() {
    let spoken = |lines: &str| {
        let route = accepted(&with_route(lines)).routes.remove(0);
        (route.allows_websocket, route.upstream.http_version)
    };
    assert_eq!(spoken(""), (false, HttpVersion::Auto));
    assert_eq!(spoken("upgrade = []\nhttp_version = \"2\""), (false, HttpVersion::Http2));
    assert_eq!(spoken("upgrade = [\"websocket\"]"), (true, HttpVersion::Http1));
    assert_eq!(spoken("upgrade = [\"websocket\"]\nhttp_version = \"1.1\""), (true, HttpVersion::Http1));

    let both = with_route("upgrade = [\"websocket\"]\nhttp_version = \"2\"");
    assert_eq!(refused(&both), ["a WebSocket begins in HTTP/1.1"]);
    refused(&with_route("upgrade = [\"h2c\"]"));
}

#[test]
fn a_path_prefix_is_written_plainly() {
    for wrong in ["", "api", "/api/*", "/a//b", "/a/../b", "/a%2fb", "/a?b", "/a b", "//"] {
        refused(&with_route(&format!("path = \"{wrong}\"")));
    }
    for (written, matched) in
        [("/", "/"), ("/api/", "/api"), ("/inContactAPI/services", "/inContactAPI/services")]
    {
        assert_eq!(accepted(&with_route(&format!("path = \"{written}\""))).routes[0].path, matched);
    }
}

#[test]
fn the_tls_identities_of_a_route_need_tls_and_are_names_and_pairs() {
    for (lines, expected) in [
        ("server_name = \"a b\"", "not a name in a certificate"),
        ("server_name = \"api.example.com:443\"", "not a name in a certificate"),
        ("client_key = \"key.pem\"", "a client certificate needs its key"),
        ("client_certificate = \"no.pem\"\nclient_key = \"no.pem\"", "cannot read"),
    ] {
        let titles = refused(&with_route(lines)).join("; ");
        assert!(titles.contains(expected), "{lines}: {titles}");
    }
    let text = with_route("server_name = \"a\"").replace("https://api.example.com", "http://127.0.0.1:1");
    assert_eq!(refused(&text), ["an http:// upstream has no TLS"]);
}

#[test]
fn a_ca_file_must_exist_and_hold_certificates() {
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
fn an_override_of_a_pool_is_refused() {
    let diagnostics = read_with(&format!("{CREDENTIAL}{ROUTE}"), "BEARERD_POOLS__A", "hunter2").unwrap_err();
    let [problem] = diagnostics.problems() else { panic!("{diagnostics}") };
    assert_eq!(problem.title, "BEARERD_POOLS__A names no section of the file");
    assert!(diagnostics.to_string().contains("write pools in the file"), "{diagnostics}");
}

#[test]
fn a_variable_that_lacks_an_underscore_causes_a_warning() {
    let text = format!("{CREDENTIAL}{ROUTE}");
    for (variable, said) in [
        ("BEARERD_SERVER_LISTEN", Some("BEARERD_SERVER__LISTEN")),
        ("BEARERD_SERVER_LIMITS_REPLAY_BODY", Some("BEARERD_SERVER__LIMITS__REPLAY_BODY")),
        ("BEARERD_LOG_LEVEL", Some("BEARERD_LOG__LEVEL")),
        ("BEARERD_CREDENTIALS_CXONE_CLIENT_ID", Some("BEARERD_CREDENTIALS__CXONE__CLIENT_ID")),
        ("BEARERD_CREDENTIALS_OTHER_CLIENT_ID", None),
        ("BEARERD_PORT", None),
        ("BEARERD_SERVICE_HOST", None),
        ("BEARERD_CONFIG", None),
    ] {
        let checked = read_with(&text, variable, "x").unwrap();
        let said: Vec<_> = said
            .iter()
            .map(|meant| format!("write two underscores between the parts of the name: {meant}"))
            .collect();
        let helped: Vec<_> =
            checked.warnings.problems().iter().map(|problem| problem.help.clone().unwrap()).collect();
        assert_eq!(helped, said, "{variable}");
    }
}

#[test]
fn a_quoted_source_of_a_secret_is_refused() {
    for secret in ["{ env = SECRET }", "${SECRET}"] {
        let credential = CREDENTIAL.replace("{ env = \"SECRET\" }", &format!("\"{secret}\""));
        assert_ne!(credential, CREDENTIAL);
        let said = refused(&format!("{credential}{ROUTE}"));
        assert_eq!(said, ["looks like the source of a secret, but would be the secret itself"], "{secret}");
    }
}

#[test]
fn a_login_stub_is_a_whole_path() {
    for wrong in ["", "/", "oauth/token", "/oauth/*", "/a//b", "/a?b", "/../a", "/%61", "https://a.test/b"] {
        let text = with_credential(&format!("login_stub = [\"/fine\", \"{wrong}\"]"));
        assert_eq!(refused(&text), ["not the path of a token endpoint"], "{wrong}");
    }
}

#[test]
fn both_errors_of_a_quota_are_reported() {
    let said = refused(&format!("{CREDENTIAL}quota = {{ requests = 0, per = \"0s\" }}\n{ROUTE}"));
    assert_eq!(said, ["`requests` must be at least 1", "`per` is too short for so many requests"]);
}

#[test]
fn a_misspelt_override_is_reported_with_a_suggestion() {
    let diagnostics = read_with(&format!("{CREDENTIAL}{ROUTE}"), "BEARERD_SERVER__LISTN", "x").unwrap_err();
    assert!(diagnostics.to_string().contains("did you mean `listen`?"), "{diagnostics}");
}

#[test]
fn the_admin_address_differs_from_that_of_callers() {
    let same = "[server]\nlisten = \"127.0.0.1:8080\"\n[admin]\nlisten = \"127.0.0.1:8080\"\n";
    assert_eq!(
        refused(&format!("{same}{CREDENTIAL}{ROUTE}")),
        ["`admin.listen` and `server.listen` are the same address"]
    );

    let checked = read(&format!("[admin]\nlisten = \"0.0.0.0:9090\"\n{CREDENTIAL}{ROUTE}")).unwrap();
    assert!(checked.warnings.to_string().contains("is not on loopback"), "{}", checked.warnings);
    let token = "[admin]\nlisten = \"0.0.0.0:9090\"\ntoken = { env = \"SECRET\" }\n";
    let refused = read_with(&format!("{token}{CREDENTIAL}{ROUTE}"), "SECRET", "an-admin-token").unwrap_err();
    assert!(refused.to_string().contains("would cross the network in the clear"), "{refused}");
}

#[test]
fn commands_find_admin_address_and_token_in_a_file_with_other_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(folder.path().join("token"), "an-admin-token\n").unwrap();
    let access = |text: &str, environment: &Environment| {
        std::fs::write(&path, text).unwrap();
        crate::config::admin_access(Some(path.clone()), environment)
    };
    let nothing = Environment::from([]);

    let text = "[admin]\nlisten = \"[::1]:7\"\ntoken = { file = \"token\" }\n[routes]\nwrong = 5\n";
    let found = access(text, &nothing).unwrap();
    assert_eq!(found.listen.to_string(), "[::1]:7");
    assert_eq!(found.token.unwrap().unwrap().initial().expose_secret(), "an-admin-token");

    let overridden = Environment::from([("BEARERD_ADMIN__LISTEN", "127.0.0.1:8")]);
    assert_eq!(access(text, &overridden).unwrap().listen.to_string(), "127.0.0.1:8");
    assert!(access("[admin]\ntoken = { env = \"NOT_SET\" }", &nothing).unwrap().token.unwrap().is_err());
    let found = access("", &nothing).unwrap();
    assert!(found.listen.to_string() == "127.0.0.1:9090" && found.token.is_none());

    let text =
        "[server]\nstate_dir = \"s\"\n[admin]\nlisten = \"unix:a.sock\"\ntls = { certificate = \"none\" }\n";
    let found = access(text, &nothing).unwrap();
    assert_eq!(found.listen, crate::config::Listen::Unix(folder.path().join("a.sock")));
    assert_eq!(found.token_file, Some(folder.path().join("s/admin.token")));
    assert!(found.speaks_tls && found.certificate.is_none());
    assert_eq!(
        access("[admin]\nlisten = \"localhost:7\"", &nothing).unwrap().listen.to_string(),
        "127.0.0.1:7"
    );
}

/// Another daemon may listen at the default address.
#[test]
fn commands_do_not_replace_a_wrong_file_by_the_default_admin_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let access = |environment: &Environment, flag: Option<PathBuf>| {
        let outcome = crate::config::admin_access(flag, environment);
        outcome.map(|access| access.listen).map_err(|problems| problems.to_string())
    };
    let nothing = Environment::from([]);
    let named = Environment::from([("BEARERD_CONFIG", path.to_str().unwrap())]);
    for (text, said) in [
        ("not TOML", "not TOML"),
        ("[admin]\nlisten = \"127.0.0.1:9\"\n[server\n", "not TOML"),
        ("admin = 5", "must be a table"),
        ("[admin]\nlisten = 5", "admin.listen"),
        ("[admin]\nlisten = \"nowhere\"", "`admin.listen` is not an address"),
        ("[admin]\ntoken = 5", "admin.token"),
    ] {
        std::fs::write(&path, text).unwrap();
        for (environment, flag) in [(&nothing, Some(path.clone())), (&named, None)] {
            let problems = access(environment, flag).expect_err(text);
            assert!(problems.contains(said), "{text}: {problems}");
        }
    }
    std::fs::remove_file(&path).unwrap();
    for (environment, flag) in [(&nothing, Some(path.clone())), (&named, None)] {
        assert!(access(environment, flag).unwrap_err().contains("cannot read"));
    }
}

#[test]
fn an_admin_token_fits_into_a_field_and_is_not_shown() {
    let with = |source: &str| format!("[admin]\ntoken = {source}\n{CREDENTIAL}{ROUTE}");
    for wrong in ["two words", "töken", "line\nbreak"] {
        let problems = read_with(&with("{ env = \"ADMIN_TOKEN\" }"), "ADMIN_TOKEN", wrong).unwrap_err();
        assert!(problems.to_string().contains("an Authorization field cannot carry"), "{problems}");
        assert!(!problems.to_string().contains(wrong), "{problems}");
    }
    assert_eq!(refused(&with("{ env = \"NOT_SET\" }")), ["the environment variable NOT_SET is not set"]);
    let plain = read(&with("'hunter2'")).unwrap();
    assert!(plain.warnings.to_string().contains("stands in the configuration itself"), "{}", plain.warnings);
    assert!(!format!("{plain:?}{}", plain.warnings).contains("hunter2"));
}

#[test]
fn wrong_log_directives_cause_a_warning() {
    let checked = read_with(&format!("{CREDENTIAL}{ROUTE}"), "RUST_LOG", "bearerd=loud").unwrap();
    assert!(checked.warnings.to_string().contains("RUST_LOG holds no log levels"), "{}", checked.warnings);
}

#[test]
fn a_section_that_is_not_a_table_hides_no_other_problem() {
    let wrong = "token_url = \"http://as.example.com/token\"";
    for (text, said) in [
        (
            format!("credentials.bad = 5\n[credentials.a]\n{wrong}\n{}", ROUTE.replace("cxone", "bad")),
            &["`credentials.bad` must be a table", "plain http:// would show the credential to the network"]
                [..],
        ),
        (
            "routes = [5, { upstream = \"api\", credential = \"none\" }, { credential = 5 }]\n".to_owned(),
            &[
                "`routes[0]` must be a table",
                "not a URL",
                "`routes[2].credential` must be a string, not a number",
            ],
        ),
        (
            format!("routes = 5\nserver = 5\nlog = \"info\"\nadmin = []\n{CREDENTIAL}"),
            &[
                "`routes` must be a list of tables",
                "`server` must be a table",
                "`log` must be a table",
                "`admin` must be a table",
            ],
        ),
        (
            "credentials = 5\n[routes]\nupstream = \"api\"\ncredential = \"a\"\n".to_owned(),
            &["`credentials` must be a table", "`routes` must be a list of tables", "not a URL"],
        ),
        (
            with_server("limits = 5\nallow_from = [5, \"x\"]\nhosts = [\"a b\", true]"),
            &[
                "`server.limits` must be a table",
                "`server.allow_from[0]` must be a string, not a number",
                "not a network",
                "`server.hosts[1]` must be a string, not true or false",
            ],
        ),
    ] {
        let problems = refused(&text);
        for expected in said {
            assert!(problems.iter().any(|problem| problem == expected), "{expected:?} not in {problems:#?}");
        }
        let invented = |problem: &&String| {
            problem.contains("there are no") || problem.contains("there is no credential")
        };
        assert_eq!(problems.iter().find(invented), None, "{problems:#?}");
    }
}

#[test]
fn a_mistake_is_reported_once_without_consequential_errors() {
    for (text, said) in [
        (
            with_credential("").replace("client_id", "client-id"),
            "unknown key `client-id` in [credentials.cxone]",
        ),
        (
            with_route("").replace("credential = ", "credentials = "),
            "unknown key `credentials` in [[routes]]",
        ),
        (
            with_credential("").replace("[credentials.", "[credential."),
            "unknown key `credential` in the top level",
        ),
        (with_credential("").replace("[[routes]]", "[[route]]"), "unknown key `route` in the top level"),
        (with_credential("").replace("[[routes]]", "[routes]"), "`routes` must be a list of tables"),
        (with_credential("").replace("[credentials.cxone]", "[credentials]"), "a credential needs a name"),
        (with_route("").replace("credential = \"cxone\"", ""), "`credential` is missing"),
        (with_credential("").replace("\"client\"", "\"\""), "`client_id` is empty"),
        (with_server("[server.limits]\nheader_bytes = \"10\""), "must be between 1KiB and 1MiB"),
        (with_server("[log]\nlevel = \"verbose\""), "not a log level"),
        (
            with_credential("").replace("\"client\"", "client"),
            "not TOML: string values must be quoted, expected literal string",
        ),
    ] {
        assert_eq!(refused(&text), [said]);
    }
}

#[test]
fn no_title_or_remedy_contains_a_value_that_may_hold_a_secret() {
    let url = "https://user:hunter2@api.example.com";
    for text in [
        with_route("").replace("https://api.example.com", url),
        with_route("").replace("https://api.example.com", "user:hunter2@api.example.com"),
        with_route("").replace("https://api.example.com", "hunter2://api.example.com"),
        with_route("").replace("\"https://api.example.com\"", &format!("[\"{url}\"]")),
        with_credential("").replace("https://as.example.com/token", url),
        with_credential(&format!("required = \"{url}\"")),
        with_credential(&format!("timeout = \"{url}\"")),
        with_credential("grant = \"hunter2\""),
        with_credential("quota = \"hunter2\""),
        with_credential("").replace("{ env = \"SECRET\" }", "{ value = \"hunter2\" }"),
        with_credential("").replace("{ env = \"SECRET\" }", "[\"hunter2\"]"),
    ] {
        for problem in read(&text).unwrap_err().problems() {
            let said = format!("{} {:?}", problem.title, problem.help);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}

proptest! {
    #[test]
    fn any_number_and_unit_is_read_without_panic(
        text in "-?[0-9]{0,22}(\\.[0-9]{0,22})?(e[0-9]{1,4})? ?(ns|us|ms|s|m|h|d|w|y|B|KB|KiB|MiB|PB|EiB|)( [0-9]{1,20}h)?",
        requests in any::<u64>(),
    ) {
        for lines in [
            with_server(&format!("drain = \"{text}\"\nworkers = {requests}\n[server.limits]\nidle_timeout = \"{text}\"")),
            with_server(&format!("[server.limits]\nbody_bytes = \"{text}\"\nreplay_total = \"{text}\"\nstreams = {requests}")),
            with_credential(&format!("timeout = \"{text}\"\nquota = {{ requests = {requests}, per = \"{text}\" }}")),
            with_route(&format!("timeout = \"{text}\"\nconnect_timeout = {requests}.{requests}")),
        ] {
            if let Ok(checked) = read(&lines) {
                let year = Duration::from_hours(365 * 24);
                prop_assert!(checked.config.server.drain <= year);
                prop_assert!(checked.config.credentials[0].quota.per <= year);
                prop_assert!(checked.config.routes[0].timeout <= year);
            }
        }
    }
}

#[test]
fn too_long_and_too_large_values_are_reported_at_their_place() {
    for (text, place, said) in [
        (with_route("timeout = \"9223372036854775807s\""), "timeout", "longer than a year"),
        (with_credential("quota = { requests = 1, per = \"6000000h\" }"), "quota", "longer than a year"),
        (with_server("[server.limits]\nbody_bytes = \"9EiB\""), "body_bytes", "too large"),
    ] {
        let shown = read(&text).unwrap_err().to_string();
        let line = text.lines().position(|line| line.starts_with(place)).unwrap() + 1;
        assert!(shown.contains(&format!("proxy.toml:{line}:")) && shown.contains(said), "{shown}");
    }
}

#[test]
fn an_override_takes_precedence_over_the_file() {
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

    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:1234".parse().unwrap())]);
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.server.limits.replay_body, 2 << 20);
    assert_eq!(config.credentials[0].identity.client_id, "4711");
    assert_eq!(config.credentials[0].scopes, ["a", "b"]);
}

#[test]
fn a_wrong_override_is_reported_with_its_name() {
    for (variable, value, said) in [
        ("BEARERD_SERVER__DRAIN", "soon", "not a duration"),
        ("BEARERD_SERVER__LISTNE", "127.0.0.1:1", "[server] has no `listne`"),
        ("BEARERD_SERVICE__X", "y", "names no section of the file"),
        ("BEARERD_ROUTES__0__PATH", "/", "variables cannot override them"),
        (
            "BEARERD_CREDENTIALS__CXONE__CLIENT_SECRET__ENV",
            "NAME",
            "set BEARERD_CREDENTIALS__CXONE__CLIENT_SECRET to the whole value",
        ),
    ] {
        let shown = read_with(&format!("{CREDENTIAL}{ROUTE}"), variable, value).unwrap_err().to_string();
        assert!(shown.contains(variable) && shown.contains(said), "{shown}");
    }
}

#[test]
fn required_scopes_are_a_list_or_all_requested_ones() {
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

#[test]
fn a_second_client_secret_needs_authentication_by_secret() {
    let next = "client_secret_next = { env = \"SECRET\" }";
    for auth in ["client_secret_basic", "client_secret_post", "client_secret_jwt"] {
        let lines = format!("client_auth = \"{auth}\"\n{next}");
        let config = read(&with_credential(&lines)).unwrap_or_else(|problems| panic!("{problems}")).config;
        assert!(config.credentials[0].identity.client_secret_next.is_some(), "{auth}");
    }
    let text = with_credential(&format!("client_auth = \"none\"\n{next}"));
    let text = text.replace("client_secret = {", "#");
    let problems = read(&text).unwrap_err().to_string();
    assert!(
        problems.contains("`client_secret_next` is not used by this client authentication"),
        "{problems}"
    );
    assert!(problems.contains("client_secret_basic"), "{problems}");
}

#[test]
fn a_network_is_written_as_it_is_compared() {
    for (written, compared, title) in [
        ("10.0.0.1/8", "10.0.0.0/8", "an address within a network, not a network"),
        ("2001:db8::7/64", "2001:db8::/64", "an address within a network, not a network"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", "an IPv4 network written as IPv6"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8", "an IPv4 network written as IPv6"),
        ("::ffff:10.0.0.7", "10.0.0.7/32", "an IPv4 network written as IPv6"),
    ] {
        for key in ["allow_from", "trusted_proxies"] {
            let text = with_server(&format!("{key} = [\"private\", \"{written}\"]"));
            let Checked { config, warnings, .. } =
                read(&text).unwrap_or_else(|problems| panic!("{problems}"));
            let [warning] = warnings.problems() else { panic!("{warnings}") };
            assert_eq!(warning.title, title, "{warnings}");
            assert!(warning.help.as_ref().unwrap().contains(&format!("\"{compared}\"")), "{warnings}");
            assert_eq!(text[warning.place.clone().unwrap()].trim_matches('"'), written);
            let networks =
                if key == "allow_from" { config.server.allow_from } else { config.server.trusted_proxies };
            assert_eq!(networks.last().unwrap().to_string(), compared);
        }
    }
    for right in ["10.0.0.0/8", "10.0.0.1", "10.0.0.1/32", "::1", "fc00::/7"] {
        let checked = read(&with_server(&format!("allow_from = [\"{right}\"]"))).unwrap();
        assert_eq!(checked.warnings.warnings(), 0, "{}", checked.warnings);
    }
    let everywhere = read(&with_server("allow_from = [\"::ffff:0:0/96\"]")).unwrap().warnings.to_string();
    assert!(everywhere.contains("callers from every network"), "{everywhere}");
}

#[test]
fn equal_hosts_in_two_spellings_are_equal() {
    let again = "[[routes]]\nhost = \"[::1]\"\nupstream = \"https://b.example.com\"\ncredential = \"none\"";
    for spelling in ["[0:0:0:0:0:0:0:1]", "[0::1]", "[::0001]"] {
        let problems = refused(&with_route(&format!("host = \"{spelling}\"\n{again}")));
        assert_eq!(problems, ["the same host and path as route 1"], "{spelling}");
    }
    let problems = refused(&with_route(&format!("host = \"A.test\"\n{}", again.replace("[::1]", "a.TEST"))));
    assert_eq!(problems, ["the same host and path as route 1"]);

    let config = accepted(&with_route("host = \"[2001:DB8:0::7]\""));
    assert_eq!(config.routes[0].host.as_deref(), Some("[2001:db8::7]"));
    assert!(config.server.hosts.contain("[2001:db8::7]"));
}

#[test]
fn a_login_stub_is_stored_as_it_is_checked() {
    let config = accepted(&with_credential("login_stub = [\"/oauth/token/\", \"/x\"]"));
    assert_eq!(config.credentials[0].login_stub, ["/oauth/token", "/x"]);
}

#[test]
fn a_value_that_no_request_can_carry_cannot_be_required() {
    for value in ["a\\u0000b", "a\\nb", "a\\rb", "\\u007f", "a\\u001bb"] {
        let problems = refused(&with_server(&format!("required_header = \"X-Bearerd: {value}\"")));
        assert_eq!(problems, ["no request can carry this field value"], "{value}");
    }
    for value in ["a b", "a\\tb", "ü", ""] {
        accepted(&with_server(&format!("required_header = \"X-Bearerd: {value}\"")));
    }
}

#[test]
fn the_number_of_workers_is_bounded() {
    assert_eq!(accepted(&with_server("workers = 1024")).server.workers, 1024);
    for many in [1025, 65_535] {
        let problems = refused(&with_server(&format!("workers = {many}")));
        assert_eq!(problems, ["more worker threads than 1024"]);
    }
}

#[test]
fn an_override_that_fits_two_credentials_is_refused() {
    let two = format!("{}{}", CREDENTIAL.replace("cxone", "a-b"), CREDENTIAL.replace("cxone", "A_b"));
    let routes = "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a-b\"\n\
                  [[routes]]\npath = \"/x\"\nupstream = \"https://api.example.com\"\ncredential = \"A_b\"";

    let problems =
        read_with(&format!("{two}{routes}"), "BEARERD_CREDENTIALS__A_B__CLIENT_ID", "x").unwrap_err();

    let [problem] = problems.problems() else { panic!("{problems}") };
    assert_eq!(problem.title, "BEARERD_CREDENTIALS__A_B__CLIENT_ID fits two credentials: `A_b` and `a-b`");
    assert!(problem.help.is_some());
    accepted(&format!("{two}{routes}"));
    let one = format!("{}{}", CREDENTIAL.replace("cxone", "a-b"), ROUTE.replace("cxone", "a-b"));
    let config = read_with(&one, "BEARERD_CREDENTIALS__A_B__CLIENT_ID", "x").unwrap().config;
    assert_eq!(config.credentials[0].identity.client_id, "x");
}

#[test]
fn a_colon_in_a_client_id_needs_another_encoding_than_raw() {
    let warnings = |lines: &str, secret: &str| {
        let text = with_credential(lines).replace("\"client\"", "\"urn:x:client\"");
        let text = if secret.is_empty() { text } else { text.replace("client_secret = {", secret) };
        read(&text).unwrap_or_else(|problems| panic!("{problems}")).warnings
    };
    for lines in
        ["basic_encoding = \"raw\"", "basic_encoding = \"raw\"\nclient_auth = \"client_secret_basic\""]
    {
        let warnings = warnings(lines, "");
        let [warning] = warnings.problems() else { panic!("{warnings}") };
        assert_eq!(warning.title, "HTTP Basic cannot carry a client id with a colon unencoded");
        assert!(warning.help.as_ref().unwrap().contains("remove `basic_encoding`"), "{warnings}");
    }
    // "auto" finds the encoding that the server accepts.
    for lines in
        ["", "basic_encoding = \"auto\"", "basic_encoding = \"form\"", "client_auth = \"client_secret_post\""]
    {
        assert_eq!(warnings(lines, "").warnings(), 0, "{lines}");
    }
    assert_eq!(
        warnings("client_auth = \"none\"\ngrant = \"password\"\nusername = \"u\"", "password = {").warnings(),
        0
    );
}

#[test]
fn a_key_by_the_name_of_another_product_is_not_reported_as_missing_too() {
    for (text, from, to, meant) in [
        (with_credential(""), "token_url", "token_endpoint", "token_url"),
        (with_credential(""), "client_id", "clientId", "client_id"),
        (with_credential(""), "client_secret", "secret", "client_secret"),
        (with_route(""), "upstream", "proxy_pass", "upstream"),
        (
            with_server("[server.tls]\ncertificate = \"a\"\nprivate_key = \"b\""),
            "certificate",
            "cert",
            "certificate",
        ),
    ] {
        let diagnostics = read(&text.replace(from, to)).unwrap_err();
        let [problem] = diagnostics.problems() else { panic!("{diagnostics}") };
        assert!(problem.title.starts_with(&format!("unknown key `{to}` in ")), "{diagnostics}");
        assert_eq!(problem.help.as_deref(), Some(format!("did you mean `{meant}`?").as_str()));
    }
    for (text, help) in [
        (with_server("port = 8080"), "did you mean `listen`?"),
        (with_server("log_level = \"info\""), "did you mean `level` in [log]?"),
        (with_server("cert = \"a.pem\""), "did you mean `certificate` in [server.tls]?"),
        (with_credential("scope = \"a\""), "did you mean `scopes`?"),
        (with_credential("ttl = \"1h\""), "did you mean `default_lifetime`?"),
        (with_credential("quota = { limit = 1, per = \"1s\" }"), "did you mean `requests`?"),
        (with_route("headers = { add = { a = \"b\" } }"), "did you mean `set`?"),
    ] {
        let shown = read(&text).unwrap_err().to_string();
        assert!(shown.contains(help), "{shown}");
    }
}

#[test]
fn a_file_in_another_format_is_reported_as_a_whole_and_not_shown() {
    for (text, format) in [
        ("server:\n  listen: 127.0.0.1:8080\ncredentials:\n  a:\n    secret: hunter2\n", "YAML"),
        ("{\"credentials\": {\"a\": {\"client_secret\": \"hunter2\"}}}", "JSON"),
        ("[credentials.a]\nclient_secret = hunter2\n", "INI, whose values have no quotes"),
        ("CLIENT_SECRET=hunter2\n", "a list of environment variables"),
    ] {
        let diagnostics = read(text).unwrap_err();
        let [problem] = diagnostics.problems() else { panic!("{diagnostics}") };
        assert_eq!(problem.title, format!("proxy.toml is {format}, not TOML"));
        assert!(problem.help.is_some() && !diagnostics.to_string().contains("hunter2"), "{diagnostics}");
    }
}

/// A credential with these lines, and a route without one.
fn credential_only(lines: &str) -> String {
    format!(
        "[credentials.a]\n{lines}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a\"\n"
    )
}

/// Asserts that the problems, warnings too, are as many as the parts of `said`, and that each part is in the title of one.
fn assert_said(text: &str, said: &str) {
    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let environment = Environment::from([("SECRET", "hunter2"), ("STATE_KEY", KEY)]);
    let problems = parse(Path::new("proxy.toml"), text.to_owned(), &environment)
        .map_or_else(|problems| *problems, |checked| checked.warnings);
    let mut expected: Vec<_> = said.split('|').collect();
    for problem in problems.problems() {
        let at = expected.iter().position(|part| problem.title.contains(part));
        let at = at.unwrap_or_else(|| panic!("{}, not {expected:?}:\n{text}\n{problems}", problem.title));
        expected.remove(at);
    }
    assert!(expected.is_empty(), "not said: {expected:?}:\n{text}\n{problems}");
}

const ID: &str = "client_id = \"i\"\n";
const URL: &str = "token_url = \"https://as.example.com/t\"\n";
const CLIENT_SECRET: &str = "client_secret = { env = \"SECRET\" }\n";
const STATE_KEY: &str = "state_key = { env = \"STATE_KEY\" }";

/// The keys of each of these files provoke a second problem, if one takes a refused value for an absent key, for its
/// default, or for a value.
#[test]
fn nothing_is_concluded_from_a_refused_listener() {
    let own = |listen: &str, upstream: &str| {
        format!("{listen}\n{CREDENTIAL}{}", ROUTE.replace("https://api.example.com", upstream))
    };
    for (text, said) in [
        (
            "[server]\nlisten = 5\n[admin]\nlisten = \"127.0.0.1:8080\"\n".to_owned() + CREDENTIAL + ROUTE,
            "server.listen",
        ),
        (
            "[server]\nlisten = \"127.0.0.1:9090\"\n[admin]\nlisten = 5\n".to_owned() + CREDENTIAL + ROUTE,
            "admin.listen",
        ),
        (
            "admin = 5\n[server]\nlisten = \"127.0.0.1:9090\"\n".to_owned() + CREDENTIAL + ROUTE,
            "`admin` must",
        ),
        (own("[server]\nlisten = 5", "http://127.0.0.1:8080"), "server.listen"),
        (own("server = 5", "http://127.0.0.1:8080"), "`server` must"),
        (own("[admin]\nlisten = \"x\"", "http://127.0.0.1:9090"), "not an address"),
        (own("[admin]\nlisten = \"0.0.0.0:9\"\ntoken = 5", "https://a.test"), "admin.token"),
        (with_route("callers = [\"CN=a\"]\n[server]\ntls = 5"), "server.tls"),
        ("server = 5\n".to_owned() + &with_route("callers = [\"CN=a\"]"), "`server` must"),
        (
            format!(
                "[server]\nlisten = \"0.0.0.0:1\"\nallow_from = [\"private\"]\ntls = 5\n{}",
                with_route("host = 5")
            ),
            "server.tls|routes[0].host",
        ),
    ] {
        assert_said(&text, said);
    }
}

#[test]
fn nothing_is_concluded_from_a_refused_grant_or_provider() {
    for (text, said) in [
        (
            credential_only(&format!(
                "{ID}{URL}client_auth = \"private_key_jw\"\nassertion = {{ key = {{ env = \"SECRET\" }} }}"
            )),
            "client_auth|SECRET is not usable",
        ),
        (
            credential_only(&format!("{ID}{URL}client_auth = 5\nclient_certificate = \"a\"\nclient_key = 5")),
            "client_auth|client_key",
        ),
        (
            credential_only(&format!("client_id = \"a:b\"\n{URL}{CLIENT_SECRET}client_auth = 5")),
            "client_auth",
        ),
        (
            credential_only(&format!("client_id = \"a:b\"\n{URL}{CLIENT_SECRET}basic_encoding = 5")),
            "basic_encoding",
        ),
        (credential_only(&format!("{ID}{URL}client_auth = \"none\"\nclient_secret = 5")), "client_secret"),
        (with_credential("grant = \"passwrd\"\nusername = \"u\"\npassword = { env = \"SECRET\" }"), "grant"),
        (
            with_credential(
                "grant = \"refresh_token\"\nstate_file = \"s\"\nstate_key = { env = \"STATE_KEY\" }\nfallback = \"passwrd\"\nusername = \"u\"\npassword = { env = \"SECRET\" }",
            ),
            "fallback",
        ),
        (
            with_credential(
                "grant = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }\nfallback = \"password\"",
            ),
            "`fallback` is not used",
        ),
        (
            with_credential("fallback = \"password\"\nusername = \"u\"\npassword = { env = \"SECRET\" }"),
            "`fallback` is not used",
        ),
        (
            credential_only(&format!(
                "{ID}{CLIENT_SECRET}provider = \"genesis\"\nregion = \"mypurecloud.de\""
            )),
            "provider",
        ),
        (credential_only(&format!("{ID}{CLIENT_SECRET}provider = \"genesys\"\ntoken_url = 5")), "token_url"),
        (credential_only(&format!("{ID}{CLIENT_SECRET}issuer = 5")), "issuer"),
        (
            credential_only(&format!("{ID}{CLIENT_SECRET}provider = \"cxone\"\nissuer = 5"))
                .replace("https://api.example.com", "discover"),
            "issuer|`username` is missing|`password` is missing",
        ),
        (
            credential_only(&format!("{ID}{CLIENT_SECRET}provider = \"genesys\"\nregion = 5"))
                .replace("https://api.example.com", "region"),
            "region",
        ),
        (
            credential_only(&format!("{ID}{CLIENT_SECRET}provider = 5\nregion = \"mypurecloud.de\""))
                .replace("https://api.example.com", "region"),
            "provider",
        ),
        (
            credential_only(&format!("{ID}{CLIENT_SECRET}provider = 5\n{URL}"))
                .replace("https://api.example.com", "discover"),
            "provider",
        ),
        (
            credential_only(&format!(
                "{ID}{CLIENT_SECRET}issuer = 5\ngrant = \"authorization_code\"\nstate_file = \"s\"\n{STATE_KEY}"
            )),
            "issuer",
        ),
    ] {
        assert_said(&text, said);
    }
}

#[test]
fn nothing_is_concluded_from_a_refused_file_route_or_entry() {
    let state = |lines: &str| format!("[server]\nstate_dir = 5\n{}", with_credential(lines));
    let second = |lines: &str| {
        with_route(&format!(
            "[[routes]]\nupstream = \"https://b.example.com\"\ncredential = \"none\"\n{lines}"
        ))
    };
    for (text, said) in [
        (state(&format!("grant = \"refresh_token\"\n{STATE_KEY}")), "state_dir"),
        (state(STATE_KEY), "state_dir"),
        (with_credential(&format!("{STATE_KEY}\nstate_file = 5")), "state_file"),
        (with_credential("grant = \"refresh_token\"\nstate_file = \"s\"\nstate_key = 5"), "state_key"),
        (
            with_credential(
                "state_file = \"s\"\nstate_key = 5\nstate_key_previous = [{ env = \"STATE_KEY\" }]",
            ),
            "state_key",
        ),
        (with_credential("ca_file = 5\nsystem_roots = true"), "ca_file"),
        (with_credential("client_certificate = 5\nclient_key = \"key.pem\""), "client_certificate"),
        (with_route("client_certificate = \"cert.pem\"\nclient_key = 5"), "client_key"),
        (second("path = 5"), "routes[1].path"),
        (second("host = 5"), "routes[1].host"),
        (with_route("path = 5\nstrip_prefix = true"), "routes[0].path"),
        (with_route("path = \"api\"\nallow = [\"GET /x\"]\nstrip_prefix = true"), "not a path prefix"),
        (with_credential("request_fields = { client_id = 5, username = \"client_id\" }"), "client_id"),
        (with_credential("quota = { requests = 5, pre = \"1s\" }"), "unknown key `pre`"),
        (with_credential("fields = { access_token = 5, expires_in = \"access_token\" }"), "access_token"),
        (with_credential("require_scopes = [5]"), "require_scopes[0]"),
    ] {
        assert_said(&text, said);
    }
}

/// Two wrong keys of one table, at any depth, are both reported.
#[test]
fn a_problem_hides_no_other_problem_in_its_table() {
    for (text, said) in [
        (
            with_credential(
                "client_auth = \"private_key_jwt\"\nassertion = { key = 5, alg = \"RS25\", kdi = 1 }",
            )
            .replace("client_secret", "#"),
            "assertion.key|assertion.alg|`kdi`",
        ),
        (
            with_credential(
                "client_auth = \"private_key_jwt\"\nassertion = { key = { env = \"NOPE\" }, kid = 5 }",
            )
            .replace("client_secret", "#"),
            "NOPE is not set|assertion.kid",
        ),
        (with_credential("assertion = { kid = 5 }"), "assertion.kid|`assertion` is used by neither"),
        (with_credential("quota = { requests = \"x\" }"), "quota.requests|lacks `per`"),
        (with_credential("quota = { requests = 0, per = 5 }"), "at least 1|quota.per"),
        (
            with_credential("errors = { dead = [5, \"\"], client = \"x\" }"),
            "dead[0]|one meaning|errors.client",
        ),
        (
            with_credential("fields = { access_token = 5, expires_in = \"\" }"),
            "fields.access_token|not the path of a member",
        ),
        (with_credential("extra = { scope = 5 }"), "extra.scope|must not hold"),
        (with_credential("request_fields = { nothing = 5 }"), "request_fields.nothing|no such parameter"),
        (with_credential("request_headers = { Host = 5 }"), "request_headers.Host|cannot change"),
        (
            with_credential(
                "assertion = { claims = { iss = 1979-05-27 } }\nclient_auth = \"client_secret_jwt\"",
            ),
            "claims.iss|must not hold `iss`",
        ),
        (
            with_credential(
                "assertion = { claims = { x = [1, [1979-05-27], inf] } }\nclient_auth = \"client_secret_jwt\"",
            ),
            "claims.x[1][0]|claims.x[2]",
        ),
        (
            with_credential("password = { evn = \"A\", x = 1 }\ngrant = \"password\"\nusername = \"u\""),
            "`evn`|`x`",
        ),
        (
            with_credential("state_file = \"s\"\nstate_key_previous = [5, { evn = \"A\" }]\nstate_key = 5"),
            "state_key`|previous[0]|`evn`",
        ),
        (
            with_route("headers = { set = { Host = \"x\" }, remove = 5 }"),
            "headers.remove|cannot change `host`",
        ),
        (
            with_route("headers = { set = { Host = 5 }, remove = [\"Via\", 5], pas = [] }"),
            "headers.set.Host|cannot change `host`|via|remove[1]|`pas`",
        ),
        (
            with_route("retry_429 = { attempts = 11, max_wait = 5, methods = [\"get\", 5] }"),
            "at most 10|max_wait|not a method|methods[1]",
        ),
        (
            with_route("breaker = { failures = 0, window = 5, open = \"0s\" }"),
            "at least 1|window|longer than zero",
        ),
        (
            with_server("[server.tls]\ncertificate = 5\nprivat_key = \"x\"\nx = 1"),
            "certificate|privat_key|`x`",
        ),
        (with_server("listen = [\"127.0.0.1:1\", 5, \"here\"]"), "listen[1]|not an address"),
        (
            format!("{CREDENTIAL}{}{ROUTE}timeout = 5\n", CREDENTIAL.replace("cxone", "b")),
            "timeout|no route uses the credential `b`",
        ),
        ("credentials.none = 5\nroutes = [5]\n".to_owned(), "credentials.none`|reserved|routes[0]"),
    ] {
        assert_said(&text, said);
    }
}
