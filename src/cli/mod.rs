//! The command line: parses the arguments, runs the command, and returns its exit code.

mod admin;
mod argument;
mod audit;
mod browser;
mod check;
mod completions;
mod config_file;
mod demo;
mod exit_code;
mod explain;
mod forget;
mod health;
mod keygen;
mod login;
mod man;
mod online;
pub mod output;
mod refresh;
mod run;
mod schema;
mod states;
mod status;

use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use self::config_file::ConfigFile;
use crate::config::Environment;
use crate::{documentation, memory, version};

/// Reverse proxy that adds OAuth 2.0 bearer tokens to requests of applications without OAuth support.
#[derive(Debug, Parser)]
#[command(name = "bearerd", version = version::text(), max_term_width = 100, propagate_version = true)]
#[command(after_help = format!("Documentation: {}", documentation::front_page()))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then finish the requests in flight and stop
    Run(ConfigFile),
    /// Check the configuration and print every problem, without listening on an address
    Check(check::Check),
    /// Explain what would become of a request
    #[command(after_help = explain::HELP)]
    Explain(explain::Explain),
    /// Check the health of a running daemon
    Health(health::Health),
    /// Show the state of a running daemon: credentials, upstreams and certificates
    #[command(after_help = status::HELP)]
    Status(status::Status),
    /// Make a running daemon request a new token now
    Refresh(refresh::Refresh),
    /// Authorize a credential's client in a browser, and store the grant
    #[command(after_help = login::HELP)]
    Login(login::Login),
    /// Remove what the state keeps of a credential
    #[command(after_help = forget::HELP)]
    Forget(forget::Forget),
    /// Verify an audit trail
    Audit(audit::Audit),
    /// Print a new key for the state file (32 random bytes in base64) or for a caller
    #[command(after_help = keygen::HELP)]
    Keygen(keygen::Keygen),
    /// Run a demonstration on loopback, with its own authorization server and API
    #[command(after_help = demo::HELP)]
    Demo(demo::Demo),
    /// Print the JSON Schema of the configuration
    #[command(after_help = schema::HELP)]
    Schema,
    /// Print the completion script of a shell
    #[command(after_help = completions::HELP)]
    Completions(completions::Completions),
    /// Print the manual page
    #[command(after_help = man::HELP)]
    Man(man::Pages),
}

/// Whether these are arguments of `bearerd`, the first of which is its own name; the documentation is tested with it.
///
/// # Errors
///
/// Why they are not, in the words of the command line.
pub fn understand(arguments: &[String]) -> Result<(), String> {
    use ErrorKind::{DisplayHelp, DisplayVersion};
    match Arguments::try_parse_from(arguments) {
        Err(error) if !matches!(error.kind(), DisplayHelp | DisplayVersion) => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Adds the flag of the configuration to the error about a file that stands without it, as in `bearerd check proxy.toml`.
fn suggest_configuration(error: &mut clap::Error) {
    let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg) else { return };
    let is_file = Path::new(file).extension().is_some_and(|extension| extension == "toml");
    if error.kind() == ErrorKind::UnknownArgument && is_file {
        let tip = format!("name the configuration with '-c {file}'");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}

/// Parses the command line and runs the command.
pub async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            suggest_configuration(&mut error);
            // --help and --version are errors to clap too.
            output::written(error.print());
            let code = u8::try_from(error.exit_code()).unwrap_or(exit_code::USAGE);
            return ExitCode::from(output::exit_code(code));
        }
    };
    if let Err(error) = memory::keep_private() {
        output::error_line(format_args!("bearerd: core dumps cannot be disabled: {error}"));
    }
    let is_run = matches!(arguments.command, Command::Run(_));
    let code = match arguments.command {
        Command::Run(file) => run::run(file, &Environment::process()).await,
        Command::Check(check) => check::check(check, &Environment::process()).await,
        Command::Explain(explain) => explain::explain(explain, &Environment::process()),
        Command::Health(health) => health::health(health, &Environment::process()).await,
        Command::Status(status) => status::status(status, &Environment::process()).await,
        Command::Refresh(refresh) => refresh::refresh(refresh, &Environment::process()).await,
        Command::Login(login) => login::login(login, &Environment::process()).await,
        Command::Forget(forget) => forget::forget(&forget, &Environment::process()),
        Command::Audit(audit) => audit::audit(audit, &Environment::process()),
        Command::Keygen(keygen) => keygen::keygen(&keygen),
        Command::Demo(demo) => demo::demo(demo).await,
        Command::Schema => schema::schema(),
        Command::Completions(shell) => completions::completions(&shell, Arguments::command()),
        Command::Man(pages) => man::man(&pages, Arguments::command()),
    };
    let code = output::exit_code(code);
    // The daemon's own standard error may be a log in JSON; `run` itself reports what comes before the log.
    if !is_run && matches!(code, exit_code::UNAVAILABLE | exit_code::BAD_CONFIGURATION) {
        output::see(code);
    }
    ExitCode::from(code)
}
