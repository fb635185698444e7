//! A unix socket to listen on, which only the daemon's own user can open.
//!
//! A socket that a dead daemon left is replaced. A socket in use is not replaced, and a file of any other
//! type is never touched. Binding locks the folder: if two daemons start at the same time, one of them fails.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags, accessat, fchmod, flock, open};
use socket2::{Domain, SockAddr, Socket, Type};

/// Attempts at the folder's lock, and the pause between two.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(20);

/// A socket's file, removed when this is dropped unless another file has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Binds a socket that no other user can open. The socket does not block.
///
/// # Errors
///
/// `AddrInUse` if a process listens at the path, `AlreadyExists` if the path is that of another file, or the system's
/// error.
pub fn bind(path: &Path, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    let _lock = lock(usable_folder(path)?)?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file is created with the socket's own mode: at no moment can another user connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    if metadata.mode() & 0o177 != 0 {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "the file system does not keep it private"));
    }
    socket.listen(backlog)?;
    Ok((UnixListener::from(socket), file))
}

/// Whether a socket could be bound at this path, unless another process listens on it. Changes nothing.
///
/// # Errors
///
/// As of [`bind`].
pub fn check(path: &Path) -> io::Result<()> {
    usable_folder(path)?;
    is_there(path).map(|_| ())
}

/// The folder of a socket, in which this process may create files.
/// Whether no user besides the owner and the group of a socket can connect to it.
///
/// # Errors
///
/// Every user can, or the file cannot be examined.
pub fn is_private(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o777;
    if mode & 0o002 == 0 {
        return Ok(());
    }
    let text = format!(
        "every user can connect to it (mode {mode:04o}); set SocketMode=0600 or 0660 in the .socket unit"
    );
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

fn usable_folder(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder.unwrap_or_else(|| Path::new(".")), flags, Mode::empty())?;
    accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(folder)
}

/// Whether there is a socket. Any other file is an error.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(true),
        Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, "what is there is no socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Holds a folder's lock until it is dropped.
fn lock(folder: OwnedFd) -> io::Result<impl Drop + use<>> {
    for _ in 1..LOCK_ATTEMPTS {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => std::thread::sleep(LOCK_RETRY_DELAY),
            outcome => return outcome.map(|()| folder).map_err(Into::into),
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "its folder is locked by another process"))
}

/// Removes a socket on which no process listens any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !is_there(path)? {
        return Ok(());
    }
    // Not blocking: a daemon with a full queue is in use too.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on it")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            // If the file stays, the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_socket_is_private_and_removed_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");

        let bound = bind(&path, 8).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_is_in_use_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");
        let bound = bind(&path, 8).unwrap();

        let error = bind(&path, 8).unwrap_err();

        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::AddrInUse, "another process listens on it")
        );
        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    #[test]
    fn a_socket_on_which_no_process_listens_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let bound = bind(&path, 8).unwrap();

        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    #[test]
    fn a_file_of_another_type_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("b.sock"), folder.path().join("target"));
        fs::write(&target, "precious").unwrap();
        for make in [
            |from: &Path, to: &Path| fs::copy(from, to).map(drop),
            |from: &Path, to: &Path| std::os::unix::fs::symlink(from, to),
        ] {
            make(&target, &path).unwrap();
            assert_eq!(bind(&path, 8).unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_socket_that_replaced_this_one_is_not_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");
        let bound = bind(&path, 8).unwrap();
        fs::remove_file(&path).unwrap();
        let other = bind(&path, 8).unwrap();

        drop(bound);

        UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[test]
    fn of_many_that_bind_at_once_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");
        drop(UnixListener::bind(&path).unwrap());

        let bound: Vec<_> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path, 8))).collect();
            starting.into_iter().filter_map(|one| one.join().unwrap().ok()).collect()
        });

        assert_eq!(bound.len(), 1);
        UnixStream::connect(&path).unwrap();
    }
}
