//! The state of an admitted request, shared by all attempts to send it.

use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::exchange::Exchange;
use super::retry::RetryBudget;
use crate::proxy::body::replay::{AttemptBody, ReplayBody};
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::route::Route;
use crate::proxy::route::member::Member;
use crate::proxy::upstream::Destination;
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::request::Outgoing;
use crate::token::{Demanded, Generation};

/// An admitted request and what is left of its bounds.
pub(super) struct RequestContext<'a> {
    pub route: &'a Route,
    /// The upstream's address when the request arrived; every attempt uses it.
    pub destination: &'a Destination,
    /// The head without a token, for further attempts; `None` if there can be none.
    pub head: Option<KeptHead>,
    pub request_body: &'a ReplayBody<ClientBody>,
    pub exchange: &'a mut Exchange,
    /// The credential that the request uses.
    pub member: Option<&'a Member>,
    pub token_choice: TokenChoice,
    pub retries: RetryBudget,
    /// Whether the request asks for another protocol.
    pub may_switch: bool,
    /// Whether the request is sent once more if a reused connection closes without an answer.
    pub may_resend: bool,
}

/// A copy of a request head. The fields are a list: few requests are sent again, and a list costs less to copy and to drop
/// than a map.
pub(super) struct KeptHead {
    method: Method,
    uri: Uri,
    fields: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
}

impl KeptHead {
    /// A copy of this head.
    pub(super) fn of(head: &Parts) -> Self {
        let mut fields = Vec::with_capacity(head.headers.len());
        fields.extend(head.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            fields,
            extensions: head.extensions.clone(),
        }
    }

    /// The head again.
    fn head(&self) -> Box<Parts> {
        // The fields of the attempt itself come on top.
        let mut headers = HeaderMap::with_capacity(self.fields.len() + 2);
        for (name, value) in &self.fields {
            headers.append(name, value.clone());
        }
        let mut head = Box::new(Request::new(()).into_parts().0);
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.headers = headers;
        head.extensions = self.extensions.clone();
        head
    }
}

/// The token that an attempt carries, also where it takes the token again after a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenChoice {
    /// The one that the route prefers: most often the current one.
    OfRoute,
    /// This one from before a scheduled renewal, while it lives and is the previous one; then the current one.
    Previous(Generation),
    /// The current one.
    Current,
}

/// The response to one attempt, and the generation of the token that the attempt carried.
pub(super) struct Attempted {
    pub answered: Answered<AttemptBody<ClientBody>>,
    /// [`Generation::NONE`] for an attempt without a token.
    pub generation: Generation,
    /// The route's demand for a later token when the attempt was sent.
    pub demanded: Demanded,
}

impl RequestContext<'_> {
    /// The request uses the credential at this place among those of the route from now on.
    pub(super) fn uses(&mut self, place: usize) {
        self.member = self.route.members.get(place);
        self.token_choice = TokenChoice::OfRoute;
        self.exchange.outcome.member = place;
    }

    /// The request for another attempt, if its head and body were kept.
    pub(super) fn again(&self) -> Option<Outgoing<AttemptBody<ClientBody>>> {
        let body = self.request_body.replay()?;
        Some(Outgoing { head: self.head.as_ref()?.head(), body })
    }

    /// The request for another attempt after a reused connection closed without an answer, at most once.
    pub(super) fn resend(&mut self) -> Option<Outgoing<AttemptBody<ClientBody>>> {
        if std::mem::take(&mut self.may_resend) { self.again() } else { None }
    }

    /// Frees the replay buffer if the attempt that follows is certainly the last one.
    pub(super) fn free_replay_buffer(&self) {
        if self.retries.is_exhausted() && !self.may_resend {
            self.request_body.free_buffer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Mark;

    #[test]
    fn a_kept_head_is_the_head_again() {
        let mut request = Request::put("/v2/users?page=2").extension(Mark);
        for (name, value) in [("accept", "a"), ("x-own", "1"), ("x-own", "2"), ("host", "h")] {
            request = request.header(name, value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let kept = KeptHead::of(&head);
        for _ in 0..2 {
            let again = kept.head();
            assert_eq!((&again.method, &again.uri, again.version), (&head.method, &head.uri, head.version));
            assert_eq!(again.headers, head.headers);
            assert_eq!(again.extensions.get(), Some(&Mark));
        }
    }
}
