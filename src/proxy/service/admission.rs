//! Whether a request is accepted, from everything that is known when its head is complete.

use http::Version;
use http::header::CONTENT_LENGTH;
use http::request::Parts;

use super::settings::ServiceSettings;
use crate::proxy::callers::{Identified, Unidentified};
use crate::proxy::downstream::http2_stream::head_size;
use crate::proxy::error::ProxyError;
use crate::proxy::route::Route;
use crate::proxy::route::guard;
use crate::proxy::route::guard::{Present, Target};

impl ServiceSettings {
    /// Checks a request, in whose head these fields are `present`, and finds its route. The caller's address is allowed or
    /// not, its certificate has these names, and it is this one where callers are configured.
    ///
    /// # Errors
    ///
    /// The error of the first check that fails.
    pub(super) fn admit<'r>(
        &self,
        head: &'r Parts,
        present: Present,
        is_allowed: bool,
        names: &[String],
        caller: Option<Result<Identified, Unidentified>>,
    ) -> Result<(Target<'r>, &Route), ProxyError> {
        if !is_allowed {
            return Err(ProxyError::CallerNotAllowed);
        }
        if head.version == Version::HTTP_2 && head_size(head) > self.limits.header_bytes {
            return Err(ProxyError::HeaderTooLarge);
        }
        let caller = caller.transpose()?.filter(|caller| caller.is_proven);
        let target = guard::vet(head, present, &self.policy)?;
        let route = self.table.route(&target).ok_or(ProxyError::RouteNotFound)?;
        let name = || Some(self.callers.as_ref()?.name(caller?.caller));
        if !route.admits(names, name) {
            return Err(ProxyError::CallerNotAdmitted);
        }
        guard::check_fields(&head.headers, &target, &route.fields)?;
        if let Some(limit) = self.body_limits.body_bytes {
            let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            if length.is_some_and(|length: u64| length > limit) {
                return Err(ProxyError::BodyTooLarge { limit });
            }
        }
        Ok((target, route))
    }
}
