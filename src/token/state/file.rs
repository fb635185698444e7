//! A credential's state file: the rotated refresh token, the access token and the limiter's snapshot, across restarts.
//!
//! A crash or a power cut leaves the old state or the new one. A file that is damaged, of another credential or of another
//! version is refused with the reason and not changed: without a [`StateFile`] nothing overwrites it. All calls block on the
//! disk, perhaps for long.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::error::{OpenError, RUN_AS_DAEMON_USER, SaveError, StateRefusal, Warning};
pub use super::inspect::Inspection;
pub use super::record::{
    ClearPart, ClientSecretHash, Doubt, Identity, Lineage, RefreshTokenHash, RequestMark, State,
};
pub use super::retire::RetiredState;
use aws_lc_rs::digest::{Digest, SHA256, digest};

pub use crate::config::model::state_key::{IllegalKey, StateKey, StateKeys};

use super::age::Stamp;
use super::atomic_file::{AtomicFile, Content};
use super::disk::Folder;
use super::format::{Decoded, Format};
use super::lock::Lock;
use crate::clock::Clock;

/// How many earlier contents of the file are recognized as this process's own.
const MAX_EARLIER: usize = 64;

/// One credential's state on disk, locked against other processes until this is dropped.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    durable: AtomicFile<Folder>,
    lock: Lock,
    format: Format,
    clock: Clock,
    /// The number of the latest write that is known to have succeeded.
    latest: u64,
    /// The hash of the file's content; `None` where that is unknown.
    content: Option<Digest>,
    /// The number of the latest attempt to write. No two attempts have the same number.
    tried: u64,
    /// The hashes of the contents that this process has read, written or tried to write before, the latest
    /// last.
    earlier: VecDeque<Digest>,
}

/// The state on disk, and warnings about it.
#[derive(Debug)]
pub struct FoundState {
    /// The state; `None` without a file.
    pub state: Option<State>,
    /// Warnings about the state.
    pub warnings: Vec<Warning>,
    /// Where the state comes from.
    pub origin: Origin,
}

/// The origin of a state that was found: its writer, and the order of that write and this process's own writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process has written or used the state before. The state in memory is at least as late.
    Own,
    /// Another process or a person has written the state. The write's number is not later than this process's
    /// latest.
    Other,
    /// Another process or a person has written the state. The write's number is later than all of this
    /// process.
    Later,
}

impl StateFile {
    /// Takes the lock, removes the temporary files of interrupted writes, and reads the state.
    ///
    /// A state of another `identity` is refused. A barrier in the state ends within `longest_wait`.
    pub fn open(
        path: &Path,
        identity: Identity,
        keys: StateKeys,
        longest_wait: Duration,
        clock: Clock,
    ) -> Result<(Self, FoundState), OpenError> {
        let (folder, name) = Folder::of(path)?;
        let (lock, latest) = Lock::take(&folder, name, path)?;
        let mut file = Self {
            path: path.to_owned(),
            durable: AtomicFile::new(folder, name),
            lock,
            format: Format::new(identity, keys, name.as_bytes(), longest_wait),
            clock,
            latest,
            content: None,
            tried: latest,
            earlier: VecDeque::new(),
        };
        file.durable.remove_leftovers();
        let found = file.read()?;
        file.remember_content();
        Ok((file, found))
    }

    /// Reads the file again: a person may have replaced it.
    pub fn read(&mut self) -> Result<FoundState, OpenError> {
        self.follow_path()?;
        let refused = |refusal| OpenError::Refused(self.path.clone(), refusal);
        let now = Stamp::now(self.clock);
        let Some(Content { bytes, group_mode, not_synced }) = self.durable.read().map_err(refused)? else {
            let gone = (self.latest > 0).then_some(Warning::Gone(self.latest));
            return Ok(FoundState { state: None, warnings: gone.into_iter().collect(), origin: Origin::Own });
        };
        let content = digest(&SHA256, &bytes);
        let is_own = self.earlier.iter().any(|earlier| earlier.as_ref() == content.as_ref());
        let read = self.format.read_or_discard(&bytes, &now).map_err(refused)?;
        // Only now: a file that is refused is not known, and so counts as another's.
        self.content = Some(content);
        let Decoded { state, sequence, has_old_key, discarded } = read;
        let warnings = [
            (sequence < self.latest).then_some(Warning::RolledBack { found: sequence, latest: self.latest }),
            discarded.map(Warning::Discarded),
            has_old_key.then_some(Warning::OldKey),
            group_mode.map(Warning::GroupMode),
            not_synced.map(Warning::NotSynced),
        ];
        let origin = if is_own {
            Origin::Own
        } else if sequence > self.tried {
            Origin::Later
        } else {
            Origin::Other
        };
        self.latest = self.latest.max(sequence);
        self.tried = self.tried.max(sequence);
        self.lock.note(self.latest);
        Ok(FoundState { state: Some(state), warnings: warnings.into_iter().flatten().collect(), origin })
    }

