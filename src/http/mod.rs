//! HTTP as the proxy, the admin address and the token client all read and write it.

mod authority;
mod basic;
mod browser;
#[cfg(test)]
pub(crate) mod fixture;
mod problem;
mod proxy_status;
mod request_id;
mod retry_after;
mod secret_value;
mod trace_context;

pub use authority::Authority;
pub use basic::basic_password;
pub use browser::{SEC_FETCH_SITE, is_cross_site};
pub use problem::{Problem, json};
pub use proxy_status::ProxyStatus;
pub use request_id::{RequestId, X_REQUEST_ID};
pub use retry_after::{retry_after, server_time, whole_seconds};
pub use secret_value::secret_header_value;
pub use trace_context::{TRACEPARENT, TRACESTATE, TraceContext, TraceId};
