//! The latest failure of an upstream, as operators see it.

use std::borrow::Cow;

use http::StatusCode;

use crate::clock::Moment;
use crate::proxy::error::ProxyError;
use crate::proxy::error::upstream::ForwardError;

/// A failed request or attempt to connect, as operators see it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it failed.
    pub at: Moment,
    pub(super) cause: FailureCause,
    /// The total of the success counters at that moment.
    pub(super) successes: u64,
}

/// Why a request has failed.
#[derive(Clone, Debug)]
pub(super) enum FailureCause {
    /// The upstream's response counts as a failure.
    Status(StatusCode),
    /// There is no response.
    Error(ForwardError),
}

impl Failure {
    /// The code, as in error responses; the status of a response that counts as a failure.
    pub fn code(&self) -> Cow<'static, str> {
        match &self.cause {
            FailureCause::Status(status) => Cow::Owned(status.as_u16().to_string()),
            FailureCause::Error(error) => Cow::Borrowed(ProxyError::from(error.clone()).code()),
        }
    }

    /// The error.
    pub fn detail(&self) -> String {
        match &self.cause {
            FailureCause::Status(status) => {
                format!("the upstream answered with status {}", status.as_u16())
            }
            FailureCause::Error(error) => error.to_string(),
        }
    }
}
