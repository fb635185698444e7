//! `bearerd keygen`, and output that cannot be written.

use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

fn keygen(arguments: &[&str], out: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    command.arg("keygen").args(arguments).env_clear().stdout(out).output().unwrap()
}

#[test]
fn keygen_prints_a_different_key_of_32_bytes_each_time() {
    let keys = [(); 2].map(|()| {
        let output = keygen(&[], Stdio::piped());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    });

    for key in &keys {
        let key = key.strip_suffix('\n').unwrap();
        assert_eq!(STANDARD.decode(key).unwrap().len(), 32);
    }
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn keygen_prints_the_key_of_a_caller_and_its_hash() {
    let keys = [(); 2].map(|()| {
        let output = keygen(&["--caller"], Stdio::piped());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (key, hash) = text.strip_suffix('\n').unwrap().split_once('\n').unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(key).unwrap().len(), 32);
        assert_eq!(hash, bearerd::config::KeyHash::of(key.as_bytes()).to_string());
        key.to_owned()
    });
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn the_help_of_keygen_names_the_configuration_key() {
    let help = String::from_utf8(keygen(&["--help"], Stdio::piped()).stdout).unwrap();

    assert!(help.contains("state_key = { file ="), "{help}");
    assert!(help.contains("umask 077"), "{help}");
}

/// A disk that is full fails the command; a reader that has left does not.
#[test]
fn output_that_cannot_be_written_is_a_failure_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[credentials.a]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"i\"\nclient_secret = \"s\"\n\
                [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a\"\n";
    std::fs::write(folder.path().join("proxy.toml"), text).unwrap();
    let run = |arguments: &[&str], out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
        command.args(arguments).env_clear().current_dir(folder.path()).stdout(out).output().unwrap()
    };
    for arguments in [
        &["keygen"][..],
        &["check"],
        &["--help"],
        &["--version"],
        &["keygen", "--help"],
        &["completions", "bash"],
        &["man"],
        &["schema"],
        &["check", "--print"],
        &["explain", "GET", "/"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(arguments, Stdio::from(full));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the output was not written: No space left on device"), "{said}");

        let (reading, writing) = std::io::pipe().unwrap();
        drop(reading);
        let output = run(arguments, Stdio::from(writing));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("not written"), "{output:?}");
    }
}
