//! `bearerd health`: for a container's health check.

use std::time::Duration;

use super::admin::{AdminAddress, AdminClient};
use super::exit_code::{FAILED, OK, UNAVAILABLE};
use super::output;
use crate::causes::in_one_line;
use crate::config::Environment;

/// What to ask, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Health {
    #[command(flatten)]
    address: AdminAddress,
    /// Ask whether it is ready instead
    #[arg(long)]
    ready: bool,
}

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn health(health: Health, environment: &Environment) -> u8 {
    let path = if health.ready { "/readyz?verbose" } else { "/livez" };
    let answer = match AdminClient::new(health.address, environment) {
        Ok(client) => client.get(path, TIMEOUT).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) if !is_ours(&answer.text) => {
            output::error_line(format_args!(
                "bearerd: what answered with {} is no admin address of bearerd; --admin says where it is",
                answer.status
            ));
            FAILED
        }
        Ok(answer) => {
            output::line(answer.text.trim_end());
            if answer.is_success() { OK } else { FAILED }
        }
        Err(error) => {
            output::error_line(format_args!("bearerd: {}", in_one_line(&error)));
            UNAVAILABLE
        }
    }
}

/// Whether this is what `/livez` and `/readyz?verbose` answer. A proxy address asked by mistake answers as its upstream
/// does, which may well be with 200.
fn is_ours(text: &str) -> bool {
    let is_one = |line: &str| {
        line == "ok" || line.starts_with("[+] ") || line.starts_with("[-] ") || line.starts_with("[ ] ")
    };
    !text.is_empty() && text.lines().all(is_one)
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_a_daemons_own_words_are_taken_for_its_health() {
        assert!(is_ours("ok\n"));
        assert!(is_ours("[+] accepting connections\n[ ] credential a has no token\n[-] b\n"));
        for other in ["", "OK", "{\"ok\":true}", "<html>", "ok\n<html>", "[]"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
