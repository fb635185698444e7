//! `bearerd refresh`: makes a running daemon request a new token.

use std::time::Duration;

use http::Method;

use super::admin::{AdminAddress, AdminClient, path_of};
use super::exit_code::{FAILED, OK};
use super::output;
use crate::config::Environment;

#[derive(Debug, clap::Args)]
pub(super) struct Refresh {
    /// Name of the credential in the configuration
    credential: String,
    #[command(flatten)]
    address: AdminAddress,
}

/// Longer than the daemon takes to answer.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) async fn refresh(refresh: Refresh, environment: &Environment) -> u8 {
    let path = path_of(&refresh.credential, "/refresh");
    let mut client = match AdminClient::new(refresh.address, environment) {
        Ok(client) => client,
        Err(error) => return error.report(environment),
    };
    let answer = match client.operate(Method::POST, &path, None, TIMEOUT).await {
        Ok(answer) => answer,
        Err(error) => return error.report(environment),
    };
    match answer.detail() {
        Some(detail) if answer.is_success() => {
            output::line(detail);
            OK
        }
        Some(detail) => {
            output::error_line(format_args!("bearerd: {detail} ({})", answer.status));
            if let Some(address) = answer.documentation() {
                output::error_line(format_args!("  see {address}"));
            }
            FAILED
        }
        None => client.not_an_admin_address(&answer),
    }
}
