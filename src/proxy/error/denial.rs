//! Refusals by the rules of a route.

use thiserror::Error;

/// Why the rules of a route refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    /// No pattern in `allow` matches.
    #[error("no rule allows the request")]
    NotAllowed,
    /// A pattern in `deny` matches.
    #[error("a rule denies the request")]
    Denied,
    /// The request could end, replace or duplicate the credential that all callers share.
    #[error("the request could end the credential of all callers")]
    Protected,
}

impl Denial {
    /// The cause and a remedy, for a person.
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::NotAllowed => {
                "No pattern in `allow` of this route matches this method and path. Patterns are case-sensitive."
            }
            Self::Denied => "A pattern in `deny` of this route matches this method and path.",
            Self::Protected => {
                "This request could end, replace or duplicate the credential that all applications share, so the proxy \
                 never forwards it. Send the request directly to the API, with a credential of your own."
            }
        }
    }
}
