//! The encoding of client id and secret in HTTP Basic authentication.

/// How client id and secret are encoded before they are joined for HTTP Basic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicEncoding {
    /// Unchanged, as most clients send and most servers expect.
    Raw,
    /// Form-encoded (RFC 6749 §2.3.1).
    Form,
}
