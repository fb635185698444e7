//! `bearerd keygen`.

use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

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
fn the_help_of_keygen_names_the_configuration_key() {
    let help = String::from_utf8(keygen(&["--help"], Stdio::piped()).stdout).unwrap();

    assert!(help.contains("state_key = { file ="), "{help}");
    assert!(help.contains("umask 077"), "{help}");
}

#[test]
fn a_key_that_could_not_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = keygen(&[], Stdio::from(full));

    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the key was not written"), "{said}");
}
