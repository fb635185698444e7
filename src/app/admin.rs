//! The admin address, as the daemon has it.

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
use crate::proxy::listener::Bound;
use crate::reload::Reloads;

/// The admin address, and what it tells of.
#[derive(Debug)]
pub(super) struct AdminAddress {
    /// Where it is.
    pub(super) address: SocketAddr,
    credentials: Credentials,
    readiness: Readiness,
}

impl AdminAddress {
    /// Opens it.
    pub(super) fn open(
        bound: Bound,
        config: &Config,
        (credentials, discoveries): (&[Credential], &Discoveries),
        stage: watch::Receiver<Stage>,
        reloads: Option<Reloads>,
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, StartError> {
        let address = bound.address;
        let listener = TcpListener::from_std(bound.into_socket())?;
        let operated = Credentials::new(Access::new(&config.admin, address), operated(credentials));
        let readiness = Readiness::new(counted(credentials), discoveries.sources(), stage);
        let reloading = Reloading::new(operated.clone(), reloads);
        info!(%address, "admin listening");
        let (health, desk) = (readiness.clone(), operated.clone());
        tasks.spawn(async move {
            admin::serve(listener, health, desk, reloading).await;
            "the admin address"
        });
        Ok(Self { address, credentials: operated, readiness })
    }

    /// Tells of these from now on.
    pub(super) fn change(
        &self,
        (before, after): (&Config, &Config),
        credentials: &[Credential],
        discoveries: &Discoveries,
    ) {
        // Who has guessed too often is not to begin anew with each reload.
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
