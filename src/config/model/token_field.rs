//! The field of a request that carries the token.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderName};

/// The name of the field, and what stands before the token in its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenField {
    /// The name: `Authorization` unless the API has a field of its own.
    pub name: HeaderName,
    /// The scheme.
    pub scheme: TokenScheme,
}

/// An authentication scheme (RFC 9110 §11.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenScheme {
    /// `Bearer` (RFC 6750).
    #[default]
    Bearer,
    /// Another scheme with the space after it; empty for the token alone.
    Other(Arc<str>),
}

impl TokenScheme {
    /// The scheme as configured: a name, or empty for the token alone.
    pub fn new(name: &str) -> Self {
        match name {
            "Bearer" => Self::Bearer,
            "" => Self::Other(Arc::from("")),
            name => Self::Other(Arc::from(format!("{name} "))),
        }
    }

    /// What stands before the token.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Bearer => "Bearer ",
            Self::Other(prefix) => prefix,
        }
    }
}

impl Default for TokenField {
    fn default() -> Self {
        Self { name: AUTHORIZATION, scheme: TokenScheme::default() }
    }
}
