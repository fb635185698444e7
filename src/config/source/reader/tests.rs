//! Values of each type, usable and refused, in the file and in variables, and each key of the schema with a wrong value.

use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::{Table as TomlTable, Value as TomlValue};

use super::*;
use crate::config::source::document::Document;
use crate::config::source::schema::File;
use crate::config::{Environment, parse};

/// Reads this text with this environment variable; returns the titles of the problems, and the document.
fn read(text: &str, variable: &[(&str, &str); 1]) -> (Vec<String>, Document) {
    let sources = Sources::new(Path::new("proxy.toml"), text.to_owned());
    let document = Document::read(sources, &Environment::from(*variable)).unwrap();
    (document.problems.iter().map(|problem| problem.title.clone()).collect(), document)
}

const NO_OVERRIDE: &[(&str, &str); 1] = &[("PATH", "")];

#[test]
fn a_message_names_the_expected_type_and_never_the_value() {
    for (text, title) in [
        ("server.drain = 20", "`server.drain` must be a duration such as \"30s\", not a number"),
        ("server.drain = \"hunter2\"", "`server.drain`: not a duration: write a number and a unit"),
        ("server.watch = \"hunter2\"", "`server.watch` must be true or false, not a string"),
        ("server.watch = 1979-05-27", "`server.watch` must be true or false, not a date"),
        ("server.workers = 70000", "`server.workers` must be a whole number from 0 to 65535"),
        ("server.workers = -1", "`server.workers` must be a whole number from 0 to 65535"),
        (
            "server.workers = 1.5",
            "`server.workers` must be a whole number from 0 to 65535, not a decimal number",
        ),
        ("server.hosts = \"hunter2\"", "`server.hosts` must be a list in brackets, such as"),
        ("credentials.a.extra = []", "`credentials.a.extra` must be a table, such as"),
        ("credentials.a.extra = { x = 1 }", "`credentials.a.extra.x` must be a string, not a number"),
        ("credentials.a.quota = \"hunter2\"", "`credentials.a.quota` must be a table such as { requests"),
        (
            "credentials.a.grant = \"hunter2\"",
            "`credentials.a.grant` must be one of: \"client_credentials\",",
        ),
        ("credentials.a.password = 4711", "`credentials.a.password` must be { env = \"NAME\" }, { file ="),
        ("credentials.a.password = {}", "`credentials.a.password` must be { env = \"NAME\" }, "),
        (
            "credentials.a.password = { env = 1 }",
            "`credentials.a.password.env` must be a string, not a number",
        ),
        (
            "credentials.a.password = { value = \"hunter2\" }",
            "unknown key `value` in `credentials.a.password`",
        ),
        ("credentials.a.password = { env = \"A\", file = \"b\" }", "`credentials.a.password` must be either"),
        (
            "credentials.a.assertion.claims = { x = [inf] }",
            "`credentials.a.assertion.claims.x[0]` must be a number that JSON has",
        ),
        ("log.format = \"jsn\"", "`log.format` must be one of: \"auto\", \"json\", \"text\""),
    ] {
        let (titles, _) = read(text, NO_OVERRIDE);
        let [only] = titles.as_slice() else { panic!("{text}: {titles:?}") };
        assert!(only.starts_with(title) && !only.contains("hunter2"), "{text}: {only}");
    }
    let help = |text: &str| read(text, NO_OVERRIDE).1.problems[0].help.clone();
    assert_eq!(help("log.format = \"jsn\"").as_deref(), Some("did you mean \"json\"?"));
    assert_eq!(help("admin.token = { evn = \"A\" }").as_deref(), Some("did you mean `env`?"));
}

