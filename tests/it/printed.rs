//! `bearerd check --print`: the printed configuration means the same as the one that was read.

use std::process::Command;

use bearerd::config::print;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use testkit::harness::world::assert_absent;

use crate::harness::BEARERD;
use crate::shipped::{Setting, is_commented_key, is_commented_section, recipes, shape, shipped, uncommented};

/// Prints a configuration; checks that the print has the same meaning and prints as itself.
fn check_print(setting: &Setting, text: &str) -> String {
    let checked = setting.parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let printed = print(text, &checked.config, &setting.environment);
    let again = setting.parse(&printed).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
    assert_eq!(shape(&again.config), shape(&checked.config), "{printed}");
    assert_eq!(print(&printed, &again.config, &setting.environment), printed);
    printed
}

#[test]
fn the_print_of_every_recipe_means_the_same() {
    let setting = Setting::new();
    for (_, text) in recipes() {
        check_print(&setting, &text);
    }
}

/// Without a value, only keys remain that have none: each other key of each section is printed.
#[test]
fn the_print_of_the_shipped_configuration_has_every_key_with_a_default() {
    let setting = Setting::new();
    let printed = check_print(&setting, &shipped());
    check_print(&setting, &uncommented(true));

    let written: toml::Table = toml::from_str(&uncommented(false)).unwrap();
    let printed: toml::Table = toml::from_str(&printed).unwrap();
    for section in ["server", "admin", "audit", "log"] {
        assert_eq!(written[section], printed[section], "{section}");
    }
    let mut routes = written["routes"].clone();
    routes[0]["name"] = "/".into();
    assert_eq!(routes, printed["routes"], "a route has a name");
    assert_eq!(written["credentials"]["api"], printed["credentials"]["api"]);
}

/// Any of the shipped file's commented-out keys and examples may be in use.
#[test]
fn the_print_of_any_selection_of_keys_means_the_same() {
    let setting = Setting::new();
    let text = shipped();
    let lines: Vec<&str> = text.lines().collect();
    let mut usable = 0;
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let choices = prop::collection::vec(prop::bool::weighted(0.3), lines.len());
    let outcome = runner.run(&choices, |chosen| {
        let mut is_in_section = false;
        let mut chosen_text = String::new();
        for (line, is_chosen) in lines.iter().zip(chosen) {
            if is_commented_section(line) {
                is_in_section = is_chosen;
            } else if line.is_empty() {
                is_in_section = false;
            }
            let is_shown = is_in_section || is_chosen && is_commented_key(line);
            let is_shown = is_shown && (is_commented_section(line) || is_commented_key(line));
            chosen_text.push_str(if is_shown { &line[1..] } else { line });
            chosen_text.push('\n');
        }
        if setting.parse(&chosen_text).is_ok() {
            check_print(&setting, &chosen_text);
        }
        Ok(())
    });
    outcome.unwrap();
    // Keys that are chosen alone are mostly valid.
    for at in (0..lines.len()).filter(|at| is_commented_key(lines[*at])) {
        let mut one: Vec<&str> = lines.clone();
        one[at] = &one[at][1..];
        let text = one.join("\n");
        if setting.parse(&text).is_ok() {
            usable += 1;
            check_print(&setting, &text);
        }
    }
    assert!(usable > 90, "{usable}");
}

const CONFIG: &str = "
[server]
required_header = \"X-Key: hunter2hunter2-a\"
[admin]
token = \"hunter2hunter2-b-of-22-bytes\"
[credentials.\"a.b\"]
provider = \"cxone\"
issuer = \"https://cxone.niceincontact.com\"
client_id = \"4711\"
client_secret = \"hunter2hunter2-c\"
username = \"tab\\tquote\\\"del\\u007F\"
password = { env = \"SECRET\" }
proxy = \"http://user:hunter2hunter2-d@proxy.test:3128\"
request_headers = { X-Api-Key = \"hunter2hunter2-e\", \"X-B\" = { env = \"SECRET\" } }
[[routes]]
upstream = \"discover\"
credential = \"a.b\"
breaker = { open = \"5m\" }
retry_429 = { attempts = 0x2 }
[[routes]]
path = \"/open\"
upstream = \"http://127.0.0.1:1\"
credential = \"none\"
breaker = \"off\"
";

/// Runs `check` with these variables; returns the exit code and both outputs.
fn check(config: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let mut command = Command::new(BEARERD);
    command.arg("check").args(arguments).env_clear().env("SECRET", "hunter2hunter2-f");
    let output = command.envs(variables.iter().copied()).current_dir(folder.path()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (printed, said) = (text(output.stdout), text(output.stderr));
    assert_absent(&printed, "hunter2hunter2");
    assert_absent(&said, "hunter2hunter2");
    (output.status.code().unwrap(), printed, said)
}

#[test]
fn check_prints_overrides_and_presets_and_masks_secrets() {
    let variables = [
        ("BEARERD_SERVER__LISTEN", "127.0.0.1:0"),
        ("BEARERD_SERVER__WORKERS", "3"),
        ("BEARERD_CREDENTIALS__A_B__CLIENT_ID", "0x10"),
    ];
    let (code, printed, said) = check(CONFIG, &["--print"], &variables);

    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("warning") && said.ends_with("proxy.toml: ok (2 routes, 1 credential, 3 warnings)\n"),
        "{said}"
    );
    let table: toml::Table = toml::from_str(&printed).unwrap();
    let (server, credential) = (&table["server"], &table["credentials"]["a.b"]);
    assert_eq!((server["listen"].as_str(), server["workers"].as_integer()), (Some("127.0.0.1:0"), Some(3)));
    assert_eq!(server["required_header"].as_str(), Some("X-Key: ***"));
    assert_eq!(table["admin"]["token"].as_str(), Some("***"));
    for (key, value) in [
        ("client_id", "0x10"),
        ("client_secret", "***"),
        ("username", "tab\tquote\"del\u{7f}"),
        ("proxy", "http://***@proxy.test:3128"),
        ("token_url", "https://cxone.niceincontact.com/auth/token"),
        ("grant", "password"),
        ("http_version", "1.1"),
        ("refresh_margin", "600s"),
    ] {
        assert_eq!(credential[key].as_str(), Some(value), "{key}");
    }
    assert_eq!(credential["request_headers"]["X-Api-Key"].as_str(), Some("***"));
    assert_eq!(credential["request_headers"]["X-B"]["env"].as_str(), Some("SECRET"));
    assert_eq!(credential["password"]["env"].as_str(), Some("SECRET"));
    let routes = table["routes"].as_array().unwrap();
    assert_eq!(routes[0]["retry_429"]["attempts"].as_integer(), Some(2));
    assert_eq!(routes[0]["retry_429"]["max_wait"].as_str(), Some("10s"));
    assert_eq!(routes[0]["breaker"]["failures"].as_integer(), Some(10));
    assert_eq!(routes[1]["breaker"].as_str(), Some("off"));
    assert!(routes[0].get("token_field").is_some() && routes[1].get("token_field").is_none());

    let (code, again, _) = check(&printed, &["--print"], &[]);
    assert_eq!((code, again), (0, printed));
}

#[test]
fn an_invalid_configuration_is_not_printed() {
    let (code, printed, said) = check(&CONFIG.replace("\"discover\"", "5"), &["--print"], &[]);
    assert_eq!((code, printed.as_str()), (78, ""));
    assert!(said.contains("`routes[0].upstream` must be a string"), "{said}");
    let (code, _, _) = check(CONFIG, &["--print", "--online"], &[]);
    assert_eq!(code, 2);
}
