//! The encoding of client id and secret in HTTP Basic authentication.

/// How client id and secret are written before they are joined for HTTP Basic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicEncoding {
    /// As they are: what most clients do and most servers expect.
    Raw,
    /// Form-encoded first: what RFC 6749 §2.3.1 says.
    Form,
}
