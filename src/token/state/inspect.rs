//! Reads a state file from outside: whether a daemon that starts now, as this user or the folder's owner, could use it.
//!
//! No lock is taken, since a daemon may hold it. The state is nevertheless read as a whole: a state file is replaced and
//! never overwritten.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::age::Stamp;
use super::atomic_file::{AtomicFile, Content};
use super::disk::Folder;
use super::file::{Identity, OpenError, State, StateKeys, StateRefusal, Warning};
use super::format::{Decoded, Format};
use super::lock;
use crate::clock::Clock;
use crate::judged_as::JudgedAs;
use crate::token::limiter::LATCH_MAX;

/// The findings of an inspection.
#[derive(Debug)]
pub struct Inspection {
    /// The user as whom the files were judged, unless that is the user of this process.
    pub other_user: Option<u32>,
    /// Why the folder is not writable, if so.
    pub not_writable: Option<io::Error>,
    /// Whether the disk has no space left: the daemon would start, and keep the state in memory.
    pub is_disk_full: bool,
    /// The folder's permissions, if they admit every user.
    pub open_folder: Option<u32>,
    /// Warnings about the state.
    pub warnings: Vec<Warning>,
    /// The state; empty if there is no file.
    pub state: State,
}

impl Inspection {
    /// Inspects the state file of this `identity`. If `moves_damage_aside`, a damaged file is a warning and
    /// not an error.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the folder or the lock cannot be used, or the state would be refused.
    pub fn of(
        path: &Path,
        identity: Identity,
        keys: StateKeys,
        clock: Clock,
        user: JudgedAs,
        moves_damage_aside: bool,
    ) -> Result<Self, OpenError> {
        let (folder, name) = Folder::of(path)?;
        let folder = folder.judged_as(user).map_err(|error| OpenError::Folder(path.to_owned(), error))?;
        let other_user = folder.other_user();
        let not_writable = folder.check_writable().err();
        let is_disk_full = folder.is_full().map_err(|error| OpenError::Folder(path.to_owned(), error))?;
        let mode = folder.mode().map_err(|error| OpenError::Folder(path.to_owned(), error))?;
        let open_folder = (mode & 0o007 != 0).then_some(mode);
        let lock = folder.check_usable(&lock::name_of(name));
        lock.map_err(|error| OpenError::Lock(path.to_owned(), error))?;
        let format = Format::new(identity, keys, name.as_bytes(), LATCH_MAX);
        let (warnings, state) = match read(&AtomicFile::new(folder, name), &format, clock) {
            Err(refusal) if moves_damage_aside && refusal.is_damage() => {
                (vec![Warning::Damaged(refusal)], State::default())
            }
            read => read.map_err(|refusal| OpenError::Refused(path.to_owned(), refusal))?,
        };
        Ok(Self { other_user, not_writable, is_disk_full, open_folder, warnings, state })
    }
}

/// Reads the state and the warnings about it. Without a file the state is empty.
fn read(
    file: &AtomicFile<Folder>,
    format: &Format,
    clock: Clock,
) -> Result<(Vec<Warning>, State), StateRefusal> {
    let Some(Content { bytes, group_mode, .. }) = file.read()? else {
        return Ok((Vec::new(), State::default()));
    };
    let Decoded { has_old_key, state, discarded, .. } = format.read_or_discard(&bytes, &Stamp::now(clock))?;
    let warnings = [
        discarded.map(Warning::Discarded),
        has_old_key.then_some(Warning::OldKey),
        group_mode.map(Warning::GroupMode),
    ];
    Ok((warnings.into_iter().flatten().collect(), state))
}
