//! `bearerd login`: a person authorizes a credential's client in a browser, and the grant goes to where the daemon finds it.
//!
//! Whatever can go wrong before the person has logged in is tried before: the grant's place, the issuer, the address
//! that is listened on.

mod browser;
mod callback;
mod destination;
mod paste;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use self::callback::{Callback, NotListening};
use self::destination::{Destination, NoPlace};
use self::paste::Pasted;
use super::admin::{AdminAddress, AdminClient};
use super::exit_code::{BAD_CONFIGURATION, FAILED, OK};
use super::online::report::in_words;
use super::output;
use crate::causes::in_one_line;
use crate::clock::Clock;
use crate::config;
use crate::config::model::levels;
use crate::config::source::units;
use crate::config::{Credential, Environment, Log, LogFormat};
use crate::telemetry::log;
use crate::tls::client::Trust;
use crate::token::endpoint::metadata::Metadata;
use crate::token::error::TokenError;
use crate::token::login::authorization::{Attempt, CallbackError, ExpectedIssuer};
use crate::token::login::{LoginError, LoginGrant, exchange};
use crate::token::{ClientError, TokenClient};

/// What `--help` says besides.
pub(super) const HOW: &str = "\
The credential has grant = \"authorization_code\". It prints an address; whoever the daemon is to act
for opens that in a browser, logs in and agrees. The browser then comes back to redirect_uri, where
this command listens; if it cannot come back (it runs on another machine, or redirect_uri is not
an address of this one), paste the address that it ends at. In a container:

  docker exec -it CONTAINER bearerd login --no-browser CREDENTIAL

The grant is handed to the running daemon, or written to the credential's state if none runs.";

/// Whom to log in, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Login {
    /// The credential, by its name in the configuration
    credential: String,
    #[command(flatten)]
    address: AdminAddress,
    /// Only print the address
    #[arg(long)]
    no_browser: bool,
    /// How long to wait for the person
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<units::Duration>().map(|duration| duration.0)
}

/// Why there is no grant, or it is nowhere.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("there is no credential `{name}`")]
    Unknown { name: String, known: String },
    #[error("the credential `{0}` has no login: its grant is not \"authorization_code\"")]
    OtherGrant(String),
    #[error("the token leg cannot be set up")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Place(#[from] NoPlace),
    #[error(transparent)]
    Listening(#[from] NotListening),
    #[error(transparent)]
    Discovery(TokenError),
    #[error("the issuer does not tell where a person logs in: {0}")]
    NoAuthorizeUrl(String),
    #[error("nobody came back within {0}")]
    Nobody(String),
    #[error("standard input has ended, and `redirect_uri` is not an address to listen on here")]
    NoWayBack,
    #[error(transparent)]
    NoCode(CallbackError),
    #[error(transparent)]
    Exchange(#[from] LoginError),
}

impl Failure {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { known, .. } => format!("there are: {known}"),
            Self::OtherGrant(_) => "set grant = \"authorization_code\" and `authorize_url`, or `issuer`; a refresh token \
                                    that you have is handed over by POST /credentials/NAME/grant"
                .to_owned(),
            Self::Place(place) => return place.help(),
            Self::Listening(_) => "end what listens there, or register another `redirect_uri`; one without a port \
                                   takes any that is free, where the server lets it"
                .to_owned(),
            Self::Discovery(_) => "`bearerd check --online` says more".to_owned(),
            Self::NoAuthorizeUrl(_) => "write `authorize_url`".to_owned(),
            Self::Nobody(_) => "begin again: the address above is of no use any more; --timeout 15m waits longer".to_owned(),
            Self::NoWayBack => "run it where the address can be pasted: docker exec -it".to_owned(),
            Self::NoCode(CallbackError::OtherIssuer(_)) => {
                "if that is the server that is meant, write `issuer` exactly so".to_owned()
            }
            Self::Exchange(LoginError::NoRefreshToken) => {
                "ask for one: add \"offline_access\" to `scopes`, or what this server wants to `authorize_url` \
                 (?prompt=consent, ?access_type=offline), and have the provider allow the client the grant \
                 refresh_token"
                    .to_owned()
            }
            Self::Exchange(LoginError::Token(TokenError::ScopeMissing { .. })) => {
                "nothing was stored; ask for them in `scopes`, and agree to all of them".to_owned()
            }
            _ => return None,
        })
    }
}

pub(super) async fn login(login: Login, environment: &Environment) -> u8 {
    let path = config::find(login.address.file.path.clone(), environment);
    let checked = match config::load(&path, environment) {
        Ok(checked) => checked,
        Err(diagnostics) => {
            output::error_line(diagnostics.render(output::may_colour(environment)));
            return BAD_CONFIGURATION;
        }
    };
    // What is odd about the server's answers or the state is warned of, as the daemon would.
    let level = levels::chosen(environment).ok().flatten().unwrap_or_else(|| levels::all(LevelFilter::WARN));
    let warnings = Log { format: LogFormat::Text, level, access: false };
    let _writing = log::start(&warnings, environment);
    match run(login, &checked.config, environment).await {
        Ok(()) => OK,
        Err(failure) => {
            output::error_line(format_args!("bearerd: {}", in_one_line(&failure)));
            if let Some(help) = failure.help() {
                output::error_line(format_args!("  help: {help}"));
            }
            FAILED
        }
    }
}

