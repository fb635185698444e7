//! `bearerd login`: a user authorizes a credential's client in a browser, and the grant goes to the daemon or into the
//! credential's state.
//!
//! The destination of the grant, the issuer and the redirect URI are tested before the user logs in.

mod callback;
mod destination;
mod paste;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use self::callback::{BindError, Callback};
use self::destination::{Destination, StoreError};
use self::paste::{LongLines, Pasted};
use super::admin::{AdminAddress, AdminClient};
use super::argument::duration;
use super::config_file::UnknownCredential;
use super::exit_code::{FAILED, OK};
use super::{browser, config_file, output};
use crate::clock::Clock;
use crate::config;
use crate::config::model::levels;
use crate::config::{Credential, Environment, Log, LogFormat, LogOutput, Sampling};
use crate::telemetry::log;
use crate::tls::client::Trust;
use crate::token::endpoint::metadata::Metadata;
use crate::token::error::TokenError;
use crate::token::login::authorization::{Attempt, CallbackError, ExpectedIssuer};
use crate::token::login::{LoginError, LoginGrant, exchange};
use crate::token::{ClientError, TokenClient};

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
The credential must have grant = \"authorization_code\". The command prints an address: the user for whom
the daemon acts opens it in a browser, logs in and consents. The browser then returns to redirect_uri,
where the command listens. If the browser cannot return (it runs on another machine, or redirect_uri is
not an address of this one), paste the address of its last page here. In a container:

  docker exec -it CONTAINER bearerd login --no-browser CREDENTIAL

The running daemon receives the grant; if none runs, the command writes it to the credential's state.";

#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// Name of the credential in the configuration
    credential: String,
    #[command(flatten)]
    address: AdminAddress,
    /// Print the address without opening a browser
    #[arg(long)]
    no_browser: bool,
    /// How long to wait for the user
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unknown(#[from] UnknownCredential),
    #[error("the credential `{0}` has no login: its grant is not \"authorization_code\"")]
    OtherGrant(String),
    #[error("the token client cannot be set up")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Listening(#[from] BindError),
    #[error(transparent)]
    Discovery(TokenError),
    #[error("the issuer's metadata has no usable authorization endpoint: {0}")]
    NoAuthorizeUrl(String),
    #[error("the browser did not return within {0}")]
    TimedOut(String),
    #[error("standard input is closed, and this command cannot listen at `redirect_uri`")]
    NoInput,
    #[error("the login was interrupted by {0}")]
    Interrupted(&'static str),
    #[error(transparent)]
    NoCode(CallbackError),
    #[error(transparent)]
    Exchange(#[from] LoginError),
}

impl Failure {
    fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::OtherGrant(_) => {
                "set grant = \"authorization_code\" and `authorize_url` or `issuer`; to hand over a refresh token that \
                 you have, use POST /credentials/NAME/grant"
            }
            Self::Store(error) => return error.help(),
            Self::Listening(_) => {
                "stop the process that listens there, or register another `redirect_uri`; one without a port uses any \
                 free port, if the authorization server allows that"
            }
            Self::Discovery(_) => "run `bearerd check --online` for details",
            Self::NoAuthorizeUrl(_) => "set `authorize_url`",
            Self::TimedOut(_) => {
                "start again, as the address above is no longer valid; --timeout 15m waits longer"
            }
            Self::NoInput => "run the command with a terminal, to paste the address: docker exec -it",
            Self::NoCode(CallbackError::OtherIssuer { .. }) => {
                "if this is the intended server, set `issuer` to exactly that value"
            }
            Self::NoCode(CallbackError::NoIssuer(_)) => {
                "have the provider correct the server: either its metadata or its answer is wrong \
                 (authorization_response_iss_parameter_supported, RFC 9207)"
            }
            Self::Exchange(LoginError::OtherNonce) => {
                "start again, and log in only at the address that this command prints"
            }
            Self::Exchange(LoginError::NoRefreshToken) => {
                "request one: add \"offline_access\" to `scopes`, or the server's own parameter to `authorize_url` \
                 (?prompt=consent, ?access_type=offline), and have the provider allow the grant refresh_token for the \
                 client"
            }
            Self::Exchange(LoginError::Token(TokenError::ScopeMissing(_))) => {
                "nothing was stored; request them in `scopes`, and consent to all of them"
            }
            _ => return None,
        })
    }
}

