//! The address of the browser's last page, pasted into the terminal.

use std::io::{BufRead, Read};

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use secrecy::SecretString;
use tokio::sync::mpsc;
use url::Url;

use crate::token::login::authorization::{Attempt, CallbackError};

/// The longest line that is read; addresses are shorter.
const MAX_LINE_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) enum Pasted {
    Empty,
    /// Something else, with the reason; the login continues to wait.
    Unrelated(String),
    /// The authorization response.
    Answer(Result<SecretString, CallbackError>),
}

/// A terminal that passes lines of any length on, until this is dropped. By default a terminal cuts lines after 4,095
/// bytes (1,023 on macOS), and an address may be longer.
#[derive(Debug)]
pub(super) struct LongLines {
    before: Termios,
}

impl LongLines {
    /// Sets the terminal on standard input; `None` if there is no terminal, or if another process group has it.
    pub(super) fn set() -> Option<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(&input).ok()?;
        // A process in the background would be stopped. An error means that this is another session's terminal.
        if tcgetpgrp(&input).is_ok_and(|group| group != getpgrp()) {
            return None;
        }
        let mut without_limit = before.clone();
        without_limit.local_modes.remove(LocalModes::ICANON);
        without_limit.special_codes[SpecialCodeIndex::VMIN] = 1;
        without_limit.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&input, OptionalActions::Now, &without_limit).ok()?;
        Some(Self { before })
    }
}

impl Drop for LongLines {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// A line as it was meant: without the characters that the keys Backspace and Ctrl-U delete. A terminal with
/// [`LongLines`] passes these keys on.
fn edited(line: &[u8]) -> Vec<u8> {
    const BACKSPACE: [u8; 2] = [0x08, 0x7f];
    const KILL: u8 = 0x15;
    let mut edited = Vec::with_capacity(line.len());
    for byte in line {
        match byte {
            byte if BACKSPACE.contains(byte) => drop(edited.pop()),
            &KILL => edited.clear(),
            byte => edited.push(*byte),
        }
    }
    edited
}

/// The lines of standard input. A read cannot be cancelled, so a thread reads until the process ends.
pub(super) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            let is_over = read.is_ok_and(|bytes| bytes == 0) || line.is_empty();
            let line = String::from_utf8_lossy(&edited(&line)).into_owned();
            if is_over || sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    drop(reading);
    receiver
}

/// Interprets a line as the authorization response of this attempt.
pub(super) fn read(line: &str, attempt: &Attempt) -> Pasted {
    let line = line.trim();
    if line.is_empty() {
        return Pasted::Empty;
    }
    let redirect_uri = attempt.redirect_uri();
    let address = Url::parse(line).ok();
    let Some(query) = address.as_ref().and_then(|address| redirect_uri.query_of(address)) else {
        return Pasted::Unrelated(format!("the address must begin with {}", redirect_uri.as_str()));
    };
    match attempt.answer(query) {
        Err(why) if why.may_come() => Pasted::Unrelated(why.to_string()),
        outcome => Pasted::Answer(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::login::authorization::ExpectedIssuer;

    fn attempt() -> Attempt {
        let lines = "grant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"\nstate_file = \"s\"\n\
                     state_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"";
        let config = fixture::config("", lines, "x");
        let credential = &config.credentials[0];
        let redirect_uri = credential.login.as_ref().unwrap().redirect_uri.clone();
        Attempt::new(credential, redirect_uri, ExpectedIssuer::default())
    }

    #[test]
    fn a_line_is_edited_by_its_keys() {
        for (typed, meant) in [
            (&b"http://a\n"[..], &b"http://a\n"[..]),
            (b"htp\x7ftp\x08\x08\x08ttp\n", b"http\n"),
            (b"\x7f\x7fa\n", b"a\n"),
            (b"wrong\x15right\n", b"right\n"),
        ] {
            assert_eq!(edited(typed), meant);
        }
    }

    #[test]
    fn an_unrelated_line_is_refused_and_not_quoted() {
        let attempt = attempt();
        for line in [
            "hunter2",
            "https://as.test/a?code=hunter2",
            "http://127.0.0.1:8400/callback?code=hunter2&state=x",
        ] {
            match read(line, &attempt) {
                Pasted::Unrelated(why) => assert!(!why.contains("hunter2"), "{why}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert!(matches!(read(" \r\n", &attempt), Pasted::Empty));
    }
}
