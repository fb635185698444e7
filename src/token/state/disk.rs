//! The system calls of a state file, behind a trait: a test can let each of them fail, or end the process after it.
//!
//! Every call names a file within one folder, which is held open: the lock, the temporary file and the file itself stay in the
//! same folder, even if the path leads elsewhere meanwhile. A [`FileId`] tells whether the path leads elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use super::error::OpenError;
use crate::judged_as::{JudgedAs, check_owner, is_this_user};

/// The permissions of a new file: only its owner may read and write it.
pub(super) const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// System calls on the files of one folder. No symlink is followed.
pub(super) trait Disk {
    /// An open file.
    type File;

    /// The names in the folder.
    fn names(&self) -> io::Result<Vec<OsString>>;
    /// Opens a file for reading. Does not block on a pipe.
    fn open(&self, name: &OsStr) -> io::Result<Self::File>;
    /// The file's kind, size, permissions and owner.
    fn status(&self, file: &Self::File) -> io::Result<Status>;
    /// Reads some bytes; none at the end.
    fn read(&self, file: &mut Self::File, buffer: &mut [u8]) -> io::Result<usize>;
    /// Creates a file that only its owner can read; fails if the file exists.
    fn create(&self, name: &OsStr) -> io::Result<Self::File>;
    /// Writes some of the bytes.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<usize>;
    /// Makes the file's content durable.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Renames a file, and replaces the file that has the new name.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;
    /// Makes the names in the folder durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &OsStr) -> io::Result<()>;
}

/// A file's kind, size, permissions and owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    /// Whether the file is a regular file: no folder, pipe or device.
    pub(super) is_regular: bool,
    /// The file's size.
    pub(super) bytes: u64,
    /// The file's permissions, without its kind.
    pub(super) mode: u32,
    /// The id of the file's owner, unless that is the user as whom the files are judged.
    pub(super) other_owner: Option<u32>,
}

/// A folder of the file system.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// The user as whom the files are judged.
    user: u32,
}

/// The identity of a file or folder: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// The identity of an open file or folder.
    pub(super) fn of_open(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }

    #[expect(clippy::useless_conversion, reason = "the types differ between the platforms")]
    fn of(stat: &Stat) -> Self {
        Self(stat.st_dev.into(), stat.st_ino.into())
    }
}

impl Folder {
    /// Opens the folder of a state file, and answers the file's name in it.
    pub(super) fn of(file: &Path) -> Result<(Self, &OsStr), OpenError> {
        let name = file.file_name().ok_or_else(|| OpenError::NotAFile(file.to_owned()))?;
        let folder = Self::open(file.parent().unwrap_or(Path::new("")));
        Ok((folder.map_err(|error| OpenError::Folder(file.to_owned(), error))?, name))
    }

    /// The folder's own identity.
    pub(super) fn id(&self) -> io::Result<FileId> {
        FileId::of_open(&self.fd)
    }

    /// The identity of a file in the folder.
    pub(super) fn id_of(&self, name: &OsStr) -> io::Result<FileId> {
        Ok(FileId::of(&rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Opens the folder. A symlink to the folder is followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // A file name without a folder is in the working directory.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let user = JudgedAs::ThisUser.user(&fd)?;
        Ok(Self { fd, user })
    }

    /// Judges the files as this user.
    pub(super) fn judged_as(self, user: JudgedAs) -> io::Result<Self> {
        Ok(Self { user: user.user(&self.fd)?, ..self })
    }

    /// The user as whom the files are judged, unless this process runs as that user.
    pub(super) fn other_user(&self) -> Option<u32> {
        (!is_this_user(self.user)).then_some(self.user)
    }

    /// Opens a file, or creates one that only its owner can read.
    pub(super) fn open_or_create(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(name, OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK)
    }

    /// Whether the user may create and replace files in the folder.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        if let Some(user) = self.other_user() {
            return check_owner(&rustix::fs::fstat(&self.fd)?, user, Mode::WUSR | Mode::XUSR);
        }
        let access = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::accessat(&self.fd, ".", access, AtFlags::EACCESS)?)
    }

    /// Whether the disk has no space left for what files hold.
    pub(super) fn is_full(&self) -> io::Result<bool> {
        let space = rustix::fs::fstatvfs(&self.fd)?;
        Ok(space.f_blocks > 0 && space.f_bavail == 0)
    }

    /// The folder's permissions.
    pub(super) fn mode(&self) -> io::Result<u32> {
        Ok(Mode::from_raw_mode(rustix::fs::fstat(&self.fd)?.st_mode).bits())
    }

    /// Whether the user can read and write a file, or the disk has a place for one more file.
    pub(super) fn check_usable(&self, name: &OsStr) -> io::Result<()> {
        match self.open_with(name, OFlags::RDWR | OFlags::NONBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let space = rustix::fs::fstatvfs(&self.fd)?;
                // File systems without a fixed number of files report none at all.
                let is_full = space.f_files > 0 && space.f_favail == 0;
                if is_full { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
            }
            Ok(file) => match self.other_user() {
                Some(user) => check_owner(&rustix::fs::fstat(file)?, user, OWNER_ONLY),
                None => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    fn open_with(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags, OWNER_ONLY)?))
    }
}

impl Disk for Folder {
    type File = File;

    fn names(&self) -> io::Result<Vec<OsString>> {
        let name_of = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
            Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned())
        };
        Dir::read_from(&self.fd)?.map(name_of).collect()
    }

    fn open(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(name, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    fn status(&self, file: &File) -> io::Result<Status> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Status {
            is_regular: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            bytes: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
            mode: Mode::from_raw_mode(stat.st_mode).bits(),
            other_owner: (stat.st_uid != self.user).then_some(stat.st_uid),
        })
    }

    fn read(&self, file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
        file.read(buffer)
    }

    fn create(&self, name: &OsStr) -> io::Result<File> {
        self.open_with(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }
}
