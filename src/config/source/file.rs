//! The file of the configuration, which may also be a pipe: `-c <(…)`, `-c /dev/stdin`.
//!
//! A pipe can be read only once, and may stay silent for ever. A device may have no end.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// Most bytes of a configuration.
const MAX_BYTES: u64 = 1024 * 1024;

/// How long a pipe or a device may take until its end.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// What was read.
#[derive(Debug)]
pub struct Content {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether a regular file was read, which can be read again.
    pub is_file: bool,
}

impl Content {
    /// The bytes as text.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the bytes are not UTF-8.
    pub fn into_text(self) -> io::Result<String> {
        String::from_utf8(self.bytes)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "stream did not contain valid UTF-8"))
    }
}

/// Reads a regular file, or a pipe or a device until its end. Blocks on a regular file as long as the file system does.
///
/// # Errors
///
/// `FileTooLarge` beyond 1 MiB, `TimedOut` if a pipe does not end within 10 s, and the errors of the system.
pub fn read(path: &Path) -> io::Result<Content> {
    match read_again(path) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => read_pipe(path.to_owned(), PIPE_TIMEOUT),
        outcome => outcome,
    }
}

/// Reads a regular file.
///
/// # Errors
///
/// As of [`read`], and `InvalidInput` if the file is not regular: it cannot be read again.
pub fn read_again(path: &Path) -> io::Result<Content> {
    let is_file = std::fs::metadata(path)?.is_file();
    if !is_file {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Content { bytes: read_bounded(path)?, is_file })
}

/// Reads on a thread, which may block for ever. The process ends without it.
fn read_pipe(path: PathBuf, limit: Duration) -> io::Result<Content> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new().spawn(move || sender.send(read_bounded(&path)))?;
    let late = |_| {
        let title = format!("the pipe did not end within {} s", limit.as_secs());
        Err(io::Error::new(ErrorKind::TimedOut, title))
    };
    let bytes = receiver.recv_timeout(limit).unwrap_or_else(late)?;
    Ok(Content { bytes, is_file: false })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(folder: &Path) -> PathBuf {
        let path = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    #[test]
    fn a_file_is_read_up_to_a_size_and_a_device_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
        let content = read(&path).unwrap();
        assert_eq!((content.bytes.len(), content.is_file), (1 << 20, true));

        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        for path in [&path, Path::new("/dev/zero")] {
            assert_eq!(read(path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        }
        assert_eq!(read(folder.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
    }

    #[test]
    fn a_pipe_is_read_until_its_end_but_not_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let content = std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&path, "text").unwrap());
            read(&path).unwrap()
        });
        assert_eq!((content.bytes.as_slice(), content.is_file), (&b"text"[..], false));
        assert_eq!(read_again(&path).unwrap_err().to_string(), "not a regular file");
    }

    #[test]
    fn a_pipe_that_stays_silent_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let limit = Duration::from_millis(20);

        assert_eq!(read_pipe(path.clone(), limit).unwrap_err().kind(), ErrorKind::TimedOut);

        // Also one that was opened for writing. Opening both ends does not block.
        let _open = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(read_pipe(path, limit).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
