//! The lock file beside a state file: one process uses the state, and a second one learns which process that is.
//!
//! The system releases the lock when its holder dies, so a lock file that is left over excludes nobody. The lock file is never
//! removed: another process may have opened it already, and would then lock a file that has no name.
//!
//! The lock file also holds the number of the latest write. An older copy of the state that is put back has a lower number,
//! and is noticed unless the lock file is put back too. The number is written after the state and not synced: it may be too
//! low, and is never too high.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::disk::{Disk, FileId, Folder};
use super::error::OpenError;

use crate::peer_text::printable;

/// The most that is read of a lock file.
const MAX_LOCK_BYTES: u64 = 4096;
/// The time in which a process that has taken the lock writes its id to the lock file.
const HOLDER_WRITE_DELAY: Duration = Duration::from_millis(50);
const WRITE_PREFIX: &str = "write ";

/// The lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// This process, as an error message of another process shows it.
    holder: String,
}

impl Lock {
    /// Takes the lock of a file in this folder. Answers the number of the file's latest known write, too.
    ///
    /// # Errors
    ///
    /// [`OpenError::Lock`], or [`OpenError::Held`] where another process holds the lock.
    pub(super) fn take(folder: &Folder, name: &OsStr, path: &Path) -> Result<(Self, u64), OpenError> {
        let failed = |error| OpenError::Lock(path.to_owned(), error);
        let file = folder.open_or_create(&name_of(name)).map_err(failed)?;
        if !folder.status(&file).map_err(failed)?.is_regular {
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, "the lock is not a regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(HOLDER_WRITE_DELAY);
                let content = content(&file).unwrap_or_default();
                let holder = content.lines().next().filter(|line| !line.is_empty());
                return Err(OpenError::Held(path.to_owned(), printable(holder.unwrap_or("another process"))));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let latest = content(&file).ok().as_deref().and_then(latest_write).unwrap_or_default();
        let host = rustix::system::uname();
        let holder = format!("process {} on {}", std::process::id(), host.nodename().to_string_lossy());
        let lock = Self { file, holder };
        // The lock is held even where a full disk prevents this.
        let text = lock.text(latest);
        let _ =
            lock.file.write_all_at(text.as_bytes(), 0).and_then(|()| lock.file.set_len(text.len() as u64));
        Ok((lock, latest))
    }

    /// Whether this lock still keeps other processes from the file in this folder. A lock on a deleted lock
    /// file excludes no process.
    pub(super) fn is_in(&self, folder: &Folder, name: &OsStr) -> bool {
        let ours = FileId::of_open(&self.file).ok();
        ours.is_some() && ours == folder.id_of(&name_of(name)).ok()
    }

    /// Records the number of the latest write.
    pub(super) fn note(&self, sequence: u64) {
        // Without this number an older copy is not noticed; nothing else is lost.
        let _ = self.file.write_all_at(self.text(sequence).as_bytes(), 0);
    }

    /// The lock file's content, of constant length for one holder, so that one write replaces it.
    fn text(&self, sequence: u64) -> String {
        format!("{}\n{WRITE_PREFIX}{sequence:020}\n", self.holder)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file does not suffice: a child process that is being started may still have a copy of it.
        let _ = self.file.unlock();
    }
}

/// The name of a file's lock file.
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
