//! Why the rules of a route refuse a request.

use thiserror::Error;

/// What keeps a request from being let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    /// Nothing in `allow` means it.
    #[error("nothing allows it")]
    NotAllowed,
    /// Something in `deny` does.
    #[error("a rule denies it")]
    Denied,
    /// It could end or replace what all callers share, or make another.
    #[error("it could end the credential of all callers")]
    Protected,
}

impl Denial {
    /// A sentence for the person who reads it.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::NotAllowed => {
                "This route lets other methods and paths through: see its `allow`. Letters count in their case."
            }
            Self::Denied => "A rule in `deny` of this route covers this method and path.",
            Self::Protected => {
                "This could end or replace the credential that all applications share, or make another like it, and is \
                 never forwarded. Do it past the proxy, with a credential of your own."
            }
        }
    }
}