#[test]
fn a_wrong_entry_leaves_the_other_entries_of_its_list() {
    let (titles, document) =
        read("server.hosts = [\"a\", 1, \"b\"]\nserver.origins = [1]\nserver.drain = 1", NO_OVERRIDE);

    let server = document.file.server.into_usable().unwrap().into_inner();
    assert_eq!(titles.len(), 3, "{titles:?}");
    let hosts = server.hosts.into_usable().unwrap().into_inner();
    assert_eq!(hosts.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert!(server.origins.into_usable().unwrap().get_ref()[0].is_none());
    assert!(matches!((server.drain, server.watch), (Key::Refused, Key::Absent)));
}

#[test]
fn an_absent_key_that_was_probably_meant_by_another_name_counts_as_refused() {
    let (_, document) = read("server = { lisen = \"x\", drian = \"1s\", drain = \"2s\" }", NO_OVERRIDE);

    let server = document.file.server.into_usable().unwrap().into_inner();
    assert!(matches!((server.listen, server.drain), (Key::Refused, Key::Written(_))));
}

#[test]
fn a_number_in_a_variable_is_text_where_only_text_fits_and_not_inside_a_table() {
    let text = "credentials.a.client_id = \"x\"";
    let (titles, document) = read(text, &[("BEARERD_CREDENTIALS__A__CLIENT_ID", "0x10")]);
    let mut credentials = document.file.credentials.into_usable().unwrap().into_inner().0;
    let credential = credentials.pop_first().unwrap().1.unwrap().into_inner();
    assert!(titles.is_empty(), "{titles:?}");
    assert_eq!(credential.client_id.usable().unwrap().get_ref(), "0x10");

    for (variable, value, said) in [
        ("CREDENTIALS__A__ASSERTION", "{ kid = 5 }", "`credentials.a.assertion.kid` must be a string, not"),
        ("CREDENTIALS__A__SCOPES", "[5]", "`credentials.a.scopes[0]` must be a string, not a number"),
        ("CREDENTIALS__A__SCOPES", "[[5]]", "`credentials.a.scopes[0]` must be a string, not a list"),
        ("CREDENTIALS__A__QUOTA", "5", "`credentials.a.quota` must be a table such as"),
        ("SERVER__WORKERS", "70000", "`server.workers` must be a whole number from 0 to 65535"),
        ("SERVER__WATCH", "", "`server.watch` must be true or false, not a string"),
    ] {
        let (titles, _) = read(text, &[(&format!("BEARERD_{variable}"), value)]);
        let [only] = titles.as_slice() else { panic!("{variable}: {titles:?}") };
        assert!(only.starts_with(said), "{variable}: {only}");
    }
    for (variable, value) in [
        ("CREDENTIALS__A__CLIENT_SECRET", "4711"),
        ("CREDENTIALS__A__CLIENT_SECRET", "[1]"),
        ("CREDENTIALS__A__HTTP_VERSION", "1.1"),
        ("CREDENTIALS__A__REQUIRE_SCOPES", "true"),
        ("SERVER__LISTEN", "8080"),
        ("SERVER__STATE_DIR", "1979-05-27"),
    ] {
        let (titles, _) = read(text, &[(&format!("BEARERD_{variable}"), value)]);
        assert!(titles.is_empty(), "{variable}: {titles:?}");
    }
}

/// A key of the schema or an entry within its value: the steps from the root of the file.
type Steps = Vec<Step>;

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    First,
}

/// The path, as messages write it.
fn path_of(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => joined(&path, key),
        Step::First => path + "[0]",
    })
}

/// Puts a value at these steps, into new tables and lists where there are none.
fn put(root: &mut TomlValue, steps: &[Step], value: TomlValue) {
    let Some((step, rest)) = steps.split_first() else {
        *root = value;
        return;
    };
    let inner = match step {
        Step::Key(key) => {
            if !root.is_table() {
                *root = TomlValue::Table(TomlTable::new());
            }
            root.as_table_mut().unwrap().entry(key.clone()).or_insert(TomlValue::Boolean(false))
        }
        Step::First => {
            if !root.is_array() {
                *root = TomlValue::Array(vec![TomlValue::Boolean(false)]);
            }
            &mut root.as_array_mut().unwrap()[0]
        }
    };
    put(inner, rest, value);
}

