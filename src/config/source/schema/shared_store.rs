//! `[shared]`.

use std::path::PathBuf;

use super::Texts;
use crate::config::model::secret::SecretSource;
use crate::config::model::shared_store::WhenAway;
use crate::config::source::reader::tables;
use crate::config::source::units::{Duration, OneOrMany};

tables! {
    /// `[shared]`.
    section Shared {
        hidden url: String,
        shown username: String,
        hidden password: SecretSource,
        shown insecure: bool,
        shown ca_file: PathBuf,
        shown sentinels: Texts,
        shown sentinel_master: String,
        hidden key: SecretSource,
        hidden key_previous: OneOrMany<SecretSource>,
        shown prefix: String,
        shown operation_timeout: Duration,
        shown expected_replicas: u32,
        shown when_away: WhenAway,
    }
}
