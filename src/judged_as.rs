//! As whom the files of a folder are judged: a daemon that starts judges as itself, and root's `bearerd check` as the
//! daemon's user.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, Stat, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The user for whom the files of a folder must be usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgedAs {
    /// The user of this process.
    ThisUser,
    /// The owner of the folder if this process is root's, or else its own user: daemons rarely run as root, and root may
    /// open whatever belongs to the daemon.
    FolderOwner,
}

impl JudgedAs {
    /// The id of the user, for the files of this folder.
    ///
    /// # Errors
    ///
    /// That of the system if the folder has no status.
    pub fn user(self, folder: impl AsFd) -> io::Result<u32> {
        let own = geteuid();
        match self {
            Self::FolderOwner if own.is_root() => Ok(fstat(folder)?.st_uid),
            _ => Ok(own.as_raw()),
        }
    }
}

/// Whether this process runs as the user.
pub fn is_this_user(user: u32) -> bool {
    geteuid().as_raw() == user
}

/// Whether a file belongs to the user, and grants its owner all of `access`.
///
/// # Errors
///
/// `PermissionDenied`.
pub fn check_owner(status: &Stat, user: u32, access: Mode) -> io::Result<()> {
    let is_granted = status.st_uid == user && Mode::from_raw_mode(status.st_mode).contains(access);
    if is_granted { Ok(()) } else { Err(Errno::ACCESS.into()) }
}
