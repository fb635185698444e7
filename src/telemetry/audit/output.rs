//! The output of the audit trail: whole lines, each in one write.
//!
//! A line that was written in part, as on a full disk, is taken back: the next line never continues it. A file is opened
//! again when its path leads to another file, so that a rotation by renaming needs no signal.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracing::{error, warn};

use crate::telemetry::files;

/// The longest line that is looked for at the end of an existing file.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// Where the lines go.
#[derive(Debug)]
pub(super) struct Output {
    target: Target,
    /// Whether the output ends inside a line.
    is_torn: bool,
}

#[derive(Debug)]
enum Target {
    Stdout(File),
    File(Appended),
}

/// A file that is found by its path.
#[derive(Debug)]
struct Appended {
    path: PathBuf,
    /// `None` while the file cannot be opened, such as a pipe without a reader.
    file: Option<File>,
    /// Whether the last attempt to open the file again failed.
    is_lost: bool,
}

impl Output {
    /// Standard output.
    pub(super) fn stdout(stdout: File) -> Self {
        Self { target: Target::Stdout(stdout), is_torn: false }
    }

    /// A file, and its last line without the end. A rest of a line at the end of the file is removed.
    ///
    /// # Errors
    ///
    /// The system's, if the file cannot be opened. A pipe that nobody reads is opened later.
    pub(super) fn file(path: PathBuf) -> io::Result<(Self, Option<Vec<u8>>)> {
        let file = match files::open_without_waiting(&path) {
            Err(error) if files::is_without_reader(&error) => None,
            opened => Some(opened?),
        };
        let (mut last, mut is_torn) = (None, false);
        if let Some(file) = file.as_ref().filter(|file| is_regular(file)) {
            match end_of(&path) {
                Ok(End { line, rest: 0 }) => last = line,
                Ok(End { line, rest }) => {
                    // A whole line without its end is kept, and ended before the next.
                    let is_whole = line.as_ref().is_some_and(|line| is_object(line));
                    is_torn = is_whole || !take_back(file, rest);
                    last = if is_whole { line } else { end_of(&path).ok().and_then(|end| end.line) };
                }
                Err(error) => {
                    warn!(path = %path.display(), %error, "audit trail cannot be read: its chain begins anew");
                }
            }
        }
        let target = Target::File(Appended { path, file, is_lost: false });
        Ok((Self { target, is_torn }, last))
    }

    /// Writes a line, its end included.
    ///
    /// # Errors
    ///
    /// The system's; nothing of the line is in the output then, or the rest of it is ended before the next line.
    pub(super) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.follow()? {
            self.is_torn = false;
        }
        let ended;
        let bytes = if self.is_torn {
            ended = [b"\n", line].concat();
            &ended
        } else {
            line
        };
        let (file, can_take_back) = match &mut self.target {
            Target::Stdout(stdout) => (stdout, false),
            Target::File(Appended { file: Some(file), .. }) => {
                let can_take_back = is_regular(file);
                (file, can_take_back)
            }
            Target::File(_) => return Err(ErrorKind::NotConnected.into()),
        };
        let written = loop {
            match file.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        match written {
            Ok(written) if written == bytes.len() => {
                self.is_torn = false;
                Ok(())
            }
            Ok(written) => {
                if written > 0 && !(can_take_back && take_back(file, written as u64)) {
                    self.is_torn = bytes[written - 1] != b'\n';
                }
                Err(ErrorKind::StorageFull.into())
            }
            Err(error) => {
                if let Target::File(appended) = &mut self.target
                    && error.kind() == ErrorKind::BrokenPipe
                {
                    appended.file = None;
                }
                Err(error)
            }
        }
    }

    /// Opens the file again if its path leads to another one. Answers whether another file is open now.
    ///
    /// # Errors
    ///
    /// The system's, if no file is open.
    pub(super) fn follow(&mut self) -> io::Result<bool> {
        match &mut self.target {
            Target::Stdout(_) => Ok(false),
            Target::File(appended) => appended.follow(),
        }
    }
}

