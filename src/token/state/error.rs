//! Why a state is not opened, not accepted, or not written. No error quotes the state.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a state file cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The path has no file name.
    #[error("{} names no file", .0.display())]
    NotAFile(PathBuf),
    /// The folder of this state file is missing, or this user may not open it.
    #[error("cannot open the folder of the state file {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// The lock file of this state file cannot be opened or locked.
    #[error("cannot lock the state file {}", .0.display())]
    Lock(PathBuf, #[source] io::Error),
    /// Another process, here by its own description, holds the lock of this state file.
    #[error("the state file {} is in use by {}; two processes would use up each other's tokens", .0.display(), .1)]
    Held(PathBuf, String),
    /// The state file cannot be removed.
    #[error("cannot remove the state file {}", .0.display())]
    Remove(PathBuf, #[source] io::Error),
    /// The file cannot be accepted as the credential's state, and is not changed.
    #[error("the state file {} was refused and left as it is", .0.display())]
    Refused(PathBuf, #[source] StateRefusal),
}

/// Advice where a file belongs to another user, or this user may not open it.
pub const RUN_AS_DAEMON_USER: &str =
    "it has to be the daemon's own; run bearerd as the user that the daemon runs as";

impl OpenError {
    /// Advice to the operator.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotAFile(_) => "name a file",
            // The folder exists, and belongs to another user.
            Self::Folder(_, source) if source.kind() != io::ErrorKind::NotFound => RUN_AS_DAEMON_USER,
            Self::Folder(..) => {
                "make the folder of server.state_dir or state_file, for the daemon's user alone: mkdir -m 700"
            }
            Self::Lock(_, source) if source.kind() == io::ErrorKind::StorageFull => {
                "free space on the disk, or remove files"
            }
            Self::Lock(..) | Self::Remove(..) => RUN_AS_DAEMON_USER,
            Self::Held(..) => "stop the other process, or give this one a state_file of its own",
            Self::Refused(_, refusal) => refusal.help(),
        }
    }
}

impl StateRefusal {
    const fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) | Self::Owner(_) => RUN_AS_DAEMON_USER,
            Self::Permissions(_) => "chmod 600",
            Self::NoKey => "set state_key to the key that it was written under",
            Self::OtherKey => {
                "add the key that it was written under as state_key_previous; the daemon writes the state anew under \
                 state_key"
            }
            Self::Foreign => {
                "give the credential a state_file of its own; if its settings were changed, end the old grant with \
                 `bearerd forget CREDENTIAL` and, where the grant is a refresh token, configure a new one or run \
                 `bearerd login`"
            }
            Self::Symlink | Self::NotRegular => "move it away, or name another state_file",
            _ => {
                "configure a new refresh token, and end the damaged state with `bearerd forget CREDENTIAL`: the \
                 configured refresh token may have been used"
            }
        }
    }

    /// Whether the refusal means that the content is damaged, and not that another key, setting or version is
    /// needed.
    pub(super) const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::TooLarge
                | Self::NotState
                | Self::Truncated { .. }
                | Self::Overlong(_)
                | Self::Altered
                | Self::Senseless
        )
    }
}

/// Why a file is not accepted as a state.
#[derive(Debug, Error)]
pub enum StateRefusal {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// The file is a symlink.
    #[error("it is a symlink; name the file itself")]
    Symlink,
    /// The file is a folder, a pipe, a socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// The file belongs to the user with this id, who could change it.
    #[error("it belongs to the user with id {0}, and not to the daemon's user")]
    Owner(u32),
    /// Every user can read or change the file, which has these permissions.
    #[error("its mode {0:04o} gives every user access; make it 0600")]
    Permissions(u32),
    /// The file is larger than any state.
    #[error("it is larger than 256 KiB")]
    TooLarge,
    /// The file does not begin as a state does.
    #[error("it is not a state of bearerd")]
    NotState,
    /// The file has another version of the format.
    #[error("its format is version {0}; this bearerd reads version 2")]
    Version(u16),
    /// The file ends too early.
    #[error("it is truncated: {bytes} bytes of {expected}")]
    Truncated {
        /// The file's size.
        bytes: usize,
        /// The least size that the file should have.
        expected: usize,
    },
    /// The file is longer than its header says.
    #[error("it has {0} bytes too many")]
    Overlong(usize),
    /// The state belongs to another credential, or to this one before its settings were changed.
    #[error(
        "it belongs to another credential, or to this one with another token_url or issuer, client_id or grant"
    )]
    Foreign,
    /// The state is encrypted, and no key is configured.
    #[error("it is encrypted and there is no state_key")]
    NoKey,
    /// The state is encrypted under a key that is not configured.
    #[error("it is encrypted under another key than `state_key`, and under none of `state_key_previous`")]
    OtherKey,
    /// The tag or the checksum does not match.
    #[error("it has been altered, or renamed from another file")]
    Altered,
    /// The tag or the checksum matches, but the content is invalid.
    #[error("its content makes no sense")]
    Senseless,
}

/// Why a state is not durable: it exists only in memory.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The system call of this step failed.
    #[error("the state is not durable: {0}")]
    Disk(&'static str, #[source] io::Error),
    /// The file would have this many bytes, more than are read.
    #[error("the state is not durable: it would have {0} bytes, more than 256 KiB")]
    TooLarge(usize),
    /// The path leads to another folder or lock file than before, and the new folder or lock cannot be used.
    #[error("the state is not durable: the state folder or the lock file has been removed or replaced")]
    Place(#[source] Box<OpenError>),
    /// The state cannot be encrypted.
    #[error("the state is not durable: it cannot be encrypted")]
    Seal,
}

/// A warning about a state that was accepted.
#[derive(Debug, Error)]
pub enum Warning {
    /// A later state has been written before: somebody has put an older copy back.
    #[error("an older copy of the state was put back: write {found} was found, write {latest} had been made")]
    RolledBack {
        /// The number of the write that was found.
        found: u64,
        /// The number of the latest known write.
        latest: u64,
    },
    /// The state file, last written with this number, is gone.
    #[error("the state is gone: write {0} had been made")]
    Gone(u64),
    /// The state is of another client or server and has no refresh token that still works, so its content is
    /// discarded.
    #[error(
        "the state is of another client or server (token_url or issuer, client_id, grant) and is discarded: {0}"
    )]
    Discarded(String),
    /// The fallback grant that has brought the refresh token was for another principal than the configured one.
    #[error(
        "the fallback is for another principal than the one that brought the refresh token, which is dropped"
    )]
    OtherFallback,
    /// The state file is damaged. A daemon that starts moves the file aside.
    #[error("the state is damaged, and the daemon's start moves it aside")]
    Damaged(#[source] StateRefusal),
    /// The state is encrypted under a previous key; the next write uses the current one.
    #[error("the state is encrypted under a key of `state_key_previous`")]
    OldKey,
    /// The file's permissions admit its group, as with Kubernetes' `fsGroup`.
    #[error("the mode {0:04o} of the state file gives its group access")]
    GroupMode(u32),
    /// The file may not survive a power cut.
    #[error("the state might not survive a power cut")]
    NotSynced(#[source] io::Error),
}
