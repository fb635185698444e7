//! Whether the configuration's file has changed: looked at every few seconds, so that a swapped symlink is seen like an
//! edited file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::{Interval, MissedTickBehavior};

use crate::blocking::Blocking;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// What is in a file: a digest; `None` if it cannot be read.
pub(super) type FileDigest = Option<[u8; 32]>;

/// Watches one file.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    ticks: Interval,
    /// What was read last to be used.
    used: FileDigest,
    /// What the last look has found, if it was something else.
    found: Option<FileDigest>,
    /// Reads without a bound: nobody waits for a change.
    reading: Blocking<FileDigest>,
}

/// What is in a file now. May hang where a file system does.
pub(super) fn content(path: &Path) -> FileDigest {
    std::fs::read(path).ok().map(|bytes| of(&bytes))
}

/// The same of bytes that were read.
pub(super) fn of(bytes: &[u8]) -> [u8; 32] {
    let mut content = [0; 32];
    content.copy_from_slice(digest(&SHA256, bytes).as_ref());
    content
}

impl Watch {
    /// Of a file that was used with this content.
    pub(super) fn new(path: &Path, used: FileDigest) -> Self {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path: path.to_owned(), ticks, used, found: None, reading: Blocking::new(Duration::MAX) }
    }

    /// It was read again, whatever for.
    pub(super) fn used(&mut self, content: FileDigest) {
        self.used = content;
        self.found = None;
    }

    /// Waits until there is something else than was used last, at two looks in a row: an editor may not be done with it.
    ///
    /// # Cancel safety
    ///
    /// Nothing that was seen is forgotten.
    pub(super) async fn changed(&mut self) {
        loop {
            if !self.reading.is_running() {
                self.ticks.tick().await;
            }
            let path = self.path.clone();
            let found = self.reading.run(move || content(&path)).await.unwrap_or(self.used);
            if found == self.used {
                self.found = None;
            } else if self.found.replace(found) == Some(found) {
                self.used(found);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn within(watch: &mut Watch, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_change_is_told_once_and_when_it_has_settled_and_a_file_that_is_gone_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, content(&path));
        assert!(!within(&mut watch, 3).await, "nothing has changed");

        std::fs::write(&path, "half").unwrap();
        watch.ticks.reset_immediately();
        assert!(!within(&mut watch, 1).await, "it may not be done");
        std::fs::write(&path, "two").unwrap();
        assert!(within(&mut watch, 10).await);
        assert_eq!(watch.used, content(&path));
        assert!(!within(&mut watch, 3).await, "it was told");

        std::fs::remove_file(&path).unwrap();
        assert!(within(&mut watch, 10).await);
        assert!(!within(&mut watch, 3).await, "and that too");
    }

    #[tokio::test]
    async fn what_was_read_for_another_reason_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, content(&path));

        std::fs::write(&path, "two").unwrap();
        watch.used(content(&path));

        assert!(!within(&mut watch, 5).await);
    }
}