pub(super) async fn login(login: Login, environment: &Environment) -> u8 {
    let path = config_file::find(login.address.file.clone(), environment);
    let checked = match path.and_then(|path| config_file::load(&path, environment)) {
        Ok(checked) => checked,
        Err(code) => return code,
    };
    // Warnings about the server's responses and the state are logged, as the daemon would.
    let level = levels::chosen(environment).ok().flatten().unwrap_or_else(|| levels::all(LevelFilter::WARN));
    let output = LogOutput::Stderr;
    let warnings = Log { output, format: LogFormat::Text, level, access: Sampling::OFF };
    // A login without these warnings is better than none.
    let _writing = log::start(&warnings, environment);
    // A signal must not end the process before the terminal has its settings back, which dropping the login does.
    let outcome = tokio::select! {
        outcome = run(login, &checked.config, environment) => outcome,
        signal = interrupted() => Err(Failure::Interrupted(signal)),
    };
    match outcome {
        Ok(()) => OK,
        Err(failure) => {
            output::failure(&failure, failure.help());
            FAILED
        }
    }
}

/// Waits for a signal that asks the process to end, and names it.
async fn interrupted() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

async fn run(login: Login, config: &config::Config, environment: &Environment) -> Result<(), Failure> {
    let name = &login.credential;
    let credential = config_file::credential(config, name)?;
    let way = credential.login.as_ref().ok_or_else(|| Failure::OtherGrant(name.clone()))?;
    let clock = Clock::system();
    let client = TokenClient::new(credential, &Trust::default())?;
    let callback = Callback::bind(&way.redirect_uri).await?;
    let daemon = AdminClient::new(login.address, environment).map_err(StoreError::NoAnswer)?;
    let destination = Destination::find(daemon, credential, clock).await?;
    let (authorize_url, metadata) = ask_issuer(credential, way, &client).await?;

    let answerer = ExpectedIssuer {
        issuer: way.issuer.as_ref().map(|issuer| issuer.as_str().to_owned()),
        names_itself: metadata.is_some_and(|metadata| metadata.names_itself),
    };
    let attempt = Arc::new(Attempt::new(credential, callback.redirect_uri.clone(), answerer));
    let url = attempt.url(&authorize_url, credential);
    let terminal = LongLines::set();
    print_instructions(&url, &callback, name, login.timeout);
    if !login.no_browser {
        browser::open(&url);
    }
    let code = answer(callback, &attempt, login.timeout).await?;
    drop(terminal);

    output::error_line("The browser has returned; requesting tokens.");
    let grant = exchange(credential, &client, &attempt, code, clock).await?;
    let tenant_before = destination.tenant();
    let place = destination.store(&grant, credential, clock).await?;
    print_result(&grant, credential, &place);
    print_tenant(grant.tenant().as_deref(), tenant_before.as_deref());
    Ok(())
}

/// The authorization endpoint, and the issuer's metadata if either endpoint comes from it.
async fn ask_issuer(
    credential: &Credential,
    way: &config::Login,
    client: &TokenClient,
) -> Result<(Url, Option<Arc<Metadata>>), Failure> {
    let issuer = way.authorize_url.issuer().or_else(|| credential.token_url.issuer());
    let metadata = match issuer {
        Some(issuer) => Some(client.metadata(issuer, credential).await.map_err(Failure::Discovery)?),
        None => None,
    };
    let not_listed =
        metadata.as_ref().map(|metadata| metadata.not_listed(credential)).unwrap_or_default().join(", ");
    if !not_listed.is_empty() {
        output::error_line(format_args!(
            "warning: the issuer's metadata does not list {not_listed}; bearerd uses the configuration"
        ));
    }
    let found = metadata.as_ref().filter(|_| way.authorize_url.issuer().is_some());
    let url = match found {
        Some(metadata) => {
            metadata.authorization_endpoint().map_err(|flaw| Failure::NoAuthorizeUrl(flaw.to_string()))?
        }
        None => way.authorize_url.url().clone(),
    };
    Ok((url, metadata))
}

