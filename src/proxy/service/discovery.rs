//! The wait of a request for an upstream whose address its issuer has not named yet.

use std::time::Duration;

use tokio::time::Instant;

use super::Service;
use crate::proxy::auth::authorize::authorize;
use crate::proxy::error::ProxyError;
use crate::proxy::route::Route;
use crate::proxy::upstream::CurrentDestination;

impl Service {
    /// Waits until the upstream's address is discovered. The issuer names it by the token, so the wait for a token comes
    /// first; both end with `patience`.
    pub(super) async fn discovered<'r>(
        &self,
        route: &'r Route,
        patience: &mut Duration,
    ) -> Result<CurrentDestination<'r>, ProxyError> {
        if let Some(token) = &route.token {
            authorize(token, patience, &self.shared.token_waiters).await?;
        }
        if let Some(source) = route.upstream.discovery() {
            let began = Instant::now();
            let waited = source.wait(*patience).await;
            *patience = patience.saturating_sub(began.elapsed());
            waited.map_err(|undiscovered| ProxyError::NotDiscovered {
                credential: source.credential().to_owned(),
                undiscovered,
            })?;
        }
        route.upstream.current().ok_or(ProxyError::RouteNotFound)
    }
}
