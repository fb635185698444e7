//! Ambiguous and hostile requests over HTTP/1.1 and HTTP/2, from the RFCs, against an API that reads strictly.
//!
//! Whatever the daemon answers: the API receives nothing, or exactly the one request that every parser would read, with
//! the daemon's token and framing.

mod http1;
pub(crate) mod http2;
mod strict;
