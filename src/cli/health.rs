//! `bearerd health`: for a container's health check.

use std::time::Duration;

use super::admin_client::{AdminClient, Answer};
use super::{ConfigFile, FAILED, OK, UNAVAILABLE, output};
use crate::causes::in_one_line;
use crate::config::{self, Environment};

/// What to ask, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Health {
    #[command(flatten)]
    file: ConfigFile,
    /// The admin address [default: admin.listen of the configuration]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Ask whether it is ready instead
    #[arg(long)]
    ready: bool,
}

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn health(health: Health, environment: &Environment) -> u8 {
    let configured = config::admin_address(health.file.path, environment);
    let path = if health.ready { "/readyz?verbose" } else { "/livez" };
    let client = AdminClient::new(health.admin.as_deref(), configured);
    match client.get(path, TIMEOUT).await {
        Ok(Answer { status, body }) => {
            output::line(body.trim_end());
            if status.is_success() { OK } else { FAILED }
        }
        Err(error) => {
            output::error_line(format_args!("bearerd: {error}: {}", in_one_line(&error.source)));
            UNAVAILABLE
        }
    }
}
