//! The access log: one line for each exchange of a request and a response, always with the same members.

mod direct;
mod line;

pub use self::direct::hand_over;
pub(super) use self::direct::write_directly_to;
pub use self::line::{Line, Severity};

impl Line<'_> {
    /// Writes the line to the log.
    pub fn write(&self, severity: Severity) {
        if !direct::write(self, severity) {
            self.log(severity);
        }
    }
}
