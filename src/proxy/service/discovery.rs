//! Waiting for an upstream whose address the credential's issuer has not named yet (`upstream = "discover"`).

use super::Service;
use crate::proxy::auth::authorize::{TokenWait, usable_token};
use crate::proxy::error::ProxyError;
use crate::proxy::route::Route;
use crate::proxy::upstream::CurrentDestination;

impl Service {
    /// Waits until the upstream's address is discovered.
    ///
    /// The discovery needs a token, so the wait for a token comes first; `wait` bounds both together.
    ///
    /// # Errors
    ///
    /// The errors of [`usable_token`]; [`ProxyError::NotDiscovered`] if the address is not discovered in time.
    pub(super) async fn discovered<'r>(
        &self,
        route: &'r Route,
        wait: &mut TokenWait,
    ) -> Result<CurrentDestination<'r>, ProxyError> {
        // The issuer of the first credential names the address.
        if let Some(member) = route.members.first() {
            usable_token(&member.source, wait, &self.shared.token_waiters).await?;
        }
        if let Some(source) = route.upstream.discovery() {
            wait.spend(|within| source.wait(within)).await.map_err(|undiscovered| {
                ProxyError::NotDiscovered { credential: source.credential().to_owned(), undiscovered }
            })?;
        }
        route.upstream.current().ok_or(ProxyError::RouteNotFound)
    }
}
