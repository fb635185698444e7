//! Secrets that cannot be right, from each source and for each key.

use std::path::Path;

use crate::config::source::diagnostics::Severity;
use crate::config::{Diagnostics, Environment, parse};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The problems of a configuration with this source of the client secret.
fn problems(folder: &Path, source: &str, environment: &Environment) -> Diagnostics {
    let text = format!(
        "[credentials.c]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"i\"\nclient_secret = {source}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
    );
    let checked = parse(&folder.join("proxy.toml"), text, environment);
    checked.map_or_else(|problems| *problems, |checked| checked.warnings)
}

/// The only problem of a secret with this text in a variable and in a file: severity, title and remedy.
fn problem(text: &str) -> Option<(Severity, String)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), text).unwrap();
    let of_file = problems(folder.path(), "{ file = \"secret\" }", &Environment::from([]));
    let of_variable = problems(folder.path(), "{ env = \"S\" }", &Environment::from([("S", text)]));
    let said = |problems: &Diagnostics| {
        let shown = problems.to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        match problems.problems() {
            [] => None,
            [only] => {
                assert!(
                    only.place.is_some() && only.help.as_ref().is_some_and(|help| !help.is_empty()),
                    "{shown}"
                );
                Some((only.severity, only.title.clone()))
            }
            _ => panic!("{shown}"),
        }
    };
    let (file, variable) = (said(&of_file), said(&of_variable));
    let what = |said: &Option<(Severity, String)>| {
        let said = said.clone();
        said.map(|(severity, title)| {
            let what = title.rsplit_once("/secret ").or_else(|| title.rsplit_once("variable S "));
            (severity, what.map_or(title.clone(), |(_, what)| what.to_owned()))
        })
    };
    // One line break at the end of a file does not belong to the secret.
    if !text.ends_with('\n') {
        assert_eq!(what(&file), what(&variable), "{text:?}");
    }
    what(&file)
}

#[test]
fn a_text_that_cannot_be_the_intended_secret_causes_a_warning() {
    for (text, what) in [
        ("\"hunter2\"", "is in quotes"),
        ("'hunter2'", "is in quotes"),
        ("\"hunter2\"\n", "is in quotes"),
        ("“hunter2”", "is in quotes"),
        (" hunter2", "begins or ends with a blank"),
        ("hunter2\t", "begins or ends with a blank"),
        ("hunter2\u{a0}", "begins or ends with a blank"),
        ("hunter2\r", "holds a carriage return"),
        ("hun\rter2hunter2", "holds a carriage return"),
        ("hunter2\r\n\r\n", "holds more than one line"),
        ("\nhunter2", "holds more than one line"),
        ("hunter2\nhunter2\n", "holds more than one line"),
        ("\u{feff}hunter2", "begins with a byte order mark"),
        ("\u{200b}hunter2", "begins or ends with a blank"),
        ("hunt\u{200b}er2", "holds an invisible character"),
        ("hunt\u{1b}er2", "holds an invisible character"),
        ("${HUNTER2}", "holds a reference instead of a secret"),
        ("$CLIENT_SECRET", "holds a reference instead of a secret"),
        ("$clientsecret", "holds a reference instead of a secret"),
        ("$password", "holds a reference instead of a secret"),
        ("\"$CLIENT_SECRET\"\n", "holds a reference instead of a secret"),
        ("$(cat /run/secrets/x)", "holds a reference instead of a secret"),
        ("%CLIENT_SECRET%", "holds a reference instead of a secret"),
        ("{{ .Values.secret }}", "holds a reference instead of a secret"),
        ("@Microsoft.KeyVault(SecretUri=https://v.test/x)", "holds a reference instead of a secret"),
        ("op://vault/item/field", "holds a reference instead of a secret"),
        ("<client-secret>", "looks like a placeholder"),
        ("your-client-secret", "looks like a placeholder"),
        ("changeme", "looks like a placeholder"),
        ("CLIENT_SECRET=hunter2", "holds a name and a value, as a file of variables does"),
        ("export SECRET='hunter2'\n", "holds a name and a value, as a file of variables does"),
        (
            "# of the client\nCLIENT_ID=x\nCLIENT_SECRET=hunter2\n",
            "holds a name and a value, as a file of variables does",
        ),
        ("key=hunter2", "holds a name and a value, as a file of variables does"),
        ("genesys_id=hunter2", "holds a name and a value, as a file of variables does"),
        ("export api_pass='hunter2'\n", "holds a name and a value, as a file of variables does"),
        ("client_secret: hunter2", "holds a name and a value, as a file of variables does"),
        ("clientSecret=\"hunter2\"", "holds a name and a value, as a file of variables does"),
        ("{\"client_secret\": \"hunter2\"}", "holds JSON"),
        ("{\n  \"kind\": \"Secret\",\n  \"data\": { \"x\": \"hunter2\" }\n}\n", "holds JSON"),
        ("[{\"value\":\"hunter2\"}]", "holds JSON"),
        ("{\"a\":1", "holds JSON"),
        ("{\n  \"client_secret\" : \"hunter2", "holds JSON"),
        ("[{\"value\":\"hunter2\"", "holds JSON"),
        ("apiVersion: v1\nkind: Secret\ndata:\n  x: hunter2\n", "holds a manifest of Kubernetes"),
        ("<!DOCTYPE html>\n<p>hunter2</p>", "holds a page of HTML or XML"),
        ("Bearer hunter2", "begins like the value of an Authorization field"),
        ("basic hunter2", "begins like the value of an Authorization field"),
        ("/run/secrets/client-secret", "holds the path of a file"),
    ] {
        assert_eq!(problem(text), Some((Severity::Warning, what.to_owned())), "{text:?}");
    }
}

