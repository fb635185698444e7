//! Commands that need no configuration, and `bearerd health --wait`.

use std::process::{Command, Output};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::harness::{BEARERD, daemon, spawn};

/// Runs the binary without environment.
fn bearerd(arguments: &[&str]) -> Output {
    Command::new(BEARERD).args(arguments).env_clear().output().unwrap()
}

/// The output of a command that succeeds and says nothing else.
fn printed(arguments: &[&str]) -> String {
    let output = bearerd(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const COMMANDS: [&str; 5] = ["run", "check", "health", "login", "completions"];

#[test]
fn the_version_names_the_commit() {
    let version = printed(&["--version"]);
    assert!(version.starts_with(&format!("bearerd {} (commit ", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.ends_with(")\n"), "{version}");
    assert!(printed(&["run", "--version"]).contains("(commit "));
}

#[test]
fn every_shell_has_a_completion_script_with_all_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let wrong = bearerd(&["completions", "cmd"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn bash_accepts_its_completion_script_and_completes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("bearerd.bash");
    std::fs::write(&script, printed(&["completions", "bash"])).unwrap();
    let test = "source \"$1\" && COMP_WORDS=(bearerd hea) COMP_CWORD=1 && _bearerd bearerd hea bearerd && \
                echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", test, "bash"]).arg(&script).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "health\n");
}

/// The headings of a manual page, in their order.
fn headings(page: &str) -> Vec<&str> {
    let headings = page.lines().filter_map(|line| line.strip_prefix(".SH "));
    headings.map(|heading| heading.trim_matches('"')).collect()
}

#[test]
fn the_manual_page_has_the_usual_sections_and_each_command() {
    let page = printed(&["man"]);

    let found = headings(&page);
    let mut at = 0;
    for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "FILES"] {
        let place = found[at..].iter().position(|one| *one == heading);
        at += place.unwrap_or_else(|| panic!("{heading} in {found:?}"));
    }
    for command in COMMANDS {
        let heading = format!("BEARERD {}", command.to_uppercase());
        assert!(found.contains(&heading.as_str()), "{heading} in {found:?}");
    }
    assert!(page.contains("BEARERD_CONFIG") && page.contains("/etc/bearerd/proxy.toml"), "{page}");
    assert!(page.lines().any(|line| line.starts_with(".TH bearerd 1")), "{page}");
}

#[test]
fn each_command_has_a_manual_page_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    printed(&["man", "--out", out.to_str().unwrap()]);

    let mut names: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.contains(&"bearerd-check.1".to_owned()), "{names:?}");
    assert!(names.contains(&"bearerd.1".to_owned()) && names.len() > 10, "{names:?}");
    for name in names {
        let page = std::fs::read_to_string(out.join(&name)).unwrap();
        let found = headings(&page);
        for heading in ["NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES"] {
            assert!(found.contains(&heading), "{name}: {heading} in {found:?}");
        }
        assert!(page.is_ascii() || !page.contains('\u{1b}'), "{name}");
    }

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let failed = bearerd(&["man", "--out", file.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
}

/// Answers each connection with the next of these responses, and the last one again and again.
async fn admin_address(listener: TcpListener, responses: Vec<&'static str>) {
    let mut responses = responses.into_iter().peekable();
    while let Some(response) = responses.peek().copied() {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(response.as_bytes()).await;
        if responses.len() > 1 {
            responses.next();
        }
    }
}

const NOT_READY: &str =
    "HTTP/1.1 503 x\r\ncontent-length: 35\r\nconnection: close\r\n\r\n[-] credential api has no token yet\n";
const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";

#[tokio::test]
async fn health_waits_for_a_daemon_that_starts_and_becomes_ready() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let admin = address.to_string();
    let arguments = ["health", "--ready", "--wait", "20s", "--admin", &admin];
    let mut waiting = spawn(&arguments, &[], folder.path());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(waiting.output().is_empty(), "a refused connection counts as not yet");

    let listener = TcpListener::bind(address).await.unwrap();
    let serving = tokio::spawn(admin_address(listener, vec![NOT_READY, NOT_READY, READY]));
    let status = waiting.ended().await;

    assert_eq!((status.code(), waiting.output().as_str()), (Some(0), "ok\n"));
    serving.abort();
}

