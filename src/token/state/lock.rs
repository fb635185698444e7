//! The lock beside a state file: one process works with it, and a second learns who.
//!
//! The system lets go of it when its holder dies, so a lock file that nobody holds keeps nobody out. It is never
//! removed: who had opened it before and locks it then would hold nothing.
//!
//! It is also the second copy of which write was the latest. An older state that is put back is noticed by that, unless
//! the lock file is put back with it, as a restored folder does. The note is made after the write and not synced: it
//! may be behind and is never ahead.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::disk::{Disk, Folder};
use crate::token::error::printable;

/// More than it ever holds.
const MAX_LOCK_BYTES: u64 = 4096;
/// So long after taking the lock its holder has written who it is.
const HOLDER_WRITE_DELAY: Duration = Duration::from_millis(50);
const WRITE_PREFIX: &str = "write ";

/// Held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Who we are, as others read it.
    holder: String,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// Someone has it, as they say.
    Held(String),
    /// It cannot be had.
    Failed(io::Error),
}

impl Lock {
    /// Takes the lock of a file, and says which write was its latest as far as is known.
    pub(super) fn take(folder: &Folder, name: &OsStr) -> Result<(Self, u64), LockError> {
        let file = folder.open_or_create(&name_of(name)).map_err(LockError::Failed)?;
        if !folder.status(&file).map_err(LockError::Failed)?.is_regular {
            let error = io::Error::new(ErrorKind::InvalidInput, "the lock is not a regular file");
            return Err(LockError::Failed(error));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(HOLDER_WRITE_DELAY);
                let content = content(&file).unwrap_or_default();
                let holder = content.lines().next().filter(|line| !line.is_empty());
                return Err(LockError::Held(holder.map_or_else(|| "another process".to_owned(), printable)));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Failed(error)),
        }
        let latest = content(&file).ok().as_deref().and_then(latest_write).unwrap_or_default();
        let host = rustix::system::uname();
        let holder = format!("process {} on {}", std::process::id(), host.nodename().to_string_lossy());
        let lock = Self { file, holder };
        // The lock is held whether a full disk takes our name or not.
        let _ = lock.introduce(latest);
        Ok((lock, latest))
    }

    /// Notes which write was the latest.
    pub(super) fn note(&self, sequence: u64) {
        // Without the note a restored copy is not noticed; nothing else is lost.
        let _ = self.file.write_all_at(self.text(sequence).as_bytes(), 0);
    }

    fn introduce(&self, latest: u64) -> io::Result<()> {
        let text = self.text(latest);
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Of one length as long as we hold it, so that it is overwritten in one piece.
    fn text(&self, sequence: u64) -> String {
        format!("{}\n{WRITE_PREFIX}{sequence:020}\n", self.holder)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do where a process is being started and has not closed its copy yet.
        let _ = self.file.unlock();
    }
}

/// What the lock of a file is called.
pub(super) fn name_of(name: &OsStr) -> OsString {
    let mut lock_name = OsString::from(name);
    lock_name.push(".lock");
    lock_name
}

fn latest_write(content: &str) -> Option<u64> {
    content.lines().find_map(|line| line.strip_prefix(WRITE_PREFIX))?.parse().ok()
}

fn content(file: &File) -> io::Result<String> {
    let mut content = String::new();
    file.take(MAX_LOCK_BYTES).read_to_string(&mut content)?;
    Ok(content)
}
