//! The output of the log: whole lines, in few writes. A line that cannot be written is counted.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::files::AppendFile;

/// The most bytes of one write.
const WRITE_BYTES: usize = 64 * 1024;

/// Where lines are written.
#[derive(Debug)]
pub(super) enum Output {
    /// A stream of the process.
    Stream(File),
    /// A file that can be rotated.
    File(AppendFile),
}

impl Output {
    /// A stream, written without the buffer of the standard library.
    ///
    /// # Errors
    ///
    /// If no file descriptor is free.
    pub(super) fn stream(stream: &impl AsFd) -> io::Result<Self> {
        Ok(Self::Stream(File::from(stream.as_fd().try_clone_to_owned()?)))
    }

    /// Answers whether another file than before is open from now on.
    fn follow(&mut self) -> io::Result<bool> {
        match self {
            Self::Stream(_) => Ok(false),
            Self::File(file) => file.follow(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects lines until there is nothing else to do or [`WRITE_BYTES`] are reached. Each write is one line.
///
/// If the output takes part of a line only, as on a full disk, the rest of that line is written first once there is room
/// again: two lines never become one.
#[derive(Debug)]
pub(super) struct Lines {
    output: Output,
    waiting: Vec<u8>,
    /// Whether `waiting` begins inside a line.
    is_torn: bool,
    /// Whether the output took all of the last write.
    are_taken: bool,
    lost: Arc<AtomicUsize>,
}

impl Lines {
    /// Lines for this output; `lost` counts those that could not be written.
    pub(super) fn new(output: Output, lost: Arc<AtomicUsize>) -> Self {
        Self { output, waiting: Vec::with_capacity(WRITE_BYTES), is_torn: false, are_taken: true, lost }
    }

    /// Whether the output took all of the last write.
    pub(super) const fn are_taken(&self) -> bool {
        self.are_taken
    }

    fn write_out(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let is_another = self.output.follow().unwrap_or(false);
        if is_another && std::mem::take(&mut self.is_torn) {
            let rest = end_of_line(&self.waiting);
            self.lose(0, rest);
            self.waiting.drain(..rest);
        }
        let written = self.write_while_possible();
        self.are_taken = written == self.waiting.len();
        if written > 0 {
            self.is_torn = self.waiting[written - 1] != b'\n';
        }
        let kept = if self.is_torn { written + end_of_line(&self.waiting[written..]) } else { written };
        self.lose(kept, self.waiting.len());
        self.waiting.truncate(kept);
        self.waiting.drain(..written);
    }

    /// Writes until an error, and answers how many bytes were written.
    fn write_while_possible(&mut self) -> usize {
        let mut written = 0;
        while written < self.waiting.len() {
            match self.output.write(&self.waiting[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An error of the log cannot be logged: it is counted.
                Err(_) => break,
            }
        }
        written
    }

    fn lose(&self, from: usize, to: usize) {
        let lines = self.waiting[from..to].split_inclusive(|byte| *byte == b'\n').count();
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The length of the rest of the first line.
fn end_of_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + line.len() > WRITE_BYTES {
            self.write_out();
        }
        self.waiting.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    fn lines(output: Output) -> (Lines, Arc<AtomicUsize>) {
        let lost = Arc::default();
        (Lines::new(output, Arc::clone(&lost)), lost)
    }

    #[test]
    fn lines_are_written_at_a_flush_or_when_there_are_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut lines, lost) = lines(Output::File(AppendFile::open(path.clone()).unwrap()));
        lines.write_all(b"one\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        lines.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
        lines.write_all(&vec![b'x'; WRITE_BYTES]).unwrap();
        lines.write_all(b"\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4 + WRITE_BYTES as u64);
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    /// A pipe that takes 64 KiB and no more until it is read, in place of a disk.
    #[test]
    fn a_line_that_was_begun_is_ended_before_others_and_the_lost_ones_are_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let (mut lines, lost) = lines(Output::Stream(File::from(OwnedFd::from(writer))));
        let line = |number: usize| format!("{number:0>99}\n").into_bytes();
        for number in 0..100 {
            lines.write_all(&line(number)).unwrap();
        }
        // What follows is larger than the room that is left, and is written in part.
        lines.flush().unwrap();
        for number in 100..1000 {
            lines.write_all(&line(number)).unwrap();
        }
        lines.flush().unwrap();
        let gone = lost.load(Ordering::Relaxed);
        assert!((344..400).contains(&gone), "{gone} of 100,000 bytes where 65,536 fit");
        lines.write_all(&line(1000)).unwrap();
        lines.flush().unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), gone + 1);

        let mut all = Vec::new();
        let _ = io::Read::read_to_end(&mut reader, &mut all);
        lines.write_all(&line(1001)).unwrap();
        lines.flush().unwrap();
        let _ = io::Read::read_to_end(&mut reader, &mut all);
        let all = String::from_utf8(all).unwrap();
        assert!(all.lines().all(|line| line.len() == 99), "{all}");
        assert_eq!(all.lines().last().unwrap().trim_start_matches('0'), "1001");
        assert_eq!(all.lines().count(), 1002 - gone - 1);
    }

    #[test]
    fn the_rest_of_a_line_does_not_go_to_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut lines, lost) = lines(Output::File(AppendFile::open(path.clone()).unwrap()));
        (lines.waiting, lines.is_torn) = (b"of a line\nwhole\n".to_vec(), true);
        super::super::files::reopen();
        lines.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (mut lines, lost) = lines(Output::Stream(full));
        for _ in 0..3 {
            lines.write_all(b"line\n").unwrap();
            lines.flush().unwrap();
        }
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }
}
