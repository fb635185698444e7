//! Why a state is not opened, not believed, or not written. Says nothing of what is in it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no state file to work with.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Its path ends in no file name.
    #[error("{} names no file", .0.display())]
    NotAFile(PathBuf),
    /// Its folder is not there, or closed to us.
    #[error("cannot open the folder of the state file {}", path.display())]
    Folder {
        /// The state file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The lock beside it cannot be taken, whoever holds it.
    #[error("cannot lock the state file {}", path.display())]
    Lock {
        /// The state file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process works with it.
    #[error("the state file {} is in use by {holder}; two processes would use up each other's tokens", path.display())]
    Held {
        /// The state file.
        path: PathBuf,
        /// Who holds it, as it says.
        holder: String,
    },
    /// It is there and not to be believed. It stays as it is.
    #[error("the state file {} was refused and left as it is", path.display())]
    Refused {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        source: StateRefusal,
    },
}

/// For what another user has, or this one cannot reach.
pub const RUN_AS_DAEMON_USER: &str =
    "it has to be the daemon's own; run bearerd as the user that the daemon runs as";

impl OpenError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotAFile(_) => "name a file",
            // It is there, and somebody else's.
            Self::Folder { source, .. } if source.kind() != io::ErrorKind::NotFound => RUN_AS_DAEMON_USER,
            Self::Folder { .. } => {
                "make the folder of server.state_dir or state_file, for the daemon's user alone: mkdir -m 700"
            }
            Self::Lock { .. } => RUN_AS_DAEMON_USER,
            Self::Held { .. } => "stop the other process, or give this one a state_file of its own",
            Self::Refused { source, .. } => source.help(),
        }
    }
}

impl StateRefusal {
    const fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) | Self::Owner { .. } => RUN_AS_DAEMON_USER,
            Self::Permissions { .. } => "chmod 600",
            Self::NoKey => "set state_key to the key that it was written under",
            Self::OtherKey => {
                "add the key that it was written under as state_key_previous; the daemon writes the state anew under \
                 state_key"
            }
            Self::Foreign => {
                "give the credential a state_file of its own; if its settings were changed, move the file away and, \
                 where the grant is a refresh token, configure a new one or run `bearerd login`"
            }
            _ => {
                "put a good copy there, or move the file away and, where the grant is a refresh token, configure a \
                 new one or run `bearerd login`"
            }
        }
    }
}

/// What is wrong with a file that should hold a state.
#[derive(Debug, Error)]
pub enum StateRefusal {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is a symlink.
    #[error("it is a symlink; name the file itself")]
    Symlink,
    /// It is a folder, a pipe, a socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Another user has made it, and could change it.
    #[error("it belongs to the user with id {uid}, whom this process does not run as")]
    Owner {
        /// That user.
        uid: u32,
    },
    /// Any user can read or change it.
    #[error("its mode {mode:04o} lets every user at it; make it 0600")]
    Permissions {
        /// Its permissions.
        mode: u32,
    },
    /// It is far larger than any state.
    #[error("it is larger than 256 KiB")]
    TooLarge,
    /// It does not begin as a state does.
    #[error("it is not a state of bearerd")]
    NotState,
    /// It was written by a version that this one does not understand.
    #[error("its format is version {0}; this bearerd reads version 2")]
    Version(u16),
    /// It ends too early.
    #[error("it is truncated: {bytes} bytes of {expected}")]
    Truncated {
        /// What is there.
        bytes: usize,
        /// What should be, at the least.
        expected: usize,
    },
    /// It goes on after its end.
    #[error("it has {0} bytes too many")]
    Overlong(usize),
    /// It is that of another credential, or of this one before its settings were changed.
    #[error(
        "it belongs to another credential, or to this one with another token_url or issuer, client_id, \
         grant or username"
    )]
    Foreign,
    /// It is encrypted and there is no key.
    #[error("it is encrypted and there is no state_key")]
    NoKey,
    /// It is encrypted with a key that is not among ours.
    #[error("it is encrypted under another key than `state_key`, and under none of `state_key_previous`")]
    OtherKey,
    /// Its seal is broken.
    #[error("it has been altered, or renamed from another file")]
    Altered,
    /// Its seal is good and its content makes no sense.
    #[error("its content makes no sense")]
    Senseless,
}

/// Why a state is not durable. What is in memory is all there is of it.
#[derive(Debug, Error)]
pub enum SaveError {
    /// A system call failed.
    #[error("the state is not durable: {step}")]
    Disk {
        /// Which.
        step: WriteStep,
        /// What it said.
        source: io::Error,
    },
    /// It would be larger than what is read.
    #[error("the state is not durable: it would have {bytes} bytes, more than 256 KiB")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It cannot be encrypted.
    #[error("the state is not durable: it cannot be encrypted")]
    Seal,
}

/// The steps of a write, in their order.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteStep {
    /// A temporary file was to be made.
    #[error("a temporary file cannot be made")]
    Create,
    /// It was to be written.
    #[error("the temporary file cannot be written")]
    Write,
    /// Its content was to be made durable.
    #[error("the temporary file cannot be synced")]
    Sync,
    /// It was to replace the state.
    #[error("the temporary file cannot take the state's name")]
    Rename,
    /// That was to be made durable.
    #[error("the folder cannot be synced")]
    SyncFolder,
}

/// What is odd about a state that was taken all the same.
#[derive(Debug, Error)]
pub enum Warning {
    /// A later state than this has been written here: an older copy was put back.
    #[error("an older copy of the state was put back: write {found} was found, write {latest} had been made")]
    RolledBack {
        /// The write that was found.
        found: u64,
        /// The latest that is known of.
        latest: u64,
    },
    /// There has been a state here, and it is gone.
    #[error("the state is gone: write {latest} had been made")]
    Gone {
        /// The latest write that is known of.
        latest: u64,
    },
    /// It is encrypted with an old key; the next write uses the current one.
    #[error("the state is encrypted under a key of `state_key_previous`")]
    OldKey,
    /// Its group can read or change it, as Kubernetes' `fsGroup` makes it.
    #[error("the state's mode {mode:04o} lets its group at it")]
    GroupMode {
        /// Its permissions.
        mode: u32,
    },
    /// It can be read and might not survive a power cut.
    #[error("the state might not survive a power cut")]
    NotSynced(#[source] io::Error),
}
