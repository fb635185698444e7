//! The refresh loop, which keeps one access token per credential fresh. From top to bottom, where each room uses only those
//! below it:
//!
//! - [`trial`], [`login`] and [`api_discovery`]: one token request for `bearerd check --online`, a person's login in a browser,
//!   and the task that looks up an API's address;
//! - [`refresher`]: the task of one credential, which makes its token requests;
//! - [`status`]: a credential as operators see it, in one vocabulary of states and reasons;
//! - `source` and `operator`: a credential as the request loop uses it ([`TokenSource`]), and as the admin API does
//!   ([`Operator`]);
//! - `rotation`, `client_secrets` and `progress`: the choice of a grant and of a client secret, and the refresher's progress for
//!   requests that wait;
//! - [`replicas`]: the record that several replicas share;
//! - [`state`]: what outlives the process, in memory and on disk;
//! - [`endpoint`]: token requests, their responses, and issuers' metadata;
//! - [`help`]: what a person can do about a failure;
//! - [`limiter`]: when a token request may be made;
//! - `demand`: what rejected tokens demand of the refresher;
//! - [`error`], [`store`], [`access_token`], `refresh_token_end`, [`jwt`] and `fingerprint`: failures, the current token, and
//!   tokens themselves.
//!
//! A request reads the [`store`] without a lock, and waits for the refresher only if no token is usable.

pub mod access_token;
pub mod api_discovery;
mod client_secrets;
mod demand;
pub mod endpoint;
pub mod error;
mod fingerprint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod help;
pub mod jwt;
pub mod limiter;
pub mod login;
mod operator;
mod progress;
mod refresh_token_end;
pub mod refresher;
pub mod replicas;
mod rotation;
mod source;
pub mod state;
pub mod status;
pub mod store;
pub mod trial;

pub use access_token::{AccessToken, Generation};
pub use demand::{Demanded, Verdicts};
pub use endpoint::response::TokenResponse;
pub use endpoint::{ClientError, HeldToken, TokenClient, TokenEndpoint};
pub use fingerprint::Fingerprint;
pub use operator::{Adopted, GrantOrigin, NewGrant, NotAdopted, Operator, Refreshed};
pub use progress::{Reason, Unavailable};
pub use refresher::Refresher;
pub use source::{NotReplaced, TokenSource};
pub use state::DurableState;
pub use status::{CredentialState, CredentialStatus};
pub use store::Current;