/// The text of a value. The features of the crate leave this out.
fn written(value: &TomlValue) -> String {
    match value {
        TomlValue::String(text) => format!("{text:?}"),
        TomlValue::Integer(number) => number.to_string(),
        TomlValue::Float(number) => format!("{number:?}"),
        TomlValue::Boolean(is) => is.to_string(),
        TomlValue::Datetime(date) => date.to_string(),
        TomlValue::Array(list) => format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", ")),
        TomlValue::Table(table) => {
            let entries = table.iter().map(|(key, value)| format!("\"{key}\" = {}", written(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// The text of a file.
fn file(root: &TomlValue) -> String {
    let lines = root.as_table().unwrap().iter();
    lines.map(|(key, value)| format!("{key} = {}", written(value))).collect::<Vec<_>>().join("\n")
}

/// A date: no key has such a value. Each year is another one.
fn date(year: usize) -> TomlValue {
    TomlValue::Datetime(format!("{:04}-05-27", 1000 + year).parse().unwrap())
}

/// What the reader says about a value at these steps: the titles of the problems, and the unknown keys.
fn probe(steps: &[Step], value: TomlValue) -> (Vec<String>, Vec<UnknownKey>) {
    let mut root = TomlValue::Table(TomlTable::new());
    put(&mut root, steps, value);
    let text = file(&root);
    let sources = Sources::new(Path::new("proxy.toml"), text.clone());
    let mut reader = Reader::new(&sources, Vec::new());
    File::from_table(DeTable::parse(&text).unwrap().get_ref(), "", &mut reader);
    (reader.problems.into_iter().map(|problem| problem.title).collect(), reader.unknown)
}

/// Adds every key and entry within the value at these steps. The reader's own words tell what may be there.
fn add_keys(steps: &Steps, all: &mut Vec<Steps>) {
    let within = |step: Step| [steps.as_slice(), &[step]].concat();
    let path = path_of(steps);
    let odd = TomlTable::from_iter([("?".to_owned(), date(0))]);
    let (titles, unknown) = probe(steps, TomlValue::Table(odd));
    let mut inner = Vec::new();
    if let Some(table) = unknown.iter().find(|unknown| unknown.path == path) {
        inner.extend(table.known.iter().map(|key| within(Step::Key((*key).to_owned()))));
    } else if titles.iter().any(|title| title.starts_with(&format!("`{path}.?`"))) {
        // Free names, which two tables must not share.
        let name = match path.rsplit('.').next().unwrap() {
            "credentials" => "c".to_owned(),
            "request_fields" => "scope".to_owned(),
            table => format!("x-{}", table.replace('_', "-")),
        };
        inner.push(within(Step::Key(name)));
    }
    let (titles, _) = probe(steps, TomlValue::Array(vec![date(0)]));
    if steps.last() != Some(&Step::First) && titles.iter().any(|title| title.contains("[0]`")) {
        inner.push(within(Step::First));
    }
    for inner in inner {
        all.push(inner.clone());
        add_keys(&inner, all);
    }
}

/// Every key of the schema, and an entry of each list and each table with free names.
fn keys() -> &'static [Steps] {
    static KEYS: std::sync::OnceLock<Vec<Steps>> = std::sync::OnceLock::new();
    KEYS.get_or_init(all_keys)
}

fn all_keys() -> Vec<Steps> {
    let mut all = Vec::new();
    for key in File::KEYS {
        all.push(vec![Step::Key((*key).to_owned())]);
        add_keys(&vec![Step::Key((*key).to_owned())], &mut all);
    }
    let paths: Vec<String> = all.iter().map(|steps| path_of(steps)).collect();
    for path in [
        "server.limits.streams",
        "server.listen[0]",
        "admin.token.env",
        "credentials.c.assertion.claims.x-claims[0]",
        "credentials.c.assertion.key.file",
        "credentials.c.state_key_previous[0].env",
        "credentials.c.request_headers.x-request-headers.file",
        "credentials.c.require_scopes[0]",
        "routes[0].headers.set.x-set",
        "routes[0].breaker.failures",
        "routes[0].retry_on[0]",
    ] {
        assert!(paths.iter().any(|found| found == path), "{path} not in {paths:#?}");
    }
    all
}

/// A folder with the files that the configurations name.
fn folder() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let server = testkit::pki::Pki::new(&["localhost"]).unwrap();
            std::fs::write(folder.path().join("server.pem"), &server.server().certificate).unwrap();
            std::fs::write(folder.path().join("ca.pem"), server.authority_pem()).unwrap();
            std::fs::write(folder.path().join("server-key.pem"), &server.server().key).unwrap();
            let key = &crate::config::fixture::keys::p256().0[0];
            std::fs::write(folder.path().join("key.pem"), key).unwrap();
            folder
        })
        .path()
}

