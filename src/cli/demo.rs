//! `bearerd demo`: runs the demonstration, then serves until Ctrl-C.

use std::net::SocketAddr;
use std::time::Duration;

use super::exit_code::{FAILED, OK};
use super::output;
use crate::app::StartError;
use crate::causes::in_one_line;
use crate::demo::{DemoError, Scenario};
use crate::lifecycle::StopSignals;

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Exit after the steps, with 0 if all of them succeeded
    #[arg(long)]
    once: bool,
    /// Address that applications connect to [default: 127.0.0.1:8080 or, if in use, a free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// How often the demonstration revokes the token while it serves.
const REVOKE_EVERY: Duration = Duration::from_secs(30);

pub(super) async fn demo(demo: Demo) -> u8 {
    match show(demo).await {
        Ok(()) => OK,
        Err(error) => {
            output::error_line(format_args!("bearerd demo: {}", in_one_line(&error)));
            FAILED
        }
    }
}

async fn show(demo: Demo) -> Result<(), DemoError> {
    let mut signals = StopSignals::new()?;
    let scenario = start(&demo).await?;
    output::line(scenario.introduction());
    let steps = async {
        step(1, scenario.first_token().await?);
        step(2, scenario.plain_request().await?);
        step(3, scenario.revoked().await?);
        step(4, scenario.burst().await?);
        step(5, scenario.retry_after().await?);
        Ok::<_, DemoError>(())
    };
    tokio::select! {
        outcome = steps => outcome?,
        _ = signals.next() => return Ok(()),
    }
    if !demo.once {
        output::line(format_args!(
            "The demo now serves your requests, and revokes the token at once and every {} seconds. Requests succeed \
             anyway:\n\n  curl -i {}/hello\n\nPress Ctrl-C to stop.\n",
            REVOKE_EVERY.as_secs(),
            scenario.url()
        ));
        let mut revoke = tokio::time::interval(REVOKE_EVERY);
        loop {
            tokio::select! {
                _ = revoke.tick() => {
                    scenario.revoke();
                    output::line("  the token was revoked");
                }
                _ = signals.next() => break,
            }
        }
        output::line("stopping");
    }
    scenario
        .into_daemon()
        .stop(async {
            signals.next().await;
        })
        .await;
    Ok(())
}

fn step(number: usize, text: impl std::fmt::Display) {
    output::line(format_args!("{number}. {text}\n"));
}

async fn start(demo: &Demo) -> Result<Scenario, DemoError> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    match demo.listen {
        Some(listen) => Scenario::start(listen).await,
        None if demo.once => Scenario::start(free).await,
        None => match Scenario::start(SocketAddr::from(([127, 0, 0, 1], 8080))).await {
            Err(DemoError::Start(StartError::Listen { .. })) => Scenario::start(free).await,
            other => other,
        },
    }
}
