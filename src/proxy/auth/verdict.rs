//! The upstream's verdict on the token of a request.

use http::{Response, StatusCode};

use crate::proxy::message::challenge::is_insufficient_scope;

/// The meaning of a response for the token that its request carried.
pub enum Verdict {
    /// The token is valid, though perhaps not sufficient for this request.
    Accepted,
    /// Another token may be accepted.
    Rejected,
    /// The upstream may not have looked at the token.
    Unknown,
}

impl Verdict {
    /// `rejections`: the statuses that the route takes for a rejected token.
    pub fn of<B>(response: &Response<B>, rejections: &[StatusCode]) -> Self {
        match response.status() {
            status if rejections.contains(&status) => {
                if is_insufficient_scope(response.headers()) {
                    Self::Accepted
                } else {
                    Self::Rejected
                }
            }
            status if status.is_server_error() || status == StatusCode::UNAUTHORIZED => Self::Unknown,
            _ => Self::Accepted,
        }
    }
}
