//! Unread request bodies of an HTTP/2 connection, which its flow control may hold up (RFC 9113 §5.2).
//!
//! Streams share the connection's window. If upstreams do not read enough of the bodies, the window is full, and the
//! caller can send none of its bodies: the stall timers must not count that time.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

/// The window of a connection, in windows of a stream: so many unread bodies fill it.
pub const STREAM_WINDOWS: u32 = 16;

/// The number of unread bodies of a connection.
#[derive(Clone, Debug, Default)]
pub struct UnreadBodies(Rc<Cell<u32>>);

/// One body's contribution to that number. A body outside any connection contributes nothing.
#[derive(Debug, Default)]
pub struct UnreadBody {
    connection: OnceCell<UnreadBodies>,
    is_unread: Cell<bool>,
}

impl UnreadBody {
    /// Adds the body to a connection.
    pub fn join(&self, connection: &UnreadBodies) {
        // A body belongs to one connection, so a second call has the same argument.
        let _ = self.connection.set(connection.clone());
    }

    /// Records whether the body has data that its upstream does not read.
    pub fn set(&self, is_unread: bool) {
        if let Some(UnreadBodies(count)) = self.connection.get()
            && self.is_unread.replace(is_unread) != is_unread
        {
            count.set(if is_unread { count.get() + 1 } else { count.get() - 1 });
        }
    }

    /// Whether the connection's window may be full, so that the caller cannot send.
    pub fn may_block(&self) -> bool {
        self.connection.get().is_some_and(|connection| connection.0.get() >= STREAM_WINDOWS)
    }
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_bodies_block_their_connection_until_one_is_read_or_dropped() {
        let connection = UnreadBodies::default();
        let mut bodies: Vec<UnreadBody> = (0..STREAM_WINDOWS).map(|_| UnreadBody::default()).collect();
        for body in &bodies {
            assert!(!body.may_block());
            body.join(&connection);
            body.set(true);
            body.set(true);
        }
        assert!(bodies[0].may_block());

        bodies[0].set(false);
        assert!(!bodies[1].may_block());
        bodies[0].set(true);
        bodies.pop();
        assert!(!bodies[1].may_block());
    }

    #[test]
    fn a_body_without_a_connection_blocks_nothing() {
        let body = UnreadBody::default();
        body.set(true);
        assert!(!body.may_block());
    }
}
