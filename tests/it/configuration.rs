//! `bearerd check` and `bearerd run` with good and bad configurations.

use crate::harness::{daemon, eventually, spawn};
use rustix::process::Signal;
use testkit::harness::world::assert_absent;

const GOOD: &str = "
[admin]
listen = \"127.0.0.1:0\"

[server]
listen = \"127.0.0.1:0\"

[credentials.cxone]
token_url = \"https://as.example.com/token\"
client_id = \"client\"
client_secret = { env = \"CXONE_SECRET\" }

[[routes]]
upstream = \"https://api.example.com\"
credential = \"cxone\"
";

/// Runs a command with this configuration; returns the exit code and the output.
async fn outcome(command: &str, config: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let environment = [("CXONE_SECRET".to_owned(), "hunter2hunter2".to_owned())];
    let mut process = spawn(&[command], &environment, folder.path());
    let status = process.ended().await;
    let output = process.output();
    assert_absent(&output, "hunter2hunter2");
    (status.code().unwrap(), output)
}

#[tokio::test]
async fn check_accepts_a_good_configuration() {
    let (code, output) = outcome("check", GOOD).await;

    assert_eq!(code, 0);
    assert_eq!(output, "proxy.toml: ok (1 route, 1 credential)\n");
}

/// `check` and `run` report each mistake with its place and its remedy.
#[tokio::test]
async fn a_configuration_error_is_shown_with_place_and_remedy_and_ends_with_78() {
    let mistakes = [
        (
            GOOD.replace("{ env = \"CXONE_SECRET\" }", "{ env = \"CXONE_SECERT\" }"),
            ["the environment variable CXONE_SECERT is not set", "proxy.toml:11:17"],
        ),
        (
            GOOD.replace("{ env = \"CXONE_SECRET\" }", "{ file = \"no/such/file\" }"),
            ["no/such/file", "No such file"],
        ),
        (
            GOOD.replace("client_id = \"client\"", "client_id = 5"),
            ["`credentials.cxone.client_id` must be a string", "proxy.toml:10:13"],
        ),
        (
            GOOD.replace("token_url", "token_ulr"),
            ["unknown key `token_ulr` in [credentials.cxone]", "did you mean `token_url`?"],
        ),
        (
            GOOD.replace("https://as.example.com", "http://as.example.com"),
            ["plain http:// would show the credential to the network", "proxy.toml:9:13"],
        ),
        (
            GOOD.replace("https://api.example.com", "http://api.example.com"),
            ["plain http:// would show the credential to the network", "proxy.toml:14:12"],
        ),
        (GOOD.to_owned() + "ca_file = \"no/such.pem\"\n", ["cannot read no/such.pem", "proxy.toml:16:11"]),
        (
            GOOD.replace("credential = \"cxone\"", "credential = \"cxnoe\""),
            ["there is no credential `cxnoe`", "cxone"],
        ),
        (GOOD.replace("[server]", "[server"), ["not TOML", "proxy.toml:5"]),
    ];
    for (config, expected) in mistakes {
        for command in ["check", "run"] {
            let (code, output) = outcome(command, &config).await;
            assert_eq!(code, 78, "{command}: {output}");
            for text in expected {
                assert!(output.contains(text), "{command}: no {text:?} in:\n{output}");
            }
            assert!(output.contains('^'), "{command}: no caret in:\n{output}");
        }
    }
}

#[tokio::test]
async fn an_https_upstream_without_certificate_authorities_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), GOOD).unwrap();
    let environment = [("CXONE_SECRET", "x"), ("SSL_CERT_FILE", "none.pem"), ("SSL_CERT_DIR", "none")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for command in ["check", "run"] {
        let mut process = spawn(&[command], &environment, folder.path());

        assert_eq!(process.ended().await.code(), Some(78), "{command}");
        assert!(process.output().contains("install them, or set ca_file"), "{}", process.output());
    }
}

/// Reading a pipe without a writer would block for ever.
#[tokio::test]
async fn a_secret_or_an_authority_in_a_pipe_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let secret = GOOD.replace("{ env = \"CXONE_SECRET\" }", "{ file = \"pipe\" }");
    std::fs::write(folder.path().join("proxy.toml"), secret + "ca_file = \"pipe\"\n").unwrap();
    for command in ["check", "run"] {
        let mut process = spawn(&[command], &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(78));
        let output = process.output();
        assert_eq!(output.matches("pipe: not a regular file").count(), 2, "{output}");
    }
}