impl Appended {
    fn follow(&mut self) -> io::Result<bool> {
        if self.file.as_ref().is_some_and(|file| leads_to(&self.path, file)) {
            self.is_lost = false;
            return Ok(false);
        }
        match files::open_without_waiting(&self.path) {
            Ok(file) => {
                (self.file, self.is_lost) = (Some(file), false);
                Ok(true)
            }
            // The old file stays in use.
            Err(error) if self.file.is_some() => {
                if !std::mem::replace(&mut self.is_lost, true) {
                    let path = self.path.display();
                    error!(%path, %error, "audit trail not opened again, the old file stays in use");
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn leads_to(path: &Path, file: &File) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (path.metadata(), file.metadata()) {
        (Ok(there), Ok(here)) => identity(there) == identity(here),
        _ => false,
    }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Removes the last bytes of a file. Answers whether that succeeded.
fn take_back(file: &File, bytes: u64) -> bool {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    length.checked_sub(bytes).is_some_and(|length| file.set_len(length).is_ok())
}

/// The end of a file.
struct End {
    /// The last line without its end; `None` in an empty file.
    line: Option<Vec<u8>>,
    /// How many bytes of this line have no end of a line behind them; 0 for a whole one.
    rest: u64,
}

fn end_of(path: &Path) -> io::Result<End> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LINE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LINE_BYTES).read_to_end(&mut bytes)?;
    let is_ended = bytes.pop_if(|last| *last == b'\n').is_some();
    let start = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = bytes.split_off(start);
    let rest = if is_ended { 0 } else { line.len() as u64 };
    Ok(End { line: (!line.is_empty()).then_some(line), rest })
}

fn is_object(line: &[u8]) -> bool {
    serde_json::from_slice::<Value>(line).is_ok_and(|value| value.is_object())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn opened(content: &str) -> (tempfile::TempDir, PathBuf, Output, Option<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, content).unwrap();
        let (output, last) = Output::file(path.clone()).unwrap();
        (folder, path, output, last)
    }

    #[test]
    fn writing_goes_on_behind_the_last_whole_line() {
        for (content, last, before) in [
            ("", None, ""),
            ("{}\n", Some("{}"), "{}\n"),
            ("{}\n{\"a\":1}\n", Some("{\"a\":1}"), "{}\n{\"a\":1}\n"),
            ("{}\n{\"a\":1}", Some("{\"a\":1}"), "{}\n{\"a\":1}\n"),
            ("{}\n{\"a\":", Some("{}"), "{}\n"),
            ("{\"a\":", None, ""),
        ] {
            let (_folder, path, mut output, found) = opened(content);
            assert_eq!(found.as_deref(), last.map(str::as_bytes), "{content}");
            output.write_line(b"{\"b\":2}\n").unwrap();
            assert_eq!(read(&path), format!("{before}{{\"b\":2}}\n"), "{content}");
        }
    }

    /// FLT-DSK-03.
    #[test]
    fn a_renamed_truncated_or_deleted_file_loses_no_line() {
        let (folder, path, mut output, _) = opened("");
        let old = folder.path().join("audit.1");
        output.write_line(b"1\n").unwrap();
        fs::rename(&path, &old).unwrap();
        output.write_line(b"2\n").unwrap();
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("1\n", "2\n"));

        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        output.write_line(b"3\n").unwrap();
        assert_eq!(read(&path), "3\n");

        fs::remove_file(&path).unwrap();
        output.write_line(b"4\n").unwrap();
        assert_eq!(read(&path), "4\n");

        // Where nothing can be opened, the old file stays.
        let moved = folder.path().join("audit.2");
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        output.write_line(b"5\n").unwrap();
        assert_eq!(read(&moved), "4\n5\n");
    }

    /// A pipe that takes 64 KiB until it is read, in place of a disk.
    #[test]
    fn a_line_that_was_written_in_part_never_continues_in_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let (mut output, _) = Output::file(path.clone()).unwrap();
        assert!(output.write_line(b"nobody reads\n").is_err());
        let mut reader = File::from(
            rustix::fs::open(&path, rustix::fs::OFlags::NONBLOCK, rustix::fs::Mode::empty()).unwrap(),
        );
        let long = [&vec![b'x'; 100_000][..], b"\n"].concat();
        assert!(output.write_line(&long).is_err());
        let mut taken = vec![0; 100_000];
        let part = reader.read(&mut taken).unwrap();
        assert!(part > 0 && part < long.len(), "{part}");
        output.write_line(b"whole\n").unwrap();
        let count = reader.read(&mut taken).unwrap();
        assert_eq!(&taken[..count], b"\nwhole\n");
    }
}
