//! Request bodies of one HTTP/2 connection that wait to be read, because their upstreams do not read them.
//!
//! Enough of them fill the connection's window. Then its caller can send nothing of the others either, however
//! much it would like to, and must not be blamed for that.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

/// So many full windows of streams are the window of a connection.
pub const FULL: u32 = 16;

/// Counts the unread bodies of a connection.
#[derive(Clone, Debug, Default)]
pub struct Backlog(Rc<Cell<u32>>);

/// One body of a connection; without a backlog it is the only one there is.
#[derive(Debug, Default)]
pub struct Unread {
    backlog: OnceCell<Backlog>,
    is_unread: Cell<bool>,
}

impl Unread {
    /// It is one of these.
    pub fn join(&self, backlog: &Backlog) {
        // A body has one connection: who joins again joins the same.
        let _ = self.backlog.set(backlog.clone());
    }

    /// Whether there is something of it that nobody reads.
    pub fn set(&self, is_unread: bool) {
        if let Some(Backlog(count)) = self.backlog.get()
            && self.is_unread.replace(is_unread) != is_unread
        {
            count.set(if is_unread { count.get() + 1 } else { count.get() - 1 });
        }
    }

    /// Whether the caller may be unable to send.
    pub fn may_block(&self) -> bool {
        self.backlog.get().is_some_and(|backlog| backlog.0.get() >= FULL)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_blocked_by_many_unread_bodies_and_free_when_one_is_read_or_dropped() {
        let backlog = Backlog::default();
        let mut bodies: Vec<Unread> = (0..FULL).map(|_| Unread::default()).collect();
        for body in &bodies {
            assert!(!body.may_block());
            body.join(&backlog);
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
    fn a_body_of_its_own_blocks_nothing() {
        let body = Unread::default();
        body.set(true);
        assert!(!body.may_block());
    }
}
