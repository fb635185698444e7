//! What of a credential outlives the process: the rotated refresh token, the access token, the limiter's memory.
//!
//! The refresher opens its [`StateFile`] at the start and saves a [`State`] whenever one of these changes; a rotated
//! refresh token is saved before its access token is used. What is on disk is the old state or the new one, whenever
//! the process dies or the power goes. A file that is damaged, of another credential or of another version is
//! refused with the reason, and stays as it is: there is no [`StateFile`] to overwrite it with. Where a save fails,
//! what is in memory stays in use and is saved again later.
//!
//! Its calls wait for the disk, which may take long: they belong on a thread where that may be.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::error::{OpenError, RUN_AS_DAEMON_USER, SaveError, StateRefusal, Warning, WriteStep};
pub use super::inspect::Inspection;
pub use super::record::{ClearPart, ClientSecretHash, Identity, Lineage, RefusedTokenHash, Settings, State};
use aws_lc_rs::digest::{Digest, SHA256, digest};

pub use crate::config::model::state_key::{IllegalKey, StateKey, StateKeys};

use super::age::Stamp;
use super::atomic_file::{AtomicFile, Content};
use super::disk::Folder;
use super::format::{Decoded, Format};
use super::lock::{Lock, LockError};
use crate::clock::Clock;

/// One credential's state on disk, and the right to change it: no other process has it as long as this lives.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    durable: AtomicFile<Folder>,
    lock: Lock,
    format: Format,
    clock: Clock,
    /// The latest write that is known to have been made.
    latest: u64,
    /// What is in the file as far as we know: a hash of it.
    content: Option<Digest>,
    /// The latest that was tried: no two attempts have the same number.
    tried: u64,
}

/// What was found.
#[derive(Debug)]
pub struct FoundState {
    /// The state; none where there is no file.
    pub state: Option<State>,
    /// What is odd about it.
    pub warnings: Vec<Warning>,
}

impl StateFile {
    /// Takes the lock, clears away what an interrupted write has left, and reads.
    ///
    /// The state is this `identity`'s or is refused. A gate found in it ends within `longest_wait`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Held`] where another process has it, [`OpenError::Refused`] where it is not to be believed, and
    /// as of its folder and its lock.
    pub fn open(
        path: &Path,
        identity: Identity,
        keys: StateKeys,
        longest_wait: Duration,
        clock: Clock,
    ) -> Result<(Self, FoundState), OpenError> {
        let name = path.file_name().ok_or_else(|| OpenError::NotAFile(path.to_owned()))?;
        let folder = Folder::open(path.parent().unwrap_or(Path::new("")))
            .map_err(|source| OpenError::Folder { path: path.to_owned(), source })?;
        let (lock, latest) = Lock::take(&folder, name).map_err(|error| match error {
            LockError::Held(holder) => OpenError::Held { path: path.to_owned(), holder },
            LockError::Failed(source) => OpenError::Lock { path: path.to_owned(), source },
        })?;
        let mut file = Self {
            path: path.to_owned(),
            durable: AtomicFile::new(folder, name),
            lock,
            format: Format::new(identity, keys, name.as_bytes(), longest_wait),
            clock,
            latest,
            content: None,
            tried: latest,
        };
        file.durable.remove_leftovers();
        let found = file.read()?;
        Ok((file, found))
    }

    /// Reads the file once more: someone may have put another one there.
    ///
    /// Where that is refused, what is in memory stays the state, and the next save replaces what was put there.
    ///
    /// # Errors
    ///
    /// [`OpenError::Refused`].
    pub fn read(&mut self) -> Result<FoundState, OpenError> {
        let refused = |source| OpenError::Refused { path: self.path.clone(), source };
        let now = Stamp::now(self.clock);
        let Some(Content { bytes, group_mode, not_synced }) = self.durable.read().map_err(refused)? else {
            let gone = (self.latest > 0).then_some(Warning::Gone { latest: self.latest });
            return Ok(FoundState { state: None, warnings: gone.into_iter().collect() });
        };
        self.content = Some(digest(&SHA256, &bytes));
        let Decoded { state, sequence, has_old_key } = self.format.read(&bytes, &now).map_err(refused)?;
        let warnings = [
            (sequence < self.latest).then_some(Warning::RolledBack { found: sequence, latest: self.latest }),
            has_old_key.then_some(Warning::OldKey),
            group_mode.map(|mode| Warning::GroupMode { mode }),
            not_synced.map(Warning::NotSynced),
        ];
        self.latest = self.latest.max(sequence);
        self.tried = self.tried.max(sequence);
        self.lock.note(self.latest);
        Ok(FoundState { state: Some(state), warnings: warnings.into_iter().flatten().collect() })
    }

    /// Replaces the state on disk. Once this has returned, it survives the process's death and a power cut.
    ///
    /// Without a key only the [`ClearPart`] is written.
    ///
    /// # Errors
    ///
    /// [`SaveError`] says at which step it failed. What is on disk is as it was, or the new state, if all that failed
    /// was to make it durable; saving again is always right.
    pub fn save(&mut self, state: &State) -> Result<(), SaveError> {
        self.tried = self.tried.saturating_add(1);
        let bytes = self.format.write(state, self.tried, Stamp::now(self.clock))?;
        // A step that fails may come after the one that replaces the file.
        self.content = None;
        self.durable.replace(&bytes)?;
        self.content = Some(digest(&SHA256, &bytes));
        self.latest = self.tried;
        self.lock.note(self.latest);
        Ok(())
    }

    /// Whether someone has put another file in the place of ours.
    pub fn is_replaced(&self) -> bool {
        let Some(ours) = &self.content else {
            return false;
        };
        match self.durable.bytes() {
            Ok(Some(bytes)) => digest(&SHA256, &bytes).as_ref() != ours.as_ref(),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    /// Whether tokens are written: only with a key.
    pub fn keeps_tokens(&self) -> bool {
        self.format.keeps_tokens()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests;
