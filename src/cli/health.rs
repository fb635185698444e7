//! `bearerd health`: the health check of a container.

use std::time::Duration;

use tokio::time::Instant;

use super::admin::{AdminAddress, AdminClient, AdminError, Answer};
use super::argument::duration;
use super::exit_code::{FAILED, OK};
use super::output;
use crate::config::Environment;

#[derive(Debug, clap::Args)]
pub(super) struct Health {
    #[command(flatten)]
    address: AdminAddress,
    /// Check readiness instead of liveness
    #[arg(long)]
    ready: bool,
    /// Keep asking until the check holds, at most for this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

const TIMEOUT: Duration = Duration::from_secs(3);
/// The pause between two checks of `--wait`.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn health(health: Health, environment: &Environment) -> u8 {
    let path = if health.ready { "/readyz?verbose" } else { "/livez" };
    let client = match AdminClient::new(health.address, environment) {
        Ok(client) => client,
        Err(error) => return error.report(environment),
    };
    let answer = match health.wait {
        Some(wait) => repeated(&client, path, wait).await,
        None => client.get(path, TIMEOUT).await,
    };
    match answer {
        Ok(answer) if !is_ours(&answer.text) => client.not_an_admin_address(&answer),
        Ok(answer) => {
            output::line(answer.text.trim_end());
            if answer.is_success() { OK } else { FAILED }
        }
        Err(error) => error.report(environment),
    }
}

/// Asks until the check holds, and returns the last answer. A daemon that does not answer may be one that starts.
async fn repeated(client: &AdminClient, path: &str, wait: Duration) -> Result<Answer, AdminError> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = client.get(path, TIMEOUT.min(left.max(PAUSE))).await;
        let holds = answer.as_ref().is_ok_and(|answer| answer.is_success() && is_ours(&answer.text));
        if holds || Instant::now() + PAUSE >= deadline {
            return answer;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a body is one of `/livez` or `/readyz?verbose`. A proxy address that is named by mistake answers as its
/// upstream does, possibly with 200.
fn is_ours(text: &str) -> bool {
    let is_known = |line: &str| {
        line == "ok" || line.starts_with("[+] ") || line.starts_with("[-] ") || line.starts_with("[ ] ")
    };
    !text.is_empty() && text.lines().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_responses_of_bearerd_count_as_health() {
        assert!(is_ours("ok\n"));
        assert!(is_ours("[+] accepting connections\n[ ] credential a has no token\n[-] b\n"));
        for other in ["", "OK", "{\"ok\":true}", "<html>", "ok\n<html>", "[]"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
