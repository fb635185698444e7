//! Ambiguous and hostile requests over HTTP/1.1 and HTTP/2, from the RFCs, against an API that reads strictly.
//!
//! Whatever a request is answered with: what reaches the API is nothing, or exactly the one request that it is under
//! every reading, with our token and our framing.

mod http1;
pub mod http2;
mod strict;