#[test]
fn a_text_that_can_be_no_secret_is_an_error() {
    for (text, what) in [
        ("hun\0ter2hunter2", "holds a zero byte"),
        ("h\0u\0n\0", "holds a zero byte"),
        ("   ", "holds only blanks"),
        ("\t\r\n \u{feff}", "holds only blanks"),
    ] {
        assert_eq!(problem(text), Some((Severity::Error, what.to_owned())), "{text:?}");
    }
}

#[test]
fn a_secret_of_any_other_text_causes_no_problem() {
    for text in [
        "hunter2",
        "hunter2\n",
        "hunter2\r\n",
        "p$ss w{rd} 100%",
        "$ecret1",
        "a=b",
        "Ab3=x/y+z==",
        "QWNjZXNzS2V5U2VjcmV0T2ZGaWZ0eVNpeENoYXJhY3RlcnMrLw====",
        "AAAA=",
        "x:y:z",
        "\"",
        "'tis",
        "{hunter2",
        "{\"hunter2",
        "[\"hunter2\"x:y",
        "k3y=hunter2",
        "aid=hunter2",
        "id==",
        "key==",
        "correct_horse=battery",
        "x9k_q=hunter2",
        "$money",
        "$secret1",
        "4711",
        "pässwörd",
        "-----BEGIN PRIVATE KEY-----\r\nAAAA\r\n-----END PRIVATE KEY-----\r\n",
    ] {
        assert_eq!(problem(text), None, "{text:?}");
    }
}

#[test]
fn a_plain_secret_has_the_same_flaws() {
    let read = |source: &str| problems(Path::new("/nowhere"), source, &Environment::from([]));
    for (source, what) in [
        ("\" hunter2\"", "this secret begins or ends with a blank"),
        ("\"'hunter2'\"", "this secret is in quotes"),
        ("\"HUNTER=hunter2\"", "this secret holds a name and a value, as a file of variables does"),
        ("\"$CLIENT_SECRET\"", "this secret holds a reference instead of a secret"),
        ("\"hunter2\\u0000\"", "this secret holds a zero byte"),
    ] {
        let problems = read(source);
        assert!(problems.problems().iter().any(|problem| problem.title == what), "{source}: {problems}");
        assert!(!problems.to_string().contains("hunter2"), "{problems}");
    }
}

#[test]
fn each_key_of_a_secret_is_looked_at_and_one_problem_is_reported_for_it() {
    let text = "[server]\nstate_dir = \"s\"\n[admin]\ntoken = { env = \"QUOTED_TOKEN\" }\n\
                [credentials.c]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"i\"\ngrant = \"refresh_token\"\n\
                client_secret = { env = \"QUOTED\" }\nclient_secret_next = { env = \"QUOTED\" }\n\
                refresh_token = { env = \"QUOTED\" }\nfallback = \"password\"\nusername = \"u\"\n\
                password = { env = \"QUOTED\" }\nstate_key = { env = \"KEY\" }\nstate_key_previous = { env = \"QUOTED_KEY\" }\n\
                [credentials.e]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"i\"\n\
                grant = \"token_exchange\"\nsubject_token = { env = \"QUOTED\" }\nclient_auth = \"private_key_jwt\"\n\
                assertion = { key = { env = \"QUOTED\" } }\n\
                [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n\
                [[routes]]\npath = \"/e\"\nupstream = \"https://api.example.com\"\ncredential = \"e\"\n";
    let quoted_key = format!("\"{KEY}\"");
    let environment = Environment::from([
        ("QUOTED", "\"hunter2\""),
        ("QUOTED_TOKEN", "\"hunter2hunter2hunter2hunter2\""),
        ("QUOTED_KEY", quoted_key.as_str()),
        ("KEY", KEY),
    ]);

    let problems = parse(Path::new("proxy.toml"), text.to_owned(), &environment).unwrap_err();

    let titles: Vec<&str> = problems.problems().iter().map(|problem| problem.title.as_str()).collect();
    assert_eq!(titles.len(), 8, "{problems}");
    assert!(titles.iter().all(|title| title.contains("is in quotes")), "{problems}");
    assert_eq!(problems.errors(), 2, "a key in quotes is no key: {problems}");
    assert!(!problems.to_string().contains("hunter2") && !problems.to_string().contains(KEY), "{problems}");
}