    /// Whether the file that was written, its lock file or their folder has been removed or replaced.
    pub fn is_lost(&self) -> bool {
        let is_there = |folder: &Folder, name: &OsStr| self.latest == 0 || folder.id_of(name).is_ok();
        !Folder::of(&self.path).is_ok_and(|(folder, name)| {
            self.holds(&folder, name).is_ok_and(|holds| holds && is_there(&folder, name))
        })
    }

    /// Whether this is the folder whose lock is held. A lock on a deleted lock file excludes no process.
    fn holds(&self, folder: &Folder, name: &OsStr) -> std::io::Result<bool> {
        Ok(folder.id()? == self.durable.folder().id()? && self.lock.is_in(folder, name))
    }

    /// Opens the folder and takes the lock anew if the path leads to another folder or lock file than those
    /// held. Where the folder or the lock file has been removed or replaced, a second process could otherwise
    /// use the state.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the new folder is missing, or another process holds its lock. The old folder and lock stay held.
    fn follow_path(&mut self) -> Result<(), OpenError> {
        let (folder, name) = Folder::of(&self.path)?;
        if self.holds(&folder, name).map_err(|error| OpenError::Folder(self.path.clone(), error))? {
            return Ok(());
        }
        let (lock, latest) = Lock::take(&folder, name, &self.path)?;
        self.latest = self.latest.max(latest);
        self.tried = self.tried.max(latest);
        lock.note(self.latest);
        self.durable = AtomicFile::new(folder, name);
        self.lock = lock;
        Ok(())
    }

    /// Replaces the state on disk. Once this has returned, the new state survives a crash and a power cut.
    ///
    /// Without a key only the [`ClearPart`] is written.
    ///
    /// # Errors
    ///
    /// [`SaveError`], also if another process holds the state meanwhile: its file is never overwritten. After
    /// an error the disk holds the old state, or the new state if only the last sync has failed. Saving again
    /// is always safe.
    pub fn save(&mut self, state: &State) -> Result<(), SaveError> {
        self.follow_path().map_err(|error| SaveError::Place(Box::new(error)))?;
        self.tried = self.tried.saturating_add(1);
        let bytes = self.format.write(state, self.tried, Stamp::now(self.clock))?;
        // The content before this write and the content of this write are both remembered: a write that fails
        // may already have renamed the file, and neither content is later than the state in memory.
        self.remember_content();
        self.content = Some(digest(&SHA256, &bytes));
        self.remember_content();
        self.content = None;
        self.durable.replace(&bytes)?;
        self.content = self.earlier.back().copied();
        self.latest = self.tried;
        self.lock.note(self.latest);
        Ok(())
    }

    fn remember_content(&mut self) {
        if self.earlier.len() >= MAX_EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.extend(self.content);
    }

    /// Whether another process or a person has replaced the file: its content is none that this process has read or
    /// written.
    pub fn is_replaced(&mut self) -> bool {
        if self.follow_path().is_err() {
            // The save that follows reports the error.
            return false;
        }
        match self.durable.bytes() {
            Ok(Some(bytes)) => {
                let content = digest(&SHA256, &bytes);
                let mut known = self.earlier.iter().chain(&self.content);
                !known.any(|known| known.as_ref() == content.as_ref())
            }
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// The state that a person has put on disk after all writes of this process, which a save must not overwrite; `None`
    /// if a save may overwrite the file, which is our own, older, or damaged.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the file is another's and cannot be read now, so that nobody knows whether it is later.
    pub fn later(&mut self) -> Result<Option<State>, OpenError> {
        if !self.is_replaced() {
            return Ok(None);
        }
        let ours = self.content;
        match self.read() {
            Ok(FoundState { origin: Origin::Later, state, .. }) => Ok(state),
            Ok(_) => {
                // A write that fails leaves the file, which is no content of ours.
                self.content = ours;
                Ok(None)
            }
            Err(OpenError::Refused(_, refusal)) if refusal.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the latest attempt to write, or of the file that was found, if that is higher.
    pub const fn number(&self) -> u64 {
        self.tried
    }

    /// Whether tokens are written, which takes a key.
    pub fn keeps_tokens(&self) -> bool {
        self.format.keeps_tokens()
    }
}

#[cfg(test)]
mod tests;
