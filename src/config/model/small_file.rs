//! Files that a configuration names, such as secrets and certificates.
//!
//! Only regular files are read, and only up to a size: a pipe, a socket or a device could keep the daemon
//! waiting for ever. Symlinks are followed, as Kubernetes mounts secrets behind them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The whole content of a file that is no larger than `max_bytes`.
///
/// # Errors
///
/// As of opening and reading; `InvalidInput` if it is no regular file, `FileTooLarge` if it is too large.
pub(in crate::config) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut content = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > max_bytes) {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(content)
}

fn open(path: &Path) -> io::Result<File> {
    // Without waiting, as opening a pipe does until someone writes to it.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_or_a_folder_is_refused_at_once_also_behind_a_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();

        for path in [&pipe, &link, folder.path(), Path::new("/dev/zero")] {
            let error = read(path, 10).unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{}", path.display());
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_largest_size_also_behind_a_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "0123456789").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();

        assert_eq!(read(&link, 10).unwrap(), b"0123456789");
        assert_eq!(read(&link, 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