async fn run(login: Login, config: &config::Config, environment: &Environment) -> Result<(), Failure> {
    let name = &login.credential;
    let credential = config.credentials.iter().find(|credential| credential.name == *name);
    let credential = credential.ok_or_else(|| Failure::Unknown {
        name: name.clone(),
        known: config.credentials.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    let way = credential.login.as_ref().ok_or_else(|| Failure::OtherGrant(name.clone()))?;
    let clock = Clock::system();
    let client = TokenClient::new(credential, &Trust::default())?;
    let callback = Callback::bind(&way.redirect_uri).await?;
    let daemon = AdminClient::new(login.address, environment).map_err(NoPlace::NoAnswer)?;
    let destination = Destination::find(daemon, credential, clock).await?;
    let (authorize_url, metadata) = ask_issuer(credential, way, &client).await?;

    let answerer = ExpectedIssuer {
        issuer: way.issuer.as_ref().map(|issuer| issuer.as_str().to_owned()),
        names_itself: metadata.is_some_and(|metadata| metadata.names_itself()),
    };
    let attempt = Arc::new(Attempt::new(callback.redirect_uri().clone(), answerer));
    let url = attempt.url(&authorize_url, credential);
    tell_how(&url, &callback, name, login.timeout);
    if !login.no_browser {
        browser::open(&url);
    }
    let code = answer(callback, &attempt, login.timeout).await?;

    output::error_line("The browser is back; asking for tokens.");
    let grant = exchange(credential, &client, &attempt, code, clock).await?;
    let place = destination.store(&grant, credential, clock).await?;
    tell(&grant, credential, &place);
    Ok(())
}

/// Where the person goes; and what the issuer says, if it has to be asked for that or will be for the token endpoint.
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
    let found = metadata.as_ref().filter(|_| way.authorize_url.issuer().is_some());
    let url = match found {
        Some(metadata) => {
            metadata.authorization_endpoint().map_err(|flaw| Failure::NoAuthorizeUrl(flaw.to_string()))?
        }
        None => way.authorize_url.url().clone(),
    };
    Ok((url, metadata))
}

fn tell_how(url: &Url, callback: &Callback, name: &str, within: Duration) {
    output::error_line(format_args!(
        "Open this address in a browser, as whoever the credential `{name}` is to act for:\n"
    ));
    output::line(url);
    let back = callback.redirect_uri().as_str();
    let way_back = if callback.listens() {
        "If it cannot (it runs on another machine, this is a container), it ends at an error page: paste that\n\
         page's address here, from the browser's address bar."
    } else {
        "Nobody listens there for this command: paste the address that the browser ends at here, from its\n\
         address bar."
    };
    output::error_line(format_args!(
        "\nThe browser comes back to {back}. {way_back}\nWaiting for {}.",
        in_words(within)
    ));
}

/// Waits for the browser to come back, or for its address to be pasted.
async fn answer(
    callback: Callback,
    attempt: &Arc<Attempt>,
    within: Duration,
) -> Result<SecretString, Failure> {
    let deadline = Instant::now() + within;
    let listens = callback.listens();
    let mut pasted = paste::lines();
    let (answers, mut answered) = mpsc::channel(1);
    let mut serving = Box::pin(callback.serve(Arc::clone(attempt), answers));
    let (mut is_input_open, mut is_serving) = (true, true);
    loop {
        let next = async {
            tokio::select! {
                Some(outcome) = answered.recv() => Event::Answered(outcome),
                () = &mut serving, if is_serving => Event::Served,
                line = pasted.recv(), if is_input_open => Event::Pasted(line),
                else => std::future::pending().await,
            }
        };
        let Ok(event) = timeout_at(deadline, next).await else {
            return Err(Failure::Nobody(in_words(within)));
        };
        match event {
            Event::Answered(outcome) => {
                if is_serving {
                    // Whoever looks at the browser should see its last page.
                    let _ = tokio::time::timeout(callback::LAST_PAGE, serving).await;
                }
                return outcome.map_err(Failure::NoCode);
            }
            // The answer is there, or nobody was to be listened for.
            Event::Served => is_serving = false,
            Event::Pasted(None) if listens => is_input_open = false,
            Event::Pasted(None) => return Err(Failure::NoWayBack),
            Event::Pasted(Some(line)) => match paste::read(&line, attempt) {
                Pasted::Nothing => {}
                Pasted::NotIt(why) => {
                    output::error_line(format_args!("That is not it: {why}. Still waiting."));
                }
                Pasted::Answer(outcome) => return outcome.map_err(Failure::NoCode),
            },
        }
    }
}

enum Event {
    Answered(Result<SecretString, CallbackError>),
    Served,
    Pasted(Option<String>),
}

fn tell(grant: &LoginGrant, credential: &Credential, place: &str) {
    let scopes = match grant.scopes() {
        Some(scopes) => scopes.join(" "),
        None if credential.scopes.is_empty() => "as the server has it (the answer does not say)".to_owned(),
        None => format!("{} (as asked for; the answer does not say)", credential.scopes.join(" ")),
    };
    let lifetime = grant.lifetime().map_or_else(|| "the answer does not say".to_owned(), in_words);
    output::line(format_args!(
        "credential `{}`: authorized\n  scopes    {scopes}\n  lifetime  {lifetime}, of the first access token\n  \
         grant     {place}",
        credential.name
    ));
}
