//! Reads a state file from outside: whether a daemon that starts now, as this user, could use it.
//!
//! No lock is taken, since a daemon may hold it. The state is nevertheless read as a whole: a state file is replaced and
//! never overwritten.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::age::Stamp;
use super::atomic_file::{AtomicFile, Content};
use super::disk::Folder;
use super::file::{Identity, OpenError, State, StateKeys, Warning};
use super::format::{Decoded, Format};
use super::lock;
use crate::clock::Clock;
use crate::token::limiter::LATCH_MAX;

/// The findings of an inspection.
#[derive(Debug)]
pub struct Inspection {
    /// Why the folder is not writable, if so.
    pub not_writable: Option<io::Error>,
    /// The folder's permissions, if they admit every user.
    pub open_folder: Option<u32>,
    /// Warnings about the state.
    pub warnings: Vec<Warning>,
    /// The state; empty if there is no file.
    pub state: State,
}

impl Inspection {
    /// Inspects the state file of this `identity`.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the folder or the lock cannot be used, or the state would be refused.
    pub fn of(path: &Path, identity: Identity, keys: StateKeys, clock: Clock) -> Result<Self, OpenError> {
        let name = path.file_name().ok_or_else(|| OpenError::NotAFile(path.to_owned()))?;
        let no_folder = |source| OpenError::Folder { path: path.to_owned(), source };
        let folder = Folder::open(path.parent().unwrap_or(Path::new(""))).map_err(no_folder)?;
        let not_writable = folder.check_writable().err();
        let open_folder = Some(folder.mode().map_err(no_folder)?).filter(|mode| mode & 0o007 != 0);
        folder
            .check_usable(&lock::name_of(name))
            .map_err(|source| OpenError::Lock { path: path.to_owned(), source })?;
        let refused = |source| OpenError::Refused { path: path.to_owned(), source };
        let content = AtomicFile::new(folder, name).read().map_err(refused)?;
        let (mut warnings, mut found) = (Vec::new(), State::default());
        if let Some(Content { bytes, group_mode, .. }) = content {
            let format = Format::new(identity, keys, name.as_bytes(), LATCH_MAX);
            let Decoded { has_old_key, state, .. } =
                format.read(&bytes, &Stamp::now(clock)).map_err(refused)?;
            found = state;
            warnings.extend(has_old_key.then_some(Warning::OldKey));
            warnings.extend(group_mode.map(|mode| Warning::GroupMode { mode }));
        }
        Ok(Self { not_writable, open_folder, warnings, state: found })
    }
}
