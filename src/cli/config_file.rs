//! The `--config` flag that all commands share.

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct ConfigFile {
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        help = "Configuration [default: $BEARERD_CONFIG, ./proxy.toml, /etc/bearerd/proxy.toml]"
    )]
    pub(super) path: Option<PathBuf>,
}