fn print_instructions(url: &Url, callback: &Callback, name: &str, within: Duration) {
    output::error_line(format_args!(
        "Open this address in a browser, and log in as the user for whom the credential `{name}` acts:\n"
    ));
    output::line(url);
    let back = callback.redirect_uri.as_str();
    let way_back = if callback.listeners.is_empty() {
        "This command does not listen there: paste the address of the browser's last page here, from its\n\
         address bar."
    } else {
        "If it cannot (it runs on another machine, or this is a container), it ends at an error page: paste the\n\
         address of that page here, from the browser's address bar."
    };
    output::error_line(format_args!(
        "\nThe browser then returns to {back}. {way_back}\nWaiting for {}.",
        output::duration(within)
    ));
}

/// Waits for the authorization response: from the browser, or pasted as an address.
async fn answer(
    callback: Callback,
    attempt: &Arc<Attempt>,
    within: Duration,
) -> Result<SecretString, Failure> {
    let deadline = Instant::now() + within;
    let listens = !callback.listeners.is_empty();
    let mut pasted = paste::lines();
    let (answers, mut answered) = mpsc::channel(1);
    let mut serving = Box::pin(callback.serve(Arc::clone(attempt), answers));
    let (mut is_input_open, mut is_serving) = (true, true);
    loop {
        tokio::select! {
            () = sleep_until(deadline) => return Err(Failure::TimedOut(output::duration(within))),
            Some(outcome) = answered.recv() => {
                if is_serving {
                    // The browser has yet to load its final page.
                    let _ = timeout(callback::FINAL_PAGE_TIMEOUT, serving).await;
                }
                return outcome.map_err(Failure::NoCode);
            }
            // The response has been passed on, or there are no listeners.
            () = &mut serving, if is_serving => is_serving = false,
            line = pasted.recv(), if is_input_open => match line.map(|line| paste::read(&line, attempt)) {
                None if listens => is_input_open = false,
                None => return Err(Failure::NoInput),
                Some(Pasted::Empty) => {}
                Some(Pasted::Unrelated(why)) => {
                    output::error_line(format_args!("Not the expected address: {why}. Still waiting."));
                }
                Some(Pasted::Answer(outcome)) => return outcome.map_err(Failure::NoCode),
            },
        }
    }
}

/// Prints the tenant of the new token, and a warning if the previous token names another one.
fn print_tenant(tenant: Option<&str>, before: Option<&str>) {
    let Some(tenant) = tenant else { return };
    output::line(format_args!("  tenant    {tenant}"));
    if let Some(before) = before.filter(|before| *before != tenant) {
        output::error_line(format_args!(
            "warning: the tenant has changed: the previous token is of the tenant {before}.\n  help: if the wrong user \
             has logged in, log in again as the user for whom the daemon acts"
        ));
    }
}

fn print_result(grant: &LoginGrant, credential: &Credential, place: &str) {
    let scopes = match grant.scopes() {
        Some(scopes) => scopes.join(" "),
        None if credential.scopes.is_empty() => {
            "the server's default (not stated in the response)".to_owned()
        }
        None => format!("{} (as requested; not stated in the response)", credential.scopes.join(" ")),
    };
    let lifetime = grant.lifetime().map_or_else(|| "not stated in the response".to_owned(), output::duration);
    output::line(format_args!(
        "credential `{}`: authorized\n  scopes    {scopes}\n  lifetime  {lifetime}, of the first access token\n  \
         grant     {place}",
        credential.name
    ));
}
