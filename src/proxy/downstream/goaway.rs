//! The GOAWAY frames that hyper cannot send (RFC 9113 §6.8).

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;

/// An empty SETTINGS frame: the beginning of a server's side of a connection.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The header of a GOAWAY frame without debug data.
const HEADER: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0];
/// Any stream may have been processed.
const LAST_STREAM: u32 = u32::MAX >> 1;

/// A GOAWAY with this reason.
pub(super) fn frame(reason: Reason) -> Bytes {
    let mut frame = BytesMut::from(HEADER);
    frame.put_u32(LAST_STREAM);
    frame.put_u32(reason.into());
    frame.freeze()
}

/// A GOAWAY on a connection on which nothing has been sent.
pub(super) fn first(reason: Reason) -> Bytes {
    [SETTINGS, &frame(reason)].concat().into()
}
