//! `bearerd health`: for a container's health check.

use std::time::Duration;

use super::admin::{AdminAddress, AdminClient};
use super::{FAILED, OK, UNAVAILABLE, output};
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
