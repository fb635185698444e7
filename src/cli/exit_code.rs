//! The exit codes of the commands.

pub(super) const OK: u8 = 0;
pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
/// The daemon cannot be reached (sysexits.h, `EX_UNAVAILABLE`).
pub(super) const UNAVAILABLE: u8 = 69;
/// The configuration is invalid (sysexits.h, `EX_CONFIG`).
pub(super) const BAD_CONFIGURATION: u8 = 78;
