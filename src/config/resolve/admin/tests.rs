//! Tests of `[admin]` and `[health]`.

use std::path::Path;

use crate::config::{Checked, Diagnostics, Environment, Listen, parse};

const TOKEN: &str = "an-admin-token-of-enough-characters";

fn read(folder: &Path, text: &str) -> Result<Checked, Box<Diagnostics>> {
    let text = format!("{text}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n");
    parse(&folder.join("proxy.toml"), text, &Environment::from([("TOKEN", TOKEN)]))
}

/// The titles of the problems.
fn titles(folder: &Path, text: &str) -> Vec<String> {
    let problems = read(folder, text).map_or_else(|problems| *problems, |checked| checked.warnings);
    problems.problems().iter().map(|problem| problem.title.clone()).collect()
}

/// Certificate and key.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pki = testkit::pki::Pki::new(&["localhost"]).unwrap();
    for (name, content) in [("server.pem", &pki.server().certificate), ("key.pem", &pki.server().key)] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    std::os::unix::fs::symlink(".", folder.path().join("link")).unwrap();
    folder
}

const TLS: &str = "tls = { certificate = \"server.pem\", private_key = \"key.pem\" }";
const SECRET: &str = "token = { env = \"TOKEN\" }";

#[test]
fn a_token_in_the_clear_is_refused_beyond_loopback_and_the_remedies_are_named() {
    let folder = folder();
    let no_token = "the admin address is not on loopback, and there is no `admin.token`";
    let state = "[server]\nstate_dir = \"s\"\n";
    for (server, listen, lines, expected) in [
        ("", "0.0.0.0:9090", SECRET.to_owned(), &["`admin.token` would cross the network in the clear"][..]),
        ("", "[::]:9090", SECRET.to_owned(), &["`admin.token` would cross the network in the clear"]),
        ("", "192.0.2.1:9090", SECRET.to_owned(), &["`admin.token` would cross the network in the clear"]),
        ("", "0.0.0.0:9090", format!("{SECRET}\n{TLS}"), &[]),
        ("", "127.0.0.1:9090", SECRET.to_owned(), &[]),
        ("", "[::ffff:127.0.0.1]:9090", SECRET.to_owned(), &[]),
        ("", "unix:a.sock", SECRET.to_owned(), &[]),
        // Health checks alone.
        ("", "0.0.0.0:9090", String::new(), &[no_token]),
        (state, "0.0.0.0:9090", String::new(), &[no_token]),
        ("", "0.0.0.0:9090", TLS.to_owned(), &[no_token]),
        // The daemon has a token of its own.
        (state, "0.0.0.0:9090", TLS.to_owned(), &[]),
        ("", "unix:a.sock", TLS.to_owned(), &["`admin.tls` has no effect on a unix socket"]),
        // One problem, not two.
        ("", "0.0.0.0:9090", format!("{SECRET}\ntls = 5"), &["`admin.tls` must be a table"]),
        (
            "",
            "0.0.0.0:9090",
            format!("{SECRET}\ntls = {{ certificte = \"server.pem\", private_key = \"server-key.pem\" }}"),
            &["unknown key `certificte` in [admin.tls]"],
        ),
        (
            "",
            "0.0.0.0:9090",
            format!("{SECRET}\ntls = {{ certificate = \"server.pem\" }}"),
            &["`private_key` is missing"],
        ),
    ] {
        let text = format!("{server}[admin]\nlisten = \"{listen}\"\n{lines}");
        assert_eq!(titles(folder.path(), &text), expected, "{text}");
    }
    let refused = read(folder.path(), &format!("[admin]\nlisten = \"0.0.0.0:1\"\n{SECRET}")).unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("admin.tls = {") && said.contains("[health]") && said.contains("unix socket"),
        "{said}"
    );
}

