//! The verdict of an upstream on the token of a request.

use http::{Response, StatusCode};

use crate::proxy::message::challenge::is_insufficient_scope;

/// Whether the upstream accepted the token.
pub enum Verdict {
    /// The token is valid, though perhaps not sufficient for this request.
    Accepted,
    /// Another token may be accepted.
    Rejected,
    /// The upstream may not have looked at the token.
    Unknown,
}

impl Verdict {
    /// Judges a response; the route treats the statuses `rejections` as rejections of the token.
    pub fn of<B>(response: &Response<B>, rejections: &[StatusCode]) -> Self {
        let status = response.status();
        if rejections.contains(&status) {
            if is_insufficient_scope(response.headers()) { Self::Accepted } else { Self::Rejected }
        } else if status.is_server_error() || status == StatusCode::UNAUTHORIZED {
            Self::Unknown
        } else {
            Self::Accepted
        }
    }
}
