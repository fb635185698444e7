//! `bearerd health`: for a container's health check.

use std::time::Duration;

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
    let base = match health.admin {
        Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
        Some(address) => format!("http://{address}"),
        None => format!("http://{}", config::admin_address(health.file.path, environment)),
    };
    let path = if health.ready { "/readyz?verbose" } else { "/livez" };
    #[expect(clippy::disallowed_methods, reason = "asks our own admin address, and holds no secret")]
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build();
    let response = match client {
        Ok(client) => client.get(format!("{base}{path}")).send().await,
        Err(error) => Err(error),
    };
    match response {
        Ok(response) => {
            let is_well = response.status().is_success();
            output::line(response.text().await.unwrap_or_default().trim_end());
            if is_well { OK } else { FAILED }
        }
        Err(error) => {
            output::error_line(format_args!("bearerd: {base} does not answer: {}", in_one_line(&error)));
            UNAVAILABLE
        }
    }
}
