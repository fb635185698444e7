//! The caller of a request, or why there is none.

use crate::proxy::error::ProxyError;

/// The place of a caller in the configuration, in the order of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerIndex(u16);

impl CallerIndex {
    /// Every place, from the first on.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=u16::MAX).map(Self)
    }

    /// The place as a number, from 0.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// The caller of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    /// Which.
    pub caller: CallerIndex,
    /// Whether the caller has shown a key or a certificate, or is at the other end of the connection. What a trusted proxy
    /// says is no proof, and `other` is nobody in particular.
    pub is_proven: bool,
}

/// Why a request is no caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unidentified {
    /// No configured caller fits, and there is no `other`.
    Unknown,
    /// The request has several `X-Api-Key` fields.
    SeveralKeys,
    /// The request has the keys of two callers.
    TwoCallers,
    /// The query contains a key.
    KeyInQuery,
}

impl From<Unidentified> for ProxyError {
    fn from(why: Unidentified) -> Self {
        match why {
            Unidentified::Unknown => Self::CallerUnknown,
            Unidentified::SeveralKeys => Self::BadRequest("it has several X-Api-Key fields"),
            Unidentified::TwoCallers => {
                Self::BadRequest("X-Api-Key and Authorization have the keys of two callers")
            }
            Unidentified::KeyInQuery => Self::BadRequest(
                "the query contains a caller's key, and queries end in logs: replace the key, and send it as X-Api-Key",
            ),
        }
    }
}