#[test]
fn addresses_that_exclude_each_other_are_refused() {
    let folder = folder();
    for (server, admin, health, expected) in [
        (
            "\"unix:a.sock\"",
            "unix:a.sock",
            "",
            &["`admin.listen` and `server.listen` are the same address"][..],
        ),
        (
            "\"unix:a.sock\"",
            "unix:link/a.sock",
            "",
            &["`admin.listen` and `server.listen` are the same socket"],
        ),
        ("\"unix:a.sock\"", "unix:b.sock", "unix:c.sock", &[]),
        (
            "\"127.0.0.1:1\"",
            "127.0.0.1:2",
            "127.0.0.1:1",
            &["`health.listen` and `server.listen` are the same address"],
        ),
        (
            "\"127.0.0.1:1\"",
            "127.0.0.1:2",
            "0.0.0.0:2",
            &["`health.listen` and 127.0.0.1:2 in `admin.listen` cannot both be listened on"],
        ),
        (
            "\"127.0.0.1:1\"",
            "unix:b.sock",
            "unix:./b.sock",
            &["`health.listen` and `admin.listen` are the same address"],
        ),
        (
            "\"127.0.0.1:1\"",
            "unix:b.sock",
            "unix:link/b.sock",
            &["`health.listen` and `admin.listen` are the same socket"],
        ),
        ("\"127.0.0.1:1\"", "127.0.0.1:2", "0.0.0.0:3", &[]),
        ("\"127.0.0.1:1\"", "127.0.0.1:2", "nowhere", &["not an address to listen on"]),
        ("\"127.0.0.1:1\"", "unix:@b", "", &["not the path of a unix socket"]),
    ] {
        let text = format!(
            "[server]\nlisten = {server}\n[admin]\nlisten = \"{admin}\"\n[health]\nlisten = \"{health}\""
        );
        assert_eq!(titles(folder.path(), &text), expected, "{text}");
    }
}

#[test]
fn the_daemons_own_token_lies_beside_the_states_unless_a_token_is_configured() {
    let folder = folder();
    let place = |text: &str| {
        let admin = read(folder.path(), text).unwrap_or_else(|problems| panic!("{problems}")).config.admin;
        admin.token_file.map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
    };
    let credential = |name: &str, lines: &str| {
        format!(
            "[credentials.{name}]\ntoken_url = \"https://as.test/t\"\nclient_id = \"i\"\nclient_secret = {{ env = \"TOKEN\" }}\n{lines}\n"
        )
    };

    assert_eq!(place(""), None);
    assert_eq!(place("[server]\nstate_dir = \"s\"").as_deref(), Some("s/admin.token"));
    assert_eq!(place(&format!("[server]\nstate_dir = \"s\"\n[admin]\n{SECRET}")), None);
    let credentials = credential("b", "state_file = \"y/b\"") + &credential("a", "state_file = \"x/a\"");
    assert_eq!(place(&credentials).as_deref(), Some("x/admin.token"));
    assert_eq!(
        place(&format!("[server]\nstate_dir = \"s\"\n{credentials}")).as_deref(),
        Some("s/admin.token")
    );

    let taken = format!("[server]\nstate_dir = \"s\"\n{}", credential("a", "state_file = \"s/admin.token\""));
    let titles = titles(folder.path(), &taken);
    assert!(
        titles.iter().any(|title| title.contains("in which the daemon keeps the admin token")),
        "{titles:?}"
    );
}

#[test]
fn a_token_of_metrics_needs_a_token_and_a_warning_where_it_is_in_the_clear() {
    let folder = folder();
    for (text, expected) in [
        ("[admin]\nmetrics_token = true".to_owned(), &["`metrics_token` needs a token"][..]),
        (format!("[admin]\nmetrics_token = true\n{SECRET}"), &[]),
        ("[server]\nstate_dir = \"s\"\n[admin]\nmetrics_token = true".to_owned(), &[]),
        (
            format!("[admin]\nmetrics_token = true\n{SECRET}\n[health]\nlisten = \"0.0.0.0:1\""),
            &["the admin token crosses the network in the clear with each scrape of /metrics"],
        ),
        (
            "[server]\nstate_dir = \"s\"\n[admin]\nmetrics_token = true\n[health]\nlisten = \"0.0.0.0:1\""
                .to_owned(),
            &["`metrics_token` needs `admin.token` where /metrics is served beyond loopback"],
        ),
        (format!("[admin]\n{SECRET}\n[health]\nlisten = \"0.0.0.0:1\""), &[]),
    ] {
        assert_eq!(titles(folder.path(), &text), expected, "{text}");
    }
    let health = |text: &str| read(folder.path(), text).unwrap().config.health.listen;
    assert_eq!(health("[health]\nlisten = \"\""), None);
    assert_eq!(health("[health]\nlisten = \":9091\""), Some(Listen::Tcp("0.0.0.0:9091".parse().unwrap())));
}