#[tokio::test]
async fn health_that_never_holds_ends_after_the_wait_with_the_last_answer() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = listener.local_addr().unwrap().to_string();
    let arguments = ["health", "--ready", "--wait", "1s", "--admin", &admin];
    let serving = tokio::spawn(admin_address(listener, vec![NOT_READY]));
    let began = Instant::now();
    let mut process = spawn(&arguments, &[], folder.path());
    let status = process.ended().await;
    let took = began.elapsed();
    assert_eq!(status.code(), Some(1));
    assert!(process.output().contains("[-] credential api"), "{}", process.output());
    assert!((Duration::from_millis(500)..Duration::from_secs(10)).contains(&took), "{took:?}");
    serving.abort();
    let _ = serving.await;

    let mut process = spawn(&arguments, &[], folder.path());
    assert_eq!(process.ended().await.code(), Some(69), "{}", process.output());
    let mut wrong = spawn(&["health", "--wait", "soon"], &[], folder.path());
    assert_eq!(wrong.ended().await.code(), Some(2), "{}", wrong.output());
}

#[tokio::test]
async fn health_with_a_wait_returns_at_once_if_the_daemon_is_ready() {
    let world = daemon().quiet().start().await;
    let folder = tempfile::tempdir().unwrap();
    let admin = world.admin.to_string();
    for arguments in [&["health", "--wait", "1m", "--admin", &admin][..], &["health", "--admin", &admin]] {
        let mut process = spawn(arguments, &[], folder.path());
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.output());
    }
    world.finish().await;
}

/// The page of commands has every command, and none that does not exist.
#[tokio::test]
async fn the_page_of_commands_has_every_command() {
    let page = include_str!("../../docs/operate/commands.md");
    let folder = tempfile::tempdir().unwrap();
    let mut help = spawn(&["--help"], &[], folder.path());
    assert_eq!(help.ended().await.code(), Some(0));
    let text = help.output();
    let (_, commands) = text.split_once("Commands:\n").unwrap();
    let names = commands.lines().take_while(|line| line.starts_with("  "));
    let names: std::collections::BTreeSet<&str> =
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() > 10, "{text}");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### bearerd "));
    let documented = headings.filter_map(|heading| heading.split(' ').next()).collect();
    assert_eq!(names, documented);
}

/// The error of a command that gets no answer names the address, where it comes from, and what to do.
#[tokio::test]
async fn a_command_without_a_daemon_names_the_address_its_origin_and_a_remedy() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let url = format!("http://{free}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), format!("[admin]\nlisten = \"{free}\"\n")).unwrap();
    std::fs::write(folder.path().join("none.toml"), "").unwrap();
    let variable = [("BEARERD_ADMIN__LISTEN".to_owned(), free.clone())];
    let default = "http://127.0.0.1:9090";
    let mut cases = vec![
        (vec!["--admin", &free], &[][..], &*url, "that of --admin: start the daemon, or check the address"),
        (
            vec!["-c", "own.toml"],
            &[],
            &url,
            "`admin.listen` of own.toml: start the daemon with `bearerd run`",
        ),
        (
            vec!["-c", "none.toml"],
            &variable,
            &url,
            "that of the environment variable BEARERD_ADMIN__LISTEN: ",
        ),
    ];
    // A daemon of this machine may be at the default address.
    if std::net::TcpStream::connect("127.0.0.1:9090").is_err() {
        cases.push((
            vec!["-c", "none.toml"],
            &[],
            default,
            "the default, since none.toml does not set `admin.listen`: ",
        ));
        if !std::path::Path::new("/etc/bearerd/proxy.toml").exists() {
            cases.push((
                vec![],
                &[],
                default,
                "the default, since there is neither ./proxy.toml nor /etc/bearerd",
            ));
        }
    }
    for (arguments, environment, base, origin) in cases {
        for command in [&["status"][..], &["health"], &["refresh", "api"], &["status", "--watch"]] {
            let mut process = spawn(&[command, &arguments].concat(), environment, folder.path());
            assert_eq!(process.ended().await.code(), Some(69), "{}", process.output());
            let output = process.output();
            let first = format!("bearerd: {base} does not answer: Connection refused (os error 111)\n");
            assert!(output.starts_with(&first), "{output}");
            assert!(output.contains(&format!("  help: the address is {origin}")), "{output}");
            assert!(output.contains("`bearerd demo` prints"), "{output}");
        }
    }
}
