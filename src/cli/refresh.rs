//! `bearerd refresh`: has a running daemon ask for another token.

use std::time::Duration;

use http::Method;

use super::admin::{AdminAddress, AdminClient, AdminError, path_of};
use super::exit_code::{FAILED, OK, UNAVAILABLE};
use super::output;
use crate::causes::in_one_line;
use crate::config::Environment;

/// Which credential, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Refresh {
    /// The credential's name in the configuration
    credential: String,
    #[command(flatten)]
    address: AdminAddress,
}

/// Longer than the daemon lets anybody wait.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) async fn refresh(refresh: Refresh, environment: &Environment) -> u8 {
    let path = path_of(&refresh.credential, "/refresh");
    let answer = match AdminClient::new(refresh.address, environment) {
        Ok(mut client) => client.operate(Method::POST, &path, None, TIMEOUT).await,
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            output::error_line(format_args!("bearerd: {}", in_one_line(&error)));
            return if matches!(error, AdminError::Unreachable { .. }) { UNAVAILABLE } else { FAILED };
        }
    };
    match answer.detail() {
        Some(detail) if answer.is_success() => {
            output::line(detail);
            OK
        }
        Some(detail) => {
            output::error_line(format_args!("bearerd: {detail} ({})", answer.status));
            FAILED
        }
        None => {
            let status = answer.status;
            output::error_line(format_args!(
                "bearerd: what answered with {status} is no admin address of bearerd, or of another version; \
                 --admin says where it is"
            ));
            FAILED
        }
    }
}
