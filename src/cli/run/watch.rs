//! Detects changes of the configuration file by reading its content every few seconds: a replaced symlink is a change too.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::{Interval, MissedTickBehavior};

use crate::blocking::Blocking;
use crate::config::source::file::{Content, read_again};

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(2);

/// Why a reload of the configuration is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// The file has changed.
    Changed,
    /// The last reload failed, and the file has not changed since.
    Failed,
}

/// The digest of a file's content; `None` if the file cannot be read.
pub(super) type FileDigest = Option<[u8; 32]>;

/// Watches one file.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    ticks: Interval,
    /// The digest of the configuration that was read last.
    used: FileDigest,
    /// The digest of the last reading, if it differs from `used`.
    found: Option<FileDigest>,
    /// Whether the last reload failed, so that the configuration that was read last is not in force.
    has_failed: bool,
    /// Reads without a time limit.
    reading: Blocking<FileDigest>,
}

/// The digest of what was read.
pub(super) fn digest_of(read: &io::Result<Content>) -> FileDigest {
    digest(&SHA256, &read.as_ref().ok()?.bytes).as_ref().try_into().ok()
}

/// The digest of a file's present content. Blocks as long as the file system does.
fn present_digest(path: &Path) -> FileDigest {
    digest_of(&read_again(path))
}

impl Watch {
    /// Watches a file that had this digest when the configuration was read.
    pub(super) fn new(path: &Path, used: FileDigest) -> Self {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path: path.to_owned(),
            ticks,
            used,
            found: None,
            has_failed: false,
            reading: Blocking::new(Duration::MAX),
        }
    }

    /// Notes that the configuration was read from the file with this digest.
    pub(super) fn used(&mut self, digest: FileDigest) {
        self.used = digest;
        self.found = None;
    }

    /// Notes that the reload of the configuration that was read last has ended. After a failed reload, the
    /// next reading of the file triggers another reload, because a file that the configuration names may have
    /// arrived.
    pub(super) fn reloaded(&mut self, has_failed: bool) {
        self.has_failed = has_failed;
        self.ticks.reset();
    }

    /// Waits until a reload is due: two readings in a row find the same digest, which is not that of the
    /// configuration. After only one such reading an editor may still be writing. After a failed reload, one
    /// reading that finds the file unchanged suffices.
    ///
    /// # Cancel safety
    ///
    /// No reading is lost.
    pub(super) async fn due(&mut self) -> Trigger {
        loop {
            if !self.reading.is_running() {
                self.ticks.tick().await;
            }
            let path = self.path.clone();
            let found = self.reading.run(move || present_digest(&path)).await.unwrap_or(self.used);
            if found == self.used {
                self.found = None;
                if self.has_failed {
                    return Trigger::Failed;
                }
            } else if self.found.replace(found) == Some(found) {
                self.used(found);
                return Trigger::Changed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn within(watch: &mut Watch, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), watch.due()).await.is_ok()
    }

    #[tokio::test]
    async fn a_change_is_reported_once_after_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, present_digest(&path));
        assert!(!within(&mut watch, 3).await, "nothing has changed");

        std::fs::write(&path, "half").unwrap();
        watch.ticks.reset_immediately();
        assert!(!within(&mut watch, 1).await, "it may not be done");
        std::fs::write(&path, "two").unwrap();
        assert!(within(&mut watch, 10).await);
        assert_eq!(watch.used, present_digest(&path));
        assert!(!within(&mut watch, 3).await, "it was told");

        std::fs::remove_file(&path).unwrap();
        assert!(within(&mut watch, 10).await);
        assert!(!within(&mut watch, 3).await, "and that too");
    }

    #[tokio::test]
    async fn a_configuration_that_was_read_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, present_digest(&path));

        std::fs::write(&path, "two").unwrap();
        watch.used(present_digest(&path));

        assert!(!within(&mut watch, 5).await);
    }

    #[tokio::test]
    async fn after_a_failed_reload_another_is_due_every_few_seconds_until_one_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(&path, present_digest(&path));

        for _ in 0..2 {
            watch.reloaded(true);
            assert!(!within(&mut watch, 1).await, "not at once");
            assert_eq!(watch.due().await, Trigger::Failed);
        }
        watch.reloaded(true);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(watch.due().await, Trigger::Changed);

        watch.reloaded(false);
        assert!(!within(&mut watch, 5).await);
    }
}
