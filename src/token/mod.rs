//! The refresh loop: one task per credential keeps its token fresh.
//!
//! A [`refresher`] asks the token endpoint through a [`client`], as often as the [`limiter`] allows and the
//! [`schedule`] wants, and writes the [`store`]. A request sees none of that: it holds a [`TokenSource`], reads
//! the store without a lock, and waits for the refresher only where there is no usable token. What must outlive the
//! process goes to a [`state_file`]. Where the endpoints are for the issuer to say, [`discovery`] asks it, and
//! [`api_discovery`] where the API is.

pub mod access_token;
pub mod api_discovery;
mod client_secrets;
pub mod endpoint;
pub mod error;
mod fingerprint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod jwt;
pub mod limiter;
pub mod login;
mod operator;
mod progress;
pub mod refresher;
mod rotation;
mod source;
pub mod state;
pub mod store;
pub mod trial;

pub use access_token::{AccessToken, Generation};
pub use endpoint::response::TokenResponse;
pub use endpoint::retry_after::retry_after;
pub use endpoint::{ClientError, TokenClient, TokenEndpoint};
pub use operator::{Adopted, NewGrant, NotAdopted, Operator, Refreshed};
pub use progress::{Reason, Unavailable};
pub use refresher::Refresher;
pub use source::{NotReplaced, TokenSource};
pub use state::DurableState;
pub use store::Current;
