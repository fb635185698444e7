//! Request bodies: kept for a replay, watched for stalls, and accounted for while nobody reads them.

pub mod replay;
pub(in crate::proxy) mod stall;
pub mod unread;