/// A configuration without problems in which a table with one of these keys is complete, and the table is used.
fn base(keys: &[&Steps]) -> TomlValue {
    let is_in = |part: &str| keys.iter().any(|steps| path_of(steps).contains(part));
    let mut text =
        "[credentials.c]\nclient_id = \"i\"\ntoken_url = \"https://as.example.com/t\"\n".to_owned();
    text += if is_in(".assertion.file") {
        "client_auth = \"private_key_jwt\"\n"
    } else if is_in(".assertion") {
        "client_auth = \"private_key_jwt\"\nassertion = { key = { file = \"key.pem\" }, alg = \"ES256\" }\n"
    } else {
        "client_secret = { env = \"SECRET\" }\n"
    };
    text += if is_in(".quota") { "quota = { requests = 10, per = \"60s\" }\n" } else { "" };
    text += if is_in(".api_quota") { "api_quota = { requests = 10, per = \"60s\" }\n" } else { "" };
    text += "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n";
    text += if is_in("pools.x-pools") { "[pools.x-pools]\ncredentials = [\"c\"]\n" } else { "" };
    text += if is_in("webhooks") { "[[webhooks]]\nurl = \"https://hooks.example.com\"\n" } else { "" };
    text += if is_in("shared") {
        "[shared]\nurl = \"rediss://redis\"\nkey = { env = \"SHARED_KEY\" }\n"
    } else {
        ""
    };
    text += if is_in("shared.sentinels") || is_in("shared.sentinel_master") {
        "sentinels = [\"sentinel:26379\"]\nsentinel_master = \"main\"\n"
    } else {
        ""
    };
    text +=
        if is_in("callers.x-callers") { "[callers.x-callers]\nnetworks = [\"10.0.0.0/8\"]\n" } else { "" };
    text += if is_in("callers.x-callers.quota") { "quota = { requests = 1, per = \"1s\" }\n" } else { "" };
    text += if is_in("server.tls") || is_in("callers") {
        "[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\nclient_ca = \"ca.pem\"\n"
    } else {
        ""
    };
    text += if is_in("admin.tls") {
        "[admin.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\nclient_ca = \"ca.pem\"\n"
    } else {
        ""
    };
    TomlValue::Table(toml::from_str(&text).unwrap())
}

