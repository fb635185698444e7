//! A file that is replaced atomically: after a crash or a power cut it holds the old content or the new.
//!
//! A temporary file in the same folder is created, written, synced and renamed to the file's name; then the folder is synced.
//! Where a step fails, the temporary file is removed and the old file stays. A failed sync is never repeated on the same
//! temporary file, since the system may have dropped the data that it could not write: the next attempt creates another.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::disk::Disk;
use super::error::{SaveError, StateRefusal};

/// The largest state file that is read or written: far more than any state needs.
pub(in crate::token) const MAX_STATE_BYTES: usize = 256 * 1024;

/// The permission bits of other users, none of which may be set.
const MODE_OTHERS: u32 = 0o007;
/// The permission bits of the file's group, which should not be set.
const MODE_GROUP: u32 = 0o070;

/// A file name in a folder.
#[derive(Debug)]
pub(super) struct AtomicFile<D> {
    disk: D,
    name: OsString,
}

/// A file's content and condition.
#[derive(Debug)]
pub(super) struct Content {
    /// The whole content.
    pub(super) bytes: Vec<u8>,
    /// The file's permissions, if its group may read or write it.
    pub(super) group_mode: Option<u32>,
    /// Why the file may not survive a power cut, if so.
    pub(super) not_synced: Option<io::Error>,
}

impl<D: Disk> AtomicFile<D> {
    pub(super) fn new(disk: D, name: &OsStr) -> Self {
        Self { disk, name: name.to_owned() }
    }

    /// The folder that holds the file.
    pub(super) const fn folder(&self) -> &D {
        &self.disk
    }

    /// The whole file; `None` if there is none. Syncs the file, since the process that wrote it may have died before its
    /// own sync.
    pub(super) fn read(&self) -> Result<Option<Content>, StateRefusal> {
        let Some((file, mut content)) = self.open(true)? else {
            return Ok(None);
        };
        content.not_synced = self.disk.sync(&file).and_then(|()| self.disk.sync_folder()).err();
        Ok(Some(content))
    }

    /// The file's bytes, without a sync, and whoever may change the file: for a comparison only.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>, StateRefusal> {
        Ok(self.open(false)?.map(|(_, content)| content.bytes))
    }

    /// Opens and reads the file. A file that others may change is refused if `is_to_be_used`.
    fn open(&self, is_to_be_used: bool) -> Result<Option<(D::File, Content)>, StateRefusal> {
        let mut file = match self.disk.open(&self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if is(&error, Errno::LOOP) => return Err(StateRefusal::Symlink),
            // The error of opening a socket.
            Err(error) if is(&error, Errno::NXIO) => return Err(StateRefusal::NotRegular),
            Err(error) => return Err(StateRefusal::Unreadable(error)),
        };
        let status = self.disk.status(&file).map_err(StateRefusal::Unreadable)?;
        if !status.is_regular {
            return Err(StateRefusal::NotRegular);
        }
        if let Some(uid) = status.other_owner.filter(|_| is_to_be_used) {
            return Err(StateRefusal::Owner(uid));
        }
        if is_to_be_used && status.mode & MODE_OTHERS != 0 {
            return Err(StateRefusal::Permissions(status.mode));
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

    /// Replaces the file's content, or creates the file. Once this has returned, the new content survives a power cut.
    ///
    /// # Errors
    ///
    /// [`SaveError`]. The file holds the old content, or the new one if only the sync of the folder has failed.
    pub(super) fn replace(&self, bytes: &[u8]) -> Result<(), SaveError> {
        if bytes.len() > MAX_STATE_BYTES {
            return Err(SaveError::TooLarge(bytes.len()));
        }
        let temporary = self.temporary_name();
        let failed = |step| move |source| SaveError::Disk(step, source);
        let mut file = self.disk.create(&temporary).map_err(failed("a temporary file cannot be made"))?;
        let mut renamed = || {
            self.write_all(&mut file, bytes).map_err(failed("the temporary file cannot be written"))?;
            self.disk.sync(&file).map_err(failed("the temporary file cannot be synced"))?;
            let renamed = self.disk.rename(&temporary, &self.name);
            renamed.map_err(failed("the temporary file cannot take the state's name"))
        };
        // A file that cannot be removed now is removed at the next start.
        renamed().inspect_err(|_| drop(self.disk.remove(&temporary)))?;
        self.disk.sync_folder().map_err(failed("the folder cannot be synced"))
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

    /// Removes the temporary files of processes that died during a write. The caller must hold the lock.
    pub(super) fn remove_leftovers(&self) {
        let names = self.disk.names().unwrap_or_default();
        for name in names.iter().filter(|name| self.is_temporary(name)) {
            // A file that stays does no harm.
            let _ = self.disk.remove(name);
        }
    }

    /// A random name: the temporary file of an earlier attempt may still exist.
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
