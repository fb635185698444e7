//! Rules for this project's own files that no compiler checks.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// A file's production code: the lines above its tests.
fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap()
}

/// All files below a folder except files of tests.
pub(crate) fn production_sources(folder: &str) -> impl Iterator<Item = (PathBuf, String)> {
    sources(folder).into_iter().filter(|(path, _)| !path.ends_with("tests.rs"))
}

#[test]
fn every_file_begins_with_module_docs() {
    for (path, text) in ["src", "testkit", "tests"].into_iter().flat_map(sources) {
        assert!(text.starts_with("//! "), "{} has no module docs", path.display());
    }
}

#[test]
fn no_file_has_more_than_420_lines_of_production_code() {
    for (path, text) in production_sources("src") {
        let lines = production(&text).lines().count();
        assert!(lines <= 420, "{} has {lines} lines of production code", path.display());
    }
}

#[test]
fn no_file_has_a_name_without_a_purpose() {
    for (path, _) in sources("src") {
        for part in path.iter().filter_map(|part| part.to_str()) {
            let name = part.trim_end_matches(".rs");
            let empty = ["util", "utils", "common", "helper", "helpers", "manager", "misc", "shared", "core"];
            assert!(!empty.contains(&name), "{}", path.display());
        }
    }
}

/// The folders whose tests have names of a bounded length.
const NAMED_IN: [&str; 2] = ["tests", "testkit"];

#[test]
fn no_test_has_a_name_of_more_than_80_characters() {
    for (path, text) in NAMED_IN.into_iter().flat_map(sources) {
        for name in test_names(&text) {
            assert!(name.len() <= 80, "{}: {} characters: {name}", path.display(), name.len());
        }
    }
}

/// The names of all tests below a folder.
pub(crate) fn test_names_in(folder: &str) -> Vec<String> {
    let names = |text: &String| test_names(text).map(str::to_owned).collect::<Vec<_>>();
    sources(folder).iter().flat_map(|(_, text)| names(text)).collect()
}

/// The names of the functions with a test attribute.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    let attributes = ["#[test]\n", "#[tokio::test]\n", "#[tokio::test("];
    attributes.into_iter().flat_map(|attribute| text.split(attribute).skip(1)).filter_map(|rest| {
        let (_, declaration) = rest.split_once("fn ")?;
        declaration.split('(').next()
    })
}

/// `app`, `cli` and `demo` may use every module; each other module uses the modules below it.
#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 22] = [
        ("backoff", &[]),
        ("blocking", &[]),
        ("causes", &[]),
        ("clock", &[]),
        ("documentation", &[]),
        ("http", &["clock", "config", "documentation"]),
        ("judged_as", &[]),
        ("lifecycle", &[]),
        ("network", &[]),
        ("peer_text", &[]),
        ("unix_socket", &[]),
        ("config", &["config"]),
        ("systemd", &["config", "telemetry"]),
        ("tls", &["blocking", "causes", "config", "peer_text", "tls"]),
        ("telemetry", &["clock", "config", "telemetry"]),
        (
            "token",
            &[
                "backoff",
                "blocking",
                "causes",
                "clock",
                "config",
                "http",
                "judged_as",
                "network",
                "peer_text",
                "shared_request",
                "telemetry",
                "tls",
                "token",
            ],
        ),
        (
            "proxy",
            &[
                "backoff",
                "causes",
                "clock",
                "config",
                "http",
                "lifecycle",
                "network",
                "proxy",
                "systemd",
                "telemetry",
                "tls",
                "token",
                "unix_socket",
            ],
        ),
        (
            "admin",
            &[
                "admin",
                "blocking",
                "causes",
                "config",
                "http",
                "judged_as",
                "lifecycle",
                "network",
                "reload",
                "shared_request",
                "clock",
                "documentation",
                "telemetry",
                "tls",
                "token",
                "unix_socket",
                "version",
            ],
        ),
        (
            "webhooks",
            &["causes", "clock", "config", "http", "network", "peer_text", "telemetry", "tls", "webhooks"],
        ),
        ("reload", &["shared_request"]),
        ("shared_request", &[]),
        ("demo", &["app", "config", "demo", "systemd"]),
    ];
    for (path, text) in production_sources("src") {
        let module = path.iter().nth(1).and_then(|part| part.to_str()).unwrap().trim_end_matches(".rs");
        let Some((_, allowed)) = allowed.iter().find(|(name, _)| *name == module) else { continue };
        for line in production(&text).lines() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                assert!(allowed.contains(&used.as_str()), "{} uses {used}: {line}", path.display());
            }
        }
    }
}

/// The request loop takes no lock, and the store has one writer.
#[test]
fn the_absences_of_the_architecture_hold() {
    for (path, text) in production_sources("src/proxy") {
        for lock in ["Mutex", "RwLock", "Condvar", "parking_lot"] {
            assert!(!production(&text).contains(lock), "{} takes a lock: {lock}", path.display());
        }
    }
    for (path, text) in sources("src") {
        let writes = production(&text).contains(".publish(");
        let is_refresher = path.starts_with("src/token/refresher");
        assert!(!writes || is_refresher, "{} writes the store", path.display());
        assert!(!text.contains("#[allow("), "{}: use #[expect(…, reason = …)]", path.display());
        assert!(!text.contains("#[ignore"), "{} has a test that does not run", path.display());
    }
}

/// Every path that ARCHITECTURE.md names, such as `proxy/route/guard.rs` or `token/limiter/`, with `{a,b}` for two files.
#[test]
fn the_paths_of_the_architecture_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let paths: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('/') && !name.contains(' ') && !name.starts_with("tests/"))
        .collect();
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        let path = path.strip_prefix("src/").unwrap_or(path);
        let alternatives = match (path.split_once('{'), path.split_once('}')) {
            (Some((before, _)), Some((_, after))) => {
                let names = &path[before.len() + 1..path.len() - after.len() - 1];
                names.split(',').map(|name| format!("{before}{name}{after}")).collect()
            }
            _ => vec![path.to_owned()],
        };
        for file in alternatives {
            assert!(root().join("src").join(&file).exists(), "ARCHITECTURE.md names {file}");
        }
    }
}