/// The problems of a configuration: severity is left out.
fn problems(text: &str) -> Vec<Problem> {
    let environment = Environment::from([
        ("SECRET", "hunter2"),
        ("SHARED_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ]);
    let path: PathBuf = folder().join("proxy.toml");
    let checked = parse(&path, text.to_owned(), &environment);
    checked.map_or_else(|problems| *problems, |checked| checked.warnings).problems().to_vec()
}

/// Asserts that a date at each of these keys is reported once, under its name and in its place, and nothing else is.
fn assert_each_is_reported(keys: &[&Steps]) {
    let mut root = base(keys);
    for (index, steps) in keys.iter().enumerate() {
        put(&mut root, steps, date(index));
    }
    let text = file(&root);
    let found = problems(&text);
    let shown =
        || format!("{text}\n{:#?}", found.iter().map(|one| (&one.title, &one.place)).collect::<Vec<_>>());
    assert_eq!(found.len(), keys.len(), "{}", shown());
    for (index, steps) in keys.iter().enumerate() {
        let start = text.find(&date(index).to_string()).unwrap();
        let at_place: Vec<_> = found.iter().filter(|one| one.place == Some(start..start + 10)).collect();
        let [only] = at_place.as_slice() else { panic!("{}: {}", path_of(steps), shown()) };
        assert!(only.title.starts_with(&format!("`{}` must be ", path_of(steps))), "{}", shown());
    }
}

/// Also of a key that is added to the schema later.
#[test]
fn a_wrong_type_of_any_key_is_reported_once_and_in_its_place() {
    for steps in keys() {
        assert_each_is_reported(&[steps]);
    }
}

#[test]
fn wrong_types_of_all_keys_of_a_table_are_reported_at_once() {
    let keys = keys();
    for table in keys {
        let is_within = |steps: &&Steps| matches!(steps.split_last(), Some((Step::Key(_), table_of_key)) if table_of_key == table);
        let within: Vec<_> = keys.iter().filter(is_within).collect();
        if !within.is_empty() {
            assert_each_is_reported(&within);
        }
    }
}

/// Where an error is in the place of a value, the value is wrong: nothing else may be blamed for it.
#[test]
fn a_value_that_is_blamed_is_the_only_one() {
    for steps in keys() {
        let path = path_of(steps);
        for value in [
            "\"\"",
            "\"x\"",
            "\"*\"",
            "\"none\"",
            "\"0s\"",
            "\"9s\"",
            "\"/x\"",
            "\"https://x.test/?a#b\"",
            "0",
            "-1",
            "70000",
            "1.5",
            "true",
            "false",
            "[]",
            "[\"\"]",
            "{}",
        ] {
            let mut root = base(&[steps]);
            put(&mut root, steps, TomlValue::String("PLACE".to_owned()));
            let text = file(&root);
            let start = text.find("\"PLACE\"").unwrap();
            let text = text.replace("\"PLACE\"", value);
            let place = start..start + value.len();
            let errors: Vec<_> = problems(&text)
                .into_iter()
                .filter(|problem| problem.severity == crate::config::source::diagnostics::Severity::Error)
                .collect();
            let is_blamed = |problem: &&Problem| {
                let within = |at: &Range<usize>| place.start <= at.start && at.end <= place.end;
                problem.place.as_ref().is_some_and(within)
            };
            let blamed = errors.iter().filter(is_blamed).count();
            let said: Vec<_> = errors.iter().map(|problem| &problem.title).collect();
            assert!(blamed == 0 || errors.len() == blamed, "{path} = {value}: {said:#?}\n{text}");
        }
    }
}

/// Whether neither value is within the other, and no value is both a table and a list.
fn may_stand_beside(one: &[Step], other: &[Step]) -> bool {
    let different = one.iter().zip(other).find(|(one, other)| one != other);
    different.is_some_and(|(one, other)| *one != Step::First && *other != Step::First)
}

proptest! {
    #[test]
    fn wrong_types_of_any_keys_are_reported_each_once_and_nothing_else_is(picks in prop::collection::vec(any::<prop::sample::Index>(), 2..5)) {
        let keys = keys();
        let mut picked: Vec<&Steps> = Vec::new();
        for pick in picks {
            let steps = pick.get(keys);
            if picked.iter().all(|other| may_stand_beside(steps, other)) {
                picked.push(steps);
            }
        }
        assert_each_is_reported(&picked);
    }
}
