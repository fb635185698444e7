//! A look at a state from outside: whether a daemon that starts now, as this user, could work with it.
//!
//! It takes no lock, since a daemon may hold it; what is read is a whole state all the same, as states are replaced and
//! not written over.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::age::Stamp;
use super::atomic_file::{Content, Durable};
use super::disk::Folder;
use super::file::{Identity, OpenError, State, StateKeys, Warning};
use super::format::{Format, Read};
use super::lock;
use crate::clock::Clock;
use crate::token::limiter::LATCH_MAX;

/// What was seen.
#[derive(Debug)]
pub struct Look {
    /// Why nothing could be written there, if so.
    pub not_writable: Option<io::Error>,
    /// The folder's permissions, if every user gets at it.
    pub open_folder: Option<u32>,
    /// What is odd about the state.
    pub warnings: Vec<Warning>,
    /// What is in it; nothing if there is none.
    pub state: State,
}

impl Look {
    /// At the state of this `identity`.
    ///
    /// # Errors
    ///
    /// [`OpenError`] as of its folder, its lock, and where the state would be refused.
    pub fn at(path: &Path, identity: Identity, keys: StateKeys, clock: Clock) -> Result<Self, OpenError> {
        let name = path.file_name().ok_or_else(|| OpenError::NotAFile(path.to_owned()))?;
        let no_folder = |source| OpenError::Folder { path: path.to_owned(), source };
        let folder = Folder::open(path.parent().unwrap_or(Path::new(""))).map_err(no_folder)?;
        let not_writable = folder.check_writable().err();
        let open_folder = Some(folder.mode().map_err(no_folder)?).filter(|mode| mode & 0o007 != 0);
        folder
            .check_usable(&lock::name_of(name))
            .map_err(|source| OpenError::Lock { path: path.to_owned(), source })?;
        let refused = |source| OpenError::Refused { path: path.to_owned(), source };
        let content = Durable::new(folder, name).read().map_err(refused)?;
        let (mut warnings, mut found) = (Vec::new(), State::default());
        if let Some(Content { bytes, group_mode, .. }) = content {
            let format = Format::new(identity, keys, name.as_bytes(), LATCH_MAX);
            let Read { has_old_key, state, .. } = format.read(&bytes, &Stamp::now(clock)).map_err(refused)?;
            found = state;
            warnings.extend(has_old_key.then_some(Warning::OldKey));
            warnings.extend(group_mode.map(|mode| Warning::GroupMode { mode }));
        }
        Ok(Self { not_writable, open_folder, warnings, state: found })
    }
}