/// As of `-c <(…)` and `-c /dev/stdin`.
#[tokio::test]
async fn a_configuration_is_read_once_from_a_pipe_and_a_reload_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let environment = [("CXONE_SECRET".to_owned(), "hunter2hunter2".to_owned())];
    let config = GOOD.replace("[server]", "[server]\nwatch = true");
    let start = async |command: &str| {
        let process = spawn(&[command, "-c", "pipe"], &environment, folder.path());
        let (pipe, config) = (pipe.clone(), config.clone());
        tokio::task::spawn_blocking(move || std::fs::write(pipe, config).unwrap()).await.unwrap();
        process
    };
    let mut process = start("check").await;
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());

    let mut process = start("run").await;
    eventually("it has started", async || !process.events("started").is_empty()).await;
    assert!(process.output().contains("`server.watch` has no effect"), "{}", process.output());
    process.signal(Signal::HUP);
    let refused = "configuration not reloaded, kept the last one";
    eventually("it answers", async || !process.events(refused).is_empty()).await;
    let problems = process.events(refused)[0]["problems"].to_string();
    assert!(problems.contains("pipe cannot be read again: it is not a regular file"), "{problems}");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());
}

#[tokio::test]
async fn a_configuration_without_an_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "run", "health"] {
        let mut process = spawn(&[command, "-c", "/dev/zero"], &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(78));
        let output = process.output();
        assert!(output.contains("cannot read /dev/zero: larger than 1 MiB"), "{output}");
    }
}

#[tokio::test]
async fn a_missing_configuration_file_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["check", "run"] {
        let mut process = spawn(&[command, "-c", "elsewhere.toml"], &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(78));
        assert!(process.output().contains("cannot read elsewhere.toml"), "{}", process.output());
    }
}

/// Where nothing is named and nothing is found, each command names the places, and how to begin.
#[tokio::test]
async fn without_any_configuration_the_places_and_a_beginning_are_named() {
    if std::path::Path::new("/etc/bearerd/proxy.toml").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["check"][..], &["run"], &["explain", "GET", "/x"], &["login", "a"], &["forget", "a"]]
    {
        let mut process = spawn(arguments, &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(78), "{arguments:?}");
        let output = process.output();
        for said in [
            "./proxy.toml",
            "/etc/bearerd/proxy.toml",
            "-c FILE",
            "BEARERD_CONFIG",
            "bearerd demo",
            "/docs/README.md",
        ] {
            assert!(output.contains(said), "{arguments:?} does not name {said}: {output}");
        }
        assert!(!output.lines().any(str::is_empty), "{output}");
    }
}

#[tokio::test]
async fn a_configuration_without_its_flag_is_told_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), GOOD).unwrap();
    for command in ["check", "run"] {
        let mut process = spawn(&[command, "proxy.toml"], &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(2));
        assert!(
            process.output().contains("tip: name the configuration with '-c proxy.toml'"),
            "{}",
            process.output()
        );
    }
}

#[tokio::test]
async fn problems_of_a_configuration_end_without_an_empty_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), "[server]\nlistne = 1\n").unwrap();
    for arguments in [&["run"][..], &["explain", "GET", "/x"], &["forget", "a"], &["login", "a"]] {
        let mut process = spawn(arguments, &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(78));
        let output = process.output();
        let before_the_address = output.split("  see https://").next().unwrap();
        assert!(before_the_address.contains("listne") && !before_the_address.ends_with("\n\n"), "{output}");
    }
}

/// An unset shell variable leaves an empty path, which is no file.
#[tokio::test]
async fn an_empty_path_of_the_configuration_is_reported_as_such() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), GOOD).unwrap();
    let empty = [("BEARERD_CONFIG".to_owned(), String::new()), ("CXONE_SECRET".to_owned(), "x".to_owned())];
    for command in ["check", "run", "health", "refresh", "login", "forget"] {
        let name = if matches!(command, "refresh" | "login" | "forget") { &["cxone"][..] } else { &[] };
        let mut process = spawn(&[&[command], name].concat(), &empty, folder.path());
        assert_eq!(process.ended().await.code(), Some(78), "{command}: {}", process.output());
        let output = process.output();
        assert!(output.contains("the environment variable BEARERD_CONFIG is empty"), "{command}: {output}");

        let blank = [("BEARERD_CONFIG".to_owned(), " \t".to_owned()), empty[1].clone()];
        let mut process = spawn(&[&[command], name].concat(), &blank, folder.path());
        assert_eq!(process.ended().await.code(), Some(78), "{command}: {}", process.output());
        let output = process.output();
        assert!(output.contains("BEARERD_CONFIG holds only blanks"), "{command}: {output}");

        for (path, said) in [("", "the path is empty"), (" \t", "the path holds only blanks")] {
            let mut process = spawn(&[&[command, "-c", path], name].concat(), &empty[1..], folder.path());
            assert_eq!(process.ended().await.code(), Some(2), "{command}: {}", process.output());
            assert!(process.output().contains(said), "{command}: {}", process.output());
        }
    }
    let mut process = spawn(&["check", "-c", "proxy.toml"], &empty, folder.path());
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());
}

