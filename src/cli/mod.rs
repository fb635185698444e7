//! The command line: what each command does, and the exit code that tells of it.

mod admin;
mod check;
mod config_file;
mod demo;
mod exit_code;
mod health;
mod keygen;
mod login;
mod online;
pub mod output;
mod refresh;
mod run;
mod states;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::config_file::ConfigFile;
use crate::config::Environment;
use crate::memory;

/// Adds OAuth 2.0 bearer tokens to requests of applications that know nothing of OAuth.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version, max_term_width = 100, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; finish what is in flight, then stop
    Run(ConfigFile),
    /// Check the configuration and print every problem; binds nothing
    Check(check::Check),
    /// Ask a running daemon whether it lives
    Health(health::Health),
    /// Have a running daemon ask for another token now
    Refresh(refresh::Refresh),
    /// Authorize a credential's client in a browser, and store the grant
    #[command(after_help = login::HOW)]
    Login(login::Login),
    /// Print a new key for the state file: 32 random bytes, in base64
    #[command(after_help = keygen::WHERE_TO_PUT_IT)]
    Keygen,
    /// Show the whole thing on loopback, with an authorization server and an API of its own
    Demo(demo::Demo),
}

/// Reads the command line and does what it says.
pub async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also what --help and --version print.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit_code::USAGE));
        }
    };
    if let Err(error) = memory::keep_private() {
        output::error_line(format_args!("bearerd: core dumps cannot be turned off: {error}"));
    }
    let code = match arguments.command {
        Command::Run(file) => run::run(file, &Environment::process()).await,
        Command::Check(check) => check::check(check, &Environment::process()).await,
        Command::Health(health) => health::health(health, &Environment::process()).await,
        Command::Refresh(refresh) => refresh::refresh(refresh, &Environment::process()).await,
        Command::Login(login) => login::login(login, &Environment::process()).await,
        Command::Keygen => keygen::keygen(),
        Command::Demo(demo) => demo::demo(demo).await,
    };
    ExitCode::from(code)
}
