//! Files named in the configuration, such as secrets and certificates.
//!
//! Only regular files are read, and only up to a size: a pipe, a socket or a device could block the daemon for ever.
//! Symlinks are followed, because Kubernetes mounts secrets behind them.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads a file, or fails with `FileTooLarge` beyond `max_bytes`, and with `InvalidInput` if the file is not regular.
pub(in crate::config) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut content = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length > max_bytes) {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "too large"));
    }
    Ok(content)
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would otherwise wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_folder_or_a_device_is_refused_at_once_also_behind_a_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();

        for path in [&pipe, &link, folder.path(), Path::new("/dev/zero")] {
            let error = read(path, 10).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{}", path.display());
        }
    }

    #[test]
    fn a_file_is_read_up_to_a_size_also_behind_a_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "0123456789").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();

        assert_eq!(read(&link, 10).unwrap(), b"0123456789");
        assert_eq!(read(&link, 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
