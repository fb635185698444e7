//! What the service would do with a request, by the code that does it, without an upstream or a token.

use std::future::pending;
use std::sync::Arc;

use http::HeaderValue;
use http::request::Parts;

use super::Service;
use super::received::Received;
use super::retry::RetryBudget;
use super::settings::ServiceSettings;
use crate::http::{RequestId, TraceContext};
use crate::proxy::callers::{CallerIndex, Identified, Unidentified};
use crate::proxy::error::ProxyError;
use crate::proxy::message::forwarded::client_address;
use crate::proxy::peer::Peer;
use crate::proxy::route::Route;
use crate::proxy::route::guard;
use crate::proxy::route::guard::Present;
use crate::proxy::route::rules::Ruling;
use crate::proxy::upstream::Destination;
use crate::proxy::upstream::connect::{Connect, Connecting};

/// The authority of an upstream that is not discovered yet.
const UNDISCOVERED: &str = "<address-of-the-api>";

/// The caller of a request, as far as the request does not tell.
#[derive(Clone, Copy, Debug)]
pub struct Assumed<'a> {
    /// The other end of the connection.
    pub peer: Peer,
    /// The names in the client certificate.
    pub names: &'a [String],
    /// The configured caller, proven.
    pub caller: Option<CallerIndex>,
}

/// The way of a request, as far as it goes.
#[derive(Debug)]
pub struct Preview<'s> {
    /// The caller, or why there is none; `None` where no caller is configured.
    pub caller: Option<Result<Identified, Unidentified>>,
    /// The route, if the request has one.
    pub route: Option<&'s Route>,
    /// The rule that decides, if the request comes to the rules.
    pub ruling: Option<Ruling<'s>>,
    /// What becomes of the request.
    pub outcome: Outcome,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The proxy refuses the request.
    Refused(ProxyError),
    /// The proxy answers the login of an SDK itself (`login_stub`).
    LoginAnswered,
    /// The proxy forwards the request.
    Forwarded(Box<Forwarded>),
}

/// A request as the upstream receives it.
#[derive(Debug)]
pub struct Forwarded {
    /// The head; its URI is the request target.
    pub head: Parts,
    /// Scheme and authority of the upstream.
    pub origin: String,
    /// Whether the request is sent once more after a reused connection has closed without an answer.
    pub may_resend: bool,
    /// Whether a 429 is retried.
    pub retries_429: bool,
}

/// Previews requests.
pub struct Previews(Service);

impl Previews {
    /// Previews by these settings.
    pub fn new(settings: ServiceSettings) -> Self {
        Self(Service::new(Arc::new(settings), 0, Vec::new()))
    }

    /// The settings.
    pub fn settings(&self) -> &ServiceSettings {
        &self.0.shared
    }

    /// Previews a request without a body. `token` is shown in the place of the token.
    pub fn preview(&self, mut head: Parts, is_tls: bool, assumed: Assumed<'_>, token: &str) -> Preview<'_> {
        let settings = &*self.0.shared;
        let present = Present::among(&head.headers);
        let caller = self.caller(&head, assumed);
        let Assumed { peer, names, .. } = assumed;
        let (target, route) = match settings.admit(&head, present, peer.is_allowed, names, caller) {
            Ok(admitted) => admitted,
            Err(error) => {
                let target = guard::vet(&head, present, &settings.policy).ok();
                let route = target.and_then(|target| settings.table.route(&target));
                return Preview { caller, route, ruling: None, outcome: Outcome::Refused(error) };
            }
        };
        if route.is_login(&head.method, target.path) {
            return Preview { caller, route: Some(route), ruling: None, outcome: Outcome::LoginAnswered };
        }
        let ruling = route.rules.ruling(&head.method, &target, &route.prefix);
        // The daemon makes an identifier for a request without one.
        let request_id = match head.headers.get("x-request-id") {
            Some(_) => RequestId::of(&head.headers).value().clone(),
            None => HeaderValue::from_static("<request-id>"),
        };
        let received = Received {
            client_address: None,
            request_id,
            has_trace: TraceContext::of(&head.headers).is_some(),
            is_tls,
            has_body: false,
            is_of_unknown_length: false,
            fields: target.fields,
        };
        let outcome = match ruling.verdict().and_then(|()| self.forwarded(&mut head, received, route, token))
        {
            Ok((origin, may_resend, retries_429)) => {
                Outcome::Forwarded(Box::new(Forwarded { head, origin, may_resend, retries_429 }))
            }
            Err(error) => Outcome::Refused(error),
        };
        Preview { caller, route: Some(route), ruling: Some(ruling), outcome }
    }

    /// The caller of a request.
    fn caller(&self, head: &Parts, assumed: Assumed<'_>) -> Option<Result<Identified, Unidentified>> {
        let ServiceSettings { callers, networks, .. } = &*self.0.shared;
        let callers = callers.as_ref()?;
        let Assumed { peer, names, caller } = assumed;
        let connection = callers.of_connection(names, &peer);
        let forwarded = client_address(&peer, &head.headers, &networks.trusted_proxies);
        let found = callers.identify(&head.headers, head.uri.query(), connection, forwarded);
        let named = caller.map(|caller| Identified { caller, is_proven: true });
        Some(match (found, named) {
            (Ok(_) | Err(Unidentified::Unknown), Some(named)) => Ok(named),
            (found, _) => found,
        })
    }

    /// Rewrites the head; returns the origin, and whether the request is sent again in the two cases.
    fn forwarded(
        &self,
        head: &mut Parts,
        received: Received,
        route: &Route,
        token: &str,
    ) -> Result<(String, bool, bool), ProxyError> {
        let may_resend = route.retry_stale && head.method.is_idempotent();
        let retries_429 = !RetryBudget::new(&route.retry_429, &head.method).is_exhausted();
        let undiscovered;
        let current = route.upstream.current();
        let destination: &Destination = match &current {
            Some(destination) => destination,
            None => {
                undiscovered = not_discovered();
                &undiscovered
            }
        };
        self.0.rewrite_request(head, received, route, destination)?;
        if !route.members.is_empty()
            && let Ok(value) = HeaderValue::try_from(format!("{}{token}", route.token_scheme.prefix()))
        {
            head.headers.insert(&route.fields.token_field, value);
        }
        Ok((destination.origin.clone(), may_resend, retries_429))
    }
}

/// The destination of an upstream whose address is not known.
fn not_discovered() -> Destination {
    let host = HeaderValue::from_static(UNDISCOVERED);
    Destination::new(format!("https://{UNDISCOVERED}"), host, Box::new(Nowhere))
}

/// Makes no connection.
#[derive(Debug)]
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(pending())
    }

    fn may_speak_http2(&self) -> bool {
        false
    }
}
