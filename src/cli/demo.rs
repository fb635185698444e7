//! `bearerd demo`: runs the demonstration, then serves until Ctrl-C; with `--platform`, its servers alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Interval;
use url::Url;

use super::exit_code::{FAILED, OK};
use super::{browser, output};
use crate::app::StartError;
use crate::causes::in_one_line;
use crate::config::Listen;
use crate::demo::DemoError;
use crate::demo::platform::Platform;
use crate::demo::scenario::Scenario;
use crate::demo::visits::{self, Visit};
use crate::lifecycle::StopSignals;

pub(super) const HELP: &str = "\
Without --platform, everything runs on loopback in one process. The status page is at 127.0.0.1:9090 or, if in
use, or with --listen or --once, at a free port. With --platform, the authorization server and
the API listen alone on one address over TLS, for a bearerd elsewhere: the token endpoint at /token, a health
check at /livez, and the API at every other path. All tokens are revoked every 30 seconds.";

#[derive(Debug, clap::Args)]
pub(super) struct Demo {
    /// Exit after the steps, with 0 if all of them succeeded
    #[arg(long)]
    once: bool,
    /// Open the status page in a browser
    #[arg(long, conflicts_with = "once")]
    open: bool,
    /// Address that applications connect to [default: 127.0.0.1:8080 or, if in use, a free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Run the authorization server and the API alone, on the address of --listen
    #[arg(long, conflicts_with_all = ["once", "open"], requires_all = ["listen", "name", "ca_out"])]
    platform: bool,
    /// Host name of the platform, for its certificate and its URLs
    #[arg(long, value_name = "HOST", requires = "platform")]
    name: Option<String>,
    /// File for the certificate of the authority that the platform's certificate is from
    #[arg(long, value_name = "PATH", requires = "platform")]
    ca_out: Option<PathBuf>,
}

/// How often the demonstration revokes the token while it serves.
const REVOKE_EVERY: Duration = Duration::from_secs(30);

pub(super) async fn demo(demo: Demo) -> u8 {
    let outcome = match (demo.listen, &demo.name, &demo.ca_out) {
        (Some(listen), Some(name), Some(ca_out)) if demo.platform => {
            platform(Platform::start(listen, name, ca_out).await).await
        }
        _ => show(demo).await,
    };
    match outcome {
        Ok(()) => OK,
        Err(error) => {
            output::error_line(format_args!("bearerd demo: {}", in_one_line(&error)));
            FAILED
        }
    }
}

async fn platform(platform: Result<Platform, DemoError>) -> Result<(), DemoError> {
    let mut signals = StopSignals::new()?;
    let platform = platform?;
    output::line(platform.introduction());
    let mut revoke = tokio::time::interval(REVOKE_EVERY);
    // The first tick is at once, when no token has been issued.
    revoke.tick().await;
    loop {
        tokio::select! {
            _ = revoke.tick() => {
                let requests = platform.revoke();
                output::line(format_args!("all tokens were revoked, after {requests} token requests"));
            }
            _ = signals.next() => return Ok(()),
        }
    }
}

async fn show(demo: Demo) -> Result<(), DemoError> {
    let mut signals = StopSignals::new()?;
    let mut visits = visits::listen();
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
             anyway:\n\n  curl -i {}/hello\n\nThe status page shows the token: {admin}/\nA terminal shows it with: bearerd status \
             --admin {admin}\nPress Ctrl-C to stop. What becomes of your requests:\n",
            REVOKE_EVERY.as_secs(),
            scenario.url(),
            admin = scenario.admin(),
        ));
        if demo.open
            && let Ok(page) = Url::parse(&scenario.admin())
        {
            browser::open(&page);
        }
        // The requests of the steps.
        while visits.try_recv().is_ok() {}
        let revoke = tokio::time::interval(REVOKE_EVERY);
        tokio::select! {
            () = serve(&scenario, revoke, visits) => {}
            _ = signals.next() => {}
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

/// Revokes the token again and again, and prints what becomes of each request.
async fn serve(scenario: &Scenario, mut revoke: Interval, mut visits: mpsc::Receiver<Visit>) {
    loop {
        tokio::select! {
            _ = revoke.tick() => {
                scenario.revoke();
                output::line("  (the token was revoked)");
            }
            Some(visit) = visits.recv() => output::line(format_args!("  {visit}")),
        }
    }
}

fn step(number: usize, text: impl std::fmt::Display) {
    output::line(format_args!("{number}. {text}\n"));
}

/// A free port.
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const APPLICATIONS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

async fn start(demo: &Demo) -> Result<Scenario, DemoError> {
    match demo.listen {
        Some(listen) => Scenario::start(listen, FREE).await,
        None if demo.once => Scenario::start(FREE, FREE).await,
        None => start_near(APPLICATIONS, ADMIN).await,
    }
}

/// Starts at these addresses, with a free port in the place of one in use.
async fn start_near(mut listen: SocketAddr, mut admin: SocketAddr) -> Result<Scenario, DemoError> {
    loop {
        let error = match Scenario::start(listen, admin).await {
            Err(error) => error,
            started => return started,
        };
        match &error {
            DemoError::Start(StartError::Listen { address: Listen::Tcp(taken), .. }) if taken.port() != 0 => {
                let address = if *taken == admin { &mut admin } else { &mut listen };
                address.set_port(0);
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_free_port_takes_the_place_of_one_in_use() {
        let (one, other) = (TcpListener::bind(FREE).await.unwrap(), TcpListener::bind(FREE).await.unwrap());
        let (listen, admin) = (one.local_addr().unwrap(), other.local_addr().unwrap());

        let scenario = start_near(listen, admin).await.unwrap();

        assert_ne!(scenario.url(), format!("http://{listen}"));
        assert_ne!(scenario.admin(), format!("http://{admin}"));
        scenario.into_daemon().abort().await;
    }
}
