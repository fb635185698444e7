//! `bearerd completions`: prints the completion script of a shell.

use clap_complete::{Shell, generate};

use super::exit_code::OK;
use super::output;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Where the shells look for the script of a command:

  bearerd completions bash > ~/.local/share/bash-completion/completions/bearerd
  bearerd completions zsh  > \"${fpath[1]}/_bearerd\"
  bearerd completions fish > ~/.config/fish/completions/bearerd.fish";

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the script that completes this command line.
pub(super) fn completions(completions: &Completions, mut command: clap::Command) -> u8 {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(completions.shell, &mut command, name, &mut script);
    output::bytes(&script);
    OK
}
