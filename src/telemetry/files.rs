//! Files that are appended to and can be rotated.
//!
//! After SIGUSR1, [`reopen`] makes every such file be opened again by its path before the next write, so that a rotation by
//! renaming loses no line. A rotation by truncation needs no signal: each write goes to the end that the file has then.

use std::fs::{self, File, OpenOptions, create_dir_all};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};
use tracing::error;

/// How often the process was asked to open its files again.
static REOPENINGS: AtomicU64 = AtomicU64::new(0);

/// The permissions of a new file: others cannot read it.
const MODE: u32 = 0o640;

/// Asks every [`AppendFile`] of the process to be opened again before its next write.
pub fn reopen() {
    REOPENINGS.fetch_add(1, Ordering::Relaxed);
}

/// How often the process was asked to open its files again.
pub(super) fn reopenings() -> u64 {
    REOPENINGS.load(Ordering::Relaxed)
}

/// A file that is appended to. Opening and writing block on the disk.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    /// `None` while the file cannot be opened, such as a pipe without a reader.
    file: Option<File>,
    /// The reopenings that this file has followed.
    followed: u64,
}

impl AppendFile {
    /// Opens a file, and makes it and its folder if they are missing. A pipe that nobody reads is opened later.
    ///
    /// # Errors
    ///
    /// The system's, if the file cannot be opened.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let followed = reopenings();
        let file = match open(&path) {
            Err(error) if is_without_reader(&error) => None,
            opened => Some(opened?),
        };
        Ok(Self { path, file, followed })
    }

    /// Opens the file again if that was asked for, or if it is not open. Answers whether another file is open now. If a
    /// file cannot be opened again, the old one stays in use, and an error is logged.
    ///
    /// # Errors
    ///
    /// The system's, if no file is open.
    pub fn follow(&mut self) -> io::Result<bool> {
        let asked = reopenings();
        let is_asked = std::mem::replace(&mut self.followed, asked) != asked;
        if self.file.is_some() && !is_asked {
            return Ok(false);
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                Ok(true)
            }
            Err(error) => {
                if is_asked {
                    let path = self.path.display();
                    error!(%path, %error, "file not opened again, the old one stays in use");
                }
                if self.file.is_some() { Ok(false) } else { Err(error) }
            }
        }
    }
}

/// Each write goes to the end of the file in one piece, as far as the system takes it.
impl Write for AppendFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow()?;
        let Some(file) = &mut self.file else { return Err(ErrorKind::NotConnected.into()) };
        let written = file.write(bytes);
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            self.file = None;
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = open_without_waiting(path)?;
    // Writes may wait, so that a slow reader of a pipe gets whole lines.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Opens a file to append to it, and makes it and its folder if they are missing. Writes to a pipe do not wait for its reader.
///
/// # Errors
///
/// The system's.
pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
    let open = || {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(MODE);
        // Opening a pipe would wait for a reader.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
    };
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == ErrorKind::NotFound => {
            create_dir_all(folder)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// Finds out whether a file can be appended to, or made with its folder. Opens and makes nothing.
///
/// # Errors
///
/// The system's.
pub fn check(path: &Path) -> io::Result<()> {
    let mut ancestors = path.ancestors();
    let (at, metadata) = loop {
        let Some(at) = ancestors.next() else { return Err(ErrorKind::NotFound.into()) };
        let at = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        match fs::metadata(at) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => break (at, found?),
        }
    };
    let error = match (at == path, metadata.is_dir()) {
        (true, true) => ErrorKind::IsADirectory,
        (false, false) => ErrorKind::NotADirectory,
        (true, false) => return Ok(access(at, Access::WRITE_OK)?),
        (false, true) => return Ok(access(at, Access::WRITE_OK | Access::EXEC_OK)?),
    };
    Err(error.into())
}

/// Whether a pipe was not opened because nobody reads it.
pub(super) fn is_without_reader(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// Asks for a reopening of this file alone: other tests of this process have files too.
    fn ask(file: &mut AppendFile) {
        file.followed = file.followed.wrapping_sub(1);
    }

    #[test]
    fn a_renamed_file_is_written_until_it_is_to_be_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut file = AppendFile::open(path.clone()).unwrap();
        file.write_all(b"1\n").unwrap();
        fs::rename(&path, &old).unwrap();
        file.write_all(b"2\n").unwrap();
        assert!(!path.exists());
        ask(&mut file);
        file.write_all(b"3\n").unwrap();
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("1\n2\n", "3\n"));
    }

    #[test]
    fn after_a_truncation_writing_goes_on_at_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = AppendFile::open(path.clone()).unwrap();
        file.write_all(b"long line\n").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        file.write_all(b"next\n").unwrap();
        assert_eq!(read(&path), "next\n");
    }

    #[test]
    fn a_deleted_folder_is_made_again_and_where_that_fails_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a");
        let path = below.join("b/log");
        let mut file = AppendFile::open(path.clone()).unwrap();
        fs::remove_dir_all(&below).unwrap();
        ask(&mut file);
        file.write_all(b"1\n").unwrap();
        assert_eq!(read(&path), "1\n");

        fs::rename(&below, folder.path().join("c")).unwrap();
        fs::write(&below, "a file in the place of the folder").unwrap();
        ask(&mut file);
        file.write_all(b"2\n").unwrap();
        assert_eq!(read(&folder.path().join("c/b/log")), "1\n2\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_opened_once_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut file = AppendFile::open(path.clone()).unwrap();
        assert!(file.write(b"lost\n").is_err());
        let reader = std::thread::spawn(move || read(&path));
        let write = || file.write_all(b"read\n").is_ok();
        assert!(std::iter::repeat_with(write).take(1000).any(|is_written| {
            std::thread::sleep(Duration::from_millis(5));
            is_written
        }));
        drop(file);
        assert_eq!(reader.join().unwrap(), "read\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(AppendFile::open(PathBuf::from("/proc/none/log")).is_err());
    }
}
