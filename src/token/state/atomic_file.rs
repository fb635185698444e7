//! A file that is replaced as a whole: whatever happens, what is found later is the old content or the new.
//!
//! A temporary file in the same folder is made, written and synced, takes the file's name, and then the folder is
//! synced. Where a step fails, the temporary file goes and the old one stays. A failed sync is never tried again on
//! the same file, since the system may have dropped what it could not write: the next attempt makes another.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::disk::Disk;
use super::error::{SaveError, StateRefusal, WriteStep};

/// Far more than the largest state, little enough to be read at once.
pub(super) const MAX_STATE_BYTES: usize = 256 * 1024;

/// Others may neither read nor write it.
const MODE_OTHERS: u32 = 0o007;
/// Nor should its group.
const MODE_GROUP: u32 = 0o070;

/// One name in a folder.
#[derive(Debug)]
pub(super) struct AtomicFile<D> {
    disk: D,
    name: OsString,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Content {
    /// All of it.
    pub(super) bytes: Vec<u8>,
    /// Its permissions, if its group may read or write it.
    pub(super) group_mode: Option<u32>,
    /// Why it might be gone after a power cut, if so.
    pub(super) not_synced: Option<io::Error>,
}

impl<D: Disk> AtomicFile<D> {
    pub(super) fn new(disk: D, name: &OsStr) -> Self {
        Self { disk, name: name.to_owned() }
    }

    /// The whole file, or nothing if there is none.
    ///
    /// Whoever wrote it may have died before it was durable, so it is made that now.
    pub(super) fn read(&self) -> Result<Option<Content>, StateRefusal> {
        let Some((file, mut content)) = self.open()? else {
            return Ok(None);
        };
        content.not_synced = self.disk.sync(&file).and_then(|()| self.disk.sync_folder()).err();
        Ok(Some(content))
    }

    /// Its bytes, whether they are durable or not.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>, StateRefusal> {
        Ok(self.open()?.map(|(_, content)| content.bytes))
    }

    fn open(&self) -> Result<Option<(D::File, Content)>, StateRefusal> {
        let mut file = match self.disk.open(&self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if is(&error, Errno::LOOP) => return Err(StateRefusal::Symlink),
            // A socket.
            Err(error) if is(&error, Errno::NXIO) => return Err(StateRefusal::NotRegular),
            Err(error) => return Err(StateRefusal::Unreadable(error)),
        };
        let status = self.disk.status(&file).map_err(StateRefusal::Unreadable)?;
        if !status.is_regular {
            return Err(StateRefusal::NotRegular);
        }
        if let Some(uid) = status.stranger {
            return Err(StateRefusal::Owner { uid });
        }
        if status.mode & MODE_OTHERS != 0 {
            return Err(StateRefusal::Permissions { mode: status.mode });
        }
        if usize::try_from(status.bytes).map_or(true, |bytes| bytes > MAX_STATE_BYTES) {
            return Err(StateRefusal::TooLarge);
        }
        let bytes = self.read_all(&mut file)?;
        let group_mode = (status.mode & MODE_GROUP != 0).then_some(status.mode);
        Ok(Some((file, Content { bytes, group_mode, not_synced: None })))
    }

    fn read_all(&self, file: &mut D::File) -> Result<Vec<u8>, StateRefusal> {
        let mut bytes = vec![0; MAX_STATE_BYTES + 1];
        let mut length = 0;
        while length < bytes.len() {
            match self.disk.read(file, &mut bytes[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StateRefusal::Unreadable(error)),
            }
        }
        if length > MAX_STATE_BYTES {
            return Err(StateRefusal::TooLarge);
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Replaces the file's content, or makes the file.
    ///
    /// Once this has returned, the new content survives a power cut. If it fails, the old content is what is found
    /// later; the new one only if all that failed was to make it durable.
    pub(super) fn replace(&self, bytes: &[u8]) -> Result<(), SaveError> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(SaveError::TooLarge { bytes: bytes.len() });
        }
        let temporary = self.temporary_name();
        let failed = |step| move |source| SaveError::Disk { step, source };
        let mut file = self.disk.create(&temporary).map_err(failed(WriteStep::Create))?;
        let written = self
            .write_all(&mut file, bytes)
            .map_err(failed(WriteStep::Write))
            .and_then(|()| self.disk.sync(&file).map_err(failed(WriteStep::Sync)))
            .and_then(|()| self.disk.rename(&temporary, &self.name).map_err(failed(WriteStep::Rename)));
        if let Err(error) = written {
            // What cannot be removed now is removed at the next start.
            let _ = self.disk.remove(&temporary);
            return Err(error);
        }
        self.disk.sync_folder().map_err(failed(WriteStep::SyncFolder))
    }

    fn write_all(&self, file: &mut D::File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.disk.write(file, bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes what a process that died in the middle of a write has left. Only for who holds the lock.
    pub(super) fn remove_leftovers(&self) {
        let names = self.disk.names().unwrap_or_default();
        for name in names.iter().filter(|name| self.is_temporary(name)) {
            // It does no harm where it is.
            let _ = self.disk.remove(name);
        }
    }

    /// A name that no other attempt has: an earlier one's file may still be there.
    fn temporary_name(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".{:016x}.tmp", fastrand::u64(..)));
        name
    }

    fn is_temporary(&self, name: &OsStr) -> bool {
        let attempt = name
            .as_bytes()
            .strip_prefix(b".")
            .and_then(|rest| rest.strip_prefix(self.name.as_bytes()))
            .and_then(|rest| rest.strip_prefix(b"."))
            .and_then(|rest| rest.strip_suffix(b".tmp"));
        attempt.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests;
