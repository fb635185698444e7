//! The slot for the function that takes over the socket of an HTTP/1.1 connection after a 101 response (RFC 9110 §7.8).
//!
//! The connection's serving function owns the slot, and requests hold weak handles. So a takeover may hold references to
//! the connection: the end of the connection drops it, whether the 101 was written or not.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::{Rc, Weak};

use bytes::Bytes;

use super::io::ClientIo;

/// Runs on the socket of a connection that speaks HTTP no more; the bytes were read from the socket and not used.
pub type Takeover = Box<dyn FnOnce(ClientIo, Bytes) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The slot of one connection.
#[derive(Default)]
pub struct UpgradeSlot(Rc<Cell<Option<Takeover>>>);

/// A request's access to the slot of its connection; without effect on a connection that cannot be upgraded.
#[derive(Clone, Default)]
pub struct Upgrade(Weak<Cell<Option<Takeover>>>);

impl UpgradeSlot {
    /// A handle for a request.
    pub fn handle(&self) -> Upgrade {
        Upgrade(Rc::downgrade(&self.0))
    }

    /// The takeover that a request has registered.
    pub fn take(&self) -> Option<Takeover> {
        self.0.take()
    }
}

impl Upgrade {
    /// Registers what takes over the socket. A connection that has ended drops the takeover.
    pub fn register(&self, takeover: Takeover) {
        if let Some(slot) = self.0.upgrade() {
            slot.set(Some(takeover));
        }
    }
}
