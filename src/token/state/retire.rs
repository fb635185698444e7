//! Takes a state out of use without reading its content: removes the state file, or moves the file aside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Folder};
use super::error::OpenError;
use super::lock::Lock;

/// A state file whose lock this process holds, and whose content is not read.
#[derive(Debug)]
pub struct RetiredState {
    path: PathBuf,
    folder: Folder,
    name: OsString,
    lock: Lock,
}

impl RetiredState {
    /// Takes the lock of the state file.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the folder cannot be opened, or another process holds the state.
    pub fn take(path: &Path) -> Result<Self, OpenError> {
        let (folder, name) = Folder::of(path)?;
        let (lock, _) = Lock::take(&folder, name, path)?;
        Ok(Self { path: path.to_owned(), name: name.to_owned(), folder, lock })
    }

    /// Whether the state file exists.
    pub fn exists(&self) -> bool {
        self.folder.id_of(&self.name).is_ok()
    }

    /// Removes the state file, and resets the number of the latest write in the lock file to 0.
    ///
    /// # Errors
    ///
    /// [`OpenError::Remove`].
    pub fn remove(self) -> Result<(), OpenError> {
        let removed = self.folder.remove(&self.name).and_then(|()| self.folder.sync_folder());
        removed.map_err(|error| OpenError::Remove(self.path, error))?;
        self.lock.note(0);
        Ok(())
    }

    /// Renames the state file to the first unused name `NAME.corrupt-<n>`, and returns the new path.
    ///
    /// # Errors
    ///
    /// The error of the system call that failed.
    pub fn move_aside(self) -> io::Result<PathBuf> {
        let names = self.folder.names()?;
        let aside = (1..=u32::MAX).map(|number| corrupt_name(&self.name, number));
        let aside =
            aside.into_iter().find(|aside| !names.contains(aside)).ok_or(io::ErrorKind::AlreadyExists)?;
        self.folder.rename(&self.name, &aside)?;
        self.folder.sync_folder()?;
        self.lock.note(0);
        Ok(self.path.with_file_name(aside))
    }
}

fn corrupt_name(name: &OsStr, number: u32) -> OsString {
    let mut aside = name.to_owned();
    aside.push(format!(".corrupt-{number}"));
    aside
}
