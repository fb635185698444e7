//! The destination of a new grant: the running daemon, or the credential's state if none runs at the configured address.
//!
//! The destination is chosen and tested before the user logs in.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use thiserror::Error;

use crate::app::StartError;
use crate::cli::admin::{AdminClient, AdminError, Answer, path_of};
use crate::clock::Clock;
use crate::config::{Credential, StatePlace};
use crate::peer_text::printable;
use crate::token::login::LoginGrant;
use crate::token::state::file::State;
use crate::token::{DurableState, GrantOrigin};

const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of the hand-over besides the token request that may be under way: the daemon waits up to ten seconds for
/// the grant to be on disk.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) enum Destination {
    /// The running daemon, which holds the state.
    Daemon {
        client: Box<AdminClient>,
        /// The tenant of the token that the daemon holds.
        tenant: Option<String>,
    },
    /// The state, locked until this is dropped.
    State(Box<DurableState>),
}

/// Why the grant cannot be stored.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    /// The admin address does not answer as a daemon would.
    #[error("cannot tell whether a daemon is running")]
    NoAnswer(#[source] AdminError),
    #[error("the daemon at {base} has no credential `{credential}`")]
    Unknown { base: String, credential: String },
    /// The daemon runs with a configuration in which the credential accepts no grant.
    #[error("the daemon at {base} has another grant for the credential `{credential}`")]
    OtherGrant { base: String, credential: String },
    /// The daemon runs with a configuration in which another client or server issues the credential's grants.
    #[error(
        "the daemon at {base} accepts no grant of this login: its credential `{credential}` is that of {theirs}, and this \
         configuration's is that of {ours}"
    )]
    OtherOrigin { base: String, credential: String, theirs: String, ours: String },
    #[error("the daemon at {base} denied access: {detail}")]
    NotAllowed { base: String, detail: String },
    /// The daemon answers with another error.
    #[error("the daemon at {base} rejected the grant: {detail}")]
    Refused { base: String, detail: String },
    #[error("the grant would be sent to {0} unencrypted")]
    InClear(String),
    /// The address that `--admin` names is the only destination.
    #[error("no daemon answers at {0}, and nothing was stored")]
    NotThere(String),
    #[error("no daemon answers at {base}, and the state cannot be used")]
    State {
        base: String,
        #[source]
        source: Box<StartError>,
    },
    #[error("the state cannot be written: {0}")]
    NotWritten(String),
}

impl StoreError {
    /// How to fix the error, if that is known.
    pub(super) fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoAnswer(AdminError::OwnToken { source, .. }) => source.help(),
            Self::NoAnswer(_) => "check that `--admin` or `admin.listen` is the daemon's admin address",
            Self::Unknown { .. } | Self::OtherGrant { .. } | Self::OtherOrigin { .. } => {
                "reload or restart the daemon with this configuration"
            }
            Self::NotThere(_) => {
                "start the daemon, or leave out `--admin`: then the state receives the grant if no daemon answers at \
                 `admin.listen`"
            }
            Self::NotAllowed { .. } => {
                "set `admin.token` to the value in the daemon's configuration; without `admin.token`, run this command as \
                 the daemon's user; if `admin.token` is missing in `server.state_dir`, reload the daemon, which writes it \
                 again"
            }
            Self::InClear(_) => {
                "run this command on the daemon's machine (docker exec, kubectl exec), or name an https:// address"
            }
            Self::State { source, .. } => {
                source.help().filter(|_| source.is_of_the_configuration()).unwrap_or(
                    "if that process is the daemon, name its admin address with `--admin`; otherwise stop it",
                )
            }
            Self::Refused { .. } | Self::NotWritten(_) => return None,
        })
    }
}

