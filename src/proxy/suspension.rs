//! Timeouts of a process that was suspended: by a signal, a debugger, or a virtual machine that was frozen.
//!
//! After a suspension all timers fire together, before the bytes that arrived meanwhile are read. A timer that fires late is
//! therefore extended by a moment.

use std::time::Duration;

use tokio::time::Instant;

/// The latest that a timer fires while the process runs, and the time to read what arrived during a suspension.
pub(super) const MAX_LATENESS: Duration = Duration::from_secs(1);

/// The new deadline of a timer that has just fired, if the process was suspended when the timer was due at `deadline`.
pub(super) fn extended(deadline: Instant) -> Option<Instant> {
    let now = Instant::now();
    (now.duration_since(deadline) >= MAX_LATENESS).then(|| now + MAX_LATENESS)
}