#[tokio::test]
async fn check_and_run_name_the_format_of_a_file_that_is_not_toml() {
    for command in ["check", "run"] {
        let (code, output) =
            outcome(command, "server:\n  listen: 127.0.0.1:0\nsecret: hunter2hunter2\n").await;
        assert_eq!(code, 78);
        assert!(output.contains("error: proxy.toml is YAML, not TOML\n"), "{output}");
        assert!(output.contains("help: write a section as [server]"), "{output}");
    }
}

/// A shell's `env = "NAME=value"` would put the secret into each message about the variable.
#[tokio::test]
async fn a_secret_beside_the_name_of_its_variable_is_shown_nowhere() {
    for env in ["CXONE_SECRET=hunter2hunter2", "export CXONE_SECRET=hunter2hunter2", "hunter2hunter2 "] {
        let config = GOOD.replace("env = \"CXONE_SECRET\"", &format!("env = \"{env}\""));
        for command in ["check", "run"] {
            let (code, output) = outcome(command, &config).await;
            assert_eq!(code, 78, "{output}");
            assert!(
                output.contains("`credentials.cxone.client_secret` has") && output.contains('^'),
                "{output}"
            );
        }
    }
}

#[tokio::test]
async fn a_variable_that_is_not_text_is_reported() {
    use std::os::unix::ffi::OsStrExt;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), GOOD).unwrap();
    let not_text = std::ffi::OsStr::from_bytes(b"hunter2\xff");
    for (variable, said) in [
        ("CXONE_SECRET", "error: the environment variable CXONE_SECRET is not UTF-8"),
        ("BEARERD_SERVER__DRAIN", "error: the environment variable BEARERD_SERVER__DRAIN is not UTF-8"),
        ("HTTPS_PROXY", "error: HTTPS_PROXY in the environment is not UTF-8"),
        ("RUST_LOG", "warning: RUST_LOG holds no log levels"),
        ("BEARERD_CONFIG", "bearerd: the environment variable BEARERD_CONFIG is not UTF-8"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_bearerd"))
            .arg("check")
            .current_dir(folder.path())
            .env_clear()
            .env("CXONE_SECRET", "x")
            .env(variable, not_text)
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        let code = if variable == "RUST_LOG" { 0 } else { 78 };
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert!(shown.contains(said) && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code) in
        [(vec!["serve"], 2), (vec!["run", "--no-such-flag"], 2), (vec!["--help"], 0), (vec!["--version"], 0)]
    {
        let mut process = spawn(&arguments, &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(code), "{arguments:?}: {}", process.output());
    }
}

#[tokio::test]
async fn output_to_a_closed_pipe_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("proxy.toml"), GOOD).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bearerd"))
        .args(["check"])
        .current_dir(folder.path())
        .env_clear()
        .env("CXONE_SECRET", "x")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());

    let output = child.wait_with_output().await.unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn a_warning_in_the_log_has_its_place_in_the_file() {
    let world = daemon()
        .credential("client_secret_next = \"another-secret\"")
        .environment("BEARERD_SERVER_DRAIN", "1s")
        .start()
        .await;
    let place =
        |message: &str| world.process.events(message)[0]["place"].as_str().unwrap_or_default().to_owned();

    let written = place("configuration: a secret stands in the configuration itself");
    assert!(written.starts_with("proxy.toml:"), "{written}");
    let variable = place("configuration: BEARERD_SERVER_DRAIN overrides nothing");
    assert_eq!(variable, "BEARERD_SERVER_DRAIN");
    world.finish().await;
}

#[tokio::test]
async fn the_environment_overrides_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("other.toml"), GOOD).unwrap();
    let environment = [
        ("CXONE_SECRET", "x"),
        ("BEARERD_CONFIG", "other.toml"),
        ("BEARERD_SERVER__DRAIN", "soon"),
        ("BEARERD_PORT", "tcp://10.0.0.1:8080"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut process = spawn(&["check"], &environment, folder.path());

    assert_eq!(process.ended().await.code(), Some(78));
    let output = process.output();
    assert!(output.contains("BEARERD_SERVER__DRAIN") && output.contains("not a duration"), "{output}");
    assert!(!output.contains("BEARERD_PORT"), "{output}");
}
