//! Request bodies: replay, stall detection, and HTTP/2 flow control.

pub mod http2;
pub mod replay;
mod replay_buffer;
mod stall;
pub mod unread;