#[test]
fn a_name_of_a_variable_is_no_place_for_its_value() {
    for (source, title, help) in [
        ("{ env = \"S=hunter2\" }", "has a name and a value in `env`", "write the name only"),
        ("{ env = \"export S=hunter2\" }", "has a name and a value in `env`", "write the name only"),
        ("{ env = \"$S\" }", "has a reference to a variable in `env`", "without `$` and braces"),
        ("{ env = \"${S}\" }", "has a reference to a variable in `env`", "without `$` and braces"),
        ("{ env = \"\" }", "has an empty `env`", "the name of an environment variable"),
        (
            "{ env = \"hunter2 hunter2\" }",
            "that is not the name of an environment variable",
            "API_CLIENT_SECRET",
        ),
        (
            "{ env = \"hunter2+hunter2/\" }",
            "that is not the name of an environment variable",
            "API_CLIENT_SECRET",
        ),
    ] {
        let problems = problems(Path::new("/nowhere"), source, &Environment::from([("S", "x")]));
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert!(
            problem.title.starts_with("`credentials.c.client_secret` ") && problem.title.contains(title),
            "{problems}"
        );
        assert!(problem.help.as_ref().unwrap().contains(help), "{problems}");
        assert!(!problems.to_string().contains("hunter2"), "{problems}");
        assert_eq!(problems.errors(), 1);
    }
}

#[test]
fn an_unreadable_secret_is_an_error_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let utf16: Vec<u8> = "hunter2".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, title, help) in [
        ([&b"\xff\xfe"[..], utf16.as_slice()].concat(), "is not UTF-8", "UTF-16"),
        (utf16, "holds a zero byte", "UTF-16"),
        (vec![b'a'; 70_000], "has more than 64 KiB", "nothing else"),
        (Vec::new(), "is empty", "write the secret into that file"),
    ] {
        std::fs::write(folder.path().join("secret"), content).unwrap();
        let problems = problems(folder.path(), "{ file = \"secret\" }", &Environment::from([]));
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert!(problem.title.contains(title) && problems.errors() == 1, "{problems}");
        assert!(problem.help.as_ref().unwrap().contains(help), "{problems}");
    }
}

#[test]
fn a_missing_file_of_a_secret_is_reported_with_the_command_that_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = problems(folder.path(), "{ file = \"secret\" }", &Environment::from([])).to_string();
    let command = format!("(umask 077; cat > {})", folder.path().join("secret").display());
    assert!(missing.contains("client_secret = ") && missing.contains(&command), "{missing}");

    std::fs::create_dir(folder.path().join("secret")).unwrap();
    let a_folder = problems(folder.path(), "{ file = \"secret\" }", &Environment::from([])).to_string();
    assert!(a_folder.contains("a container gets a folder where the file to mount is missing"), "{a_folder}");
}

#[test]
fn quotes_and_blanks_around_a_client_id_and_a_user_name_cause_a_warning() {
    let said = |id: &str, name: &str| {
        let text = format!(
            "[credentials.c]\ntoken_url = \"https://as.example.com/t\"\ngrant = \"password\"\nclient_id = \"{id}\"\n\
             client_secret = {{ env = \"S\" }}\nusername = \"{name}\"\npassword = {{ env = \"S\" }}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        let checked = parse(Path::new("proxy.toml"), text, &Environment::from([("S", "hunter2")]));
        let problems = checked.map_or_else(|problems| *problems, |checked| checked.warnings);
        let titles = problems.problems().iter().map(|problem| (problem.severity, problem.title.clone()));
        titles.collect::<Vec<_>>()
    };
    for (text, what) in [
        (" abc ", "begins or ends with a blank"),
        ("abc\\n", "begins or ends with a blank"),
        ("'abc'", "is in quotes"),
        ("\\\"abc\\\"", "is in quotes"),
        ("a\u{200b}bc", "holds an invisible character"),
    ] {
        let warning = |key: &str| (Severity::Warning, format!("`{key}` {what}"));
        assert_eq!(said(text, "u"), [warning("client_id")], "{text:?}");
        assert_eq!(said("i", text), [warning("username")], "{text:?}");
    }
    assert_eq!(said("  ", "u"), [(Severity::Error, "`client_id` is empty".to_owned())]);
    for text in ["O'Brien", "a b", "DOMAIN\\\\user", "user@corp.example", "jürgen"] {
        assert_eq!(said("i", text), [], "{text:?}");
    }
}
