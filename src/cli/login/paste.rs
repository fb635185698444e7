//! The address of the browser's last page, pasted into the terminal.

use std::io::{BufRead, Read};

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

/// The lines of standard input. A read cannot be cancelled, so a thread reads until the process ends.
pub(super) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            let is_over = read.is_ok_and(|bytes| bytes == 0) || line.is_empty();
            let line = String::from_utf8_lossy(&line).into_owned();
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
