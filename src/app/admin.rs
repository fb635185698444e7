//! The daemon's side of the admin address: opens it, and updates what it serves after a reload.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use super::StartError;
use super::credentials::Credential;
use super::upstreams::Discoveries;
use crate::admin;
use crate::admin::{Access, Credentials, Readiness, Reloading};
use crate::config::Config;
use crate::lifecycle::Stage;
use crate::reload::Reloads;
use crate::telemetry::Events;

/// The open admin address and the state that it serves.
#[derive(Debug)]
pub(super) struct AdminAddress {
    address: SocketAddr,
    credentials: Credentials,
    readiness: Readiness,
}

impl AdminAddress {
    /// Starts to serve the admin address.
    ///
    /// # Errors
    ///
    /// The runtime refuses the socket.
    pub(super) fn open(
        socket: std::net::TcpListener,
        config: &Config,
        (credentials, discoveries): (&[Credential], &Discoveries),
        stage: watch::Receiver<Stage>,
        reloads: Option<Reloads>,
        events: &Events,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let operated = Credentials::new(
            Access::new(&config.admin, address),
            operated(credentials),
            stage.clone(),
            events.clone(),
        );
        let readiness = Readiness::new(counted(credentials), discoveries.sources(), stage);
        let reloading = Reloading::new(operated.clone(), reloads);
        info!(%address, "admin listening");
        let (health, api) = (readiness.clone(), operated.clone());
        tasks.spawn(async move {
            admin::serve(listener, health, api, reloading).await;
            "the admin address"
        });
        Ok(Self { address, credentials: operated, readiness })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves other credentials and discoveries from now on.
    pub(super) fn change(
        &self,
        (before, after): (&Config, &Config),
        credentials: &[Credential],
        discoveries: &Discoveries,
    ) {
        // A reload with an unchanged token keeps the lock-outs of addresses that sent wrong tokens.
        let access =
            (before.admin.token != after.admin.token).then(|| Access::new(&after.admin, self.address));
        self.credentials.change(access, operated(credentials));
        self.readiness.change(counted(credentials), discoveries.sources());
    }
}

fn operated(credentials: &[Credential]) -> Vec<(crate::token::TokenSource, crate::token::Operator)> {
    credentials.iter().map(|one| (one.source.clone(), one.operator.clone())).collect()
}

fn counted(credentials: &[Credential]) -> Vec<(crate::token::TokenSource, bool)> {
    credentials.iter().map(|one| (one.source.clone(), one.config.required)).collect()
}