impl Destination {
    /// Chooses the destination. Writes the state once to test that it is writable.
    pub(super) async fn find(
        mut daemon: AdminClient,
        credential: &Credential,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        if !daemon.is_protected() {
            return Err(StoreError::InClear(daemon.base.clone()));
        }
        daemon.check_own_token().map_err(StoreError::NoAnswer)?;
        let name = &credential.name;
        let asked = daemon.operate(Method::GET, &path_of(name, ""), None, STATUS_TIMEOUT).await;
        let base = || daemon.base.clone();
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if error.is_refused() => {
                let mut state = open(credential, &daemon, clock)?;
                let unchanged = state.state().clone();
                save(&mut state, unchanged).await?;
                return Ok(Self::State(state));
            }
            Err(error) => return Err(StoreError::NoAnswer(error)),
        };
        let (shown, ours) = (Shown::of(&answer), GrantOrigin::of(credential));
        match answer.status {
            200 if shown.takes_grant => match shown.origin {
                Some(theirs) if theirs == ours.without_query() => {
                    may_hand_over(&mut daemon, name).await?;
                    Ok(Self::Daemon { client: Box::new(daemon), tenant: shown.tenant })
                }
                theirs => Err(StoreError::OtherOrigin {
                    base: base(),
                    credential: name.clone(),
                    theirs: theirs.map_or_else(|| "an unknown client".to_owned(), |one| one.to_string()),
                    ours: ours.to_string(),
                }),
            },
            200 => Err(StoreError::OtherGrant { base: base(), credential: name.clone() }),
            404 => Err(StoreError::Unknown { base: base(), credential: name.clone() }),
            401 | 403 => Err(StoreError::NotAllowed { base: base(), detail: detail(&answer) }),
            _ => Err(StoreError::Refused { base: base(), detail: detail(&answer) }),
        }
    }

    /// The tenant of the token that the daemon or the state holds, if it names one.
    pub(super) fn tenant(&self) -> Option<String> {
        let tenant = match self {
            Self::Daemon { tenant, .. } => tenant.clone(),
            Self::State(state) => state.state().access_token.as_ref()?.tenant(),
        };
        tenant.as_deref().map(printable)
    }

    /// Stores the grant, and returns where. If the daemon at the configured address has stopped since, the grant goes to
    /// the state.
    pub(super) async fn store(
        self,
        grant: &LoginGrant,
        credential: &Credential,
        clock: Clock,
    ) -> Result<String, StoreError> {
        match self {
            Self::State(state) => write(state, grant, credential).await,
            Self::Daemon { client: mut daemon, .. } => {
                let json = grant.handed_over(credential, clock.now());
                let path = path_of(&credential.name, "/grant");
                let within = HAND_OVER_TIMEOUT + credential.longest_request();
                let handed = daemon.operate(Method::POST, &path, Some(&json), within).await;
                let base = &daemon.base;
                match handed {
                    Ok(answer) if answer.status == 202 => {
                        Ok(format!("in use by the daemon at {base}, but NOT on disk: {}", detail(&answer)))
                    }
                    Ok(answer) if answer.is_success() => Ok(format!("handed to the daemon at {base}")),
                    Ok(answer) => Err(StoreError::Refused { base: base.to_owned(), detail: detail(&answer) }),
                    Err(error) if error.is_refused() => {
                        write(open(credential, &daemon, clock)?, grant, credential).await
                    }
                    Err(error) => Err(StoreError::NoAnswer(error)),
                }
            }
        }
    }
}

/// Whether the daemon would accept a grant from this command. A daemon of an earlier version does not tell.
async fn may_hand_over(daemon: &mut AdminClient, credential: &str) -> Result<(), StoreError> {
    let path = path_of(credential, "/grant");
    let answer =
        daemon.operate(Method::GET, &path, None, STATUS_TIMEOUT).await.map_err(StoreError::NoAnswer)?;
    match answer.status {
        401 | 403 => Err(StoreError::NotAllowed { base: daemon.base.clone(), detail: detail(&answer) }),
        _ => Ok(()),
    }
}

/// A credential as the daemon shows it.
#[derive(Debug, Default, Deserialize)]
struct Shown {
    #[serde(default)]
    takes_grant: bool,
    #[serde(flatten)]
    origin: Option<GrantOrigin>,
    tenant: Option<String>,
}

impl Shown {
    /// The credential in an answer; one that accepts no grants if the answer is none of a daemon.
    fn of(answer: &Answer) -> Self {
        serde_json::from_str(&answer.text).unwrap_or_default()
    }
}

/// The detail of an error response, or else its status.
fn detail(answer: &Answer) -> String {
    answer.detail().unwrap_or_else(|| format!("status {}", answer.status))
}

/// Opens the state, where no daemon answers at the configured address.
fn open(
    credential: &Credential,
    daemon: &AdminClient,
    clock: Clock,
) -> Result<Box<DurableState>, StoreError> {
    if !daemon.is_configured() {
        return Err(StoreError::NotThere(daemon.base.clone()));
    }
    match DurableState::open(credential, clock) {
        Ok(state) => Ok(Box::new(state)),
        Err(source) => Err(StoreError::State {
            base: daemon.base.clone(),
            source: Box::new(StartError::State { credential: credential.name.clone(), source }),
        }),
    }
}

async fn write(
    mut state: Box<DurableState>,
    grant: &LoginGrant,
    credential: &Credential,
) -> Result<String, StoreError> {
    let new = grant.state(credential, state.state());
    save(&mut state, new).await?;
    let path = credential.state.as_ref().map(|StatePlace { path, .. }| path.display().to_string());
    Ok(format!("written to {}: no daemon runs", path.unwrap_or_default()))
}

async fn save(state: &mut DurableState, new: State) -> Result<(), StoreError> {
    state.save(new).await;
    match state.trouble() {
        None => Ok(()),
        Some(error) => Err(StoreError::NotWritten(error.to_owned())),
    }
}
