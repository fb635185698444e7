//! Where a new grant goes: to the daemon that runs, or else into the credential's state.
//!
//! Which of them it is, and that it takes the grant, is known before a person logs in.

use std::time::Duration;

use http::Method;
use thiserror::Error;

use crate::app::StartError;
use crate::cli::admin::{AdminClient, AdminError, Answer, path_of};
use crate::clock::Clock;
use crate::config::{Credential, StatePlace};
use crate::token::DurableState;
use crate::token::login::LoginGrant;
use crate::token::state::file::State;

/// For a question.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// The daemon answers when the grant is on disk, and waits for that up to ten seconds.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(20);

/// Where it goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// To a daemon, which has the state.
    Daemon(Box<AdminClient>),
    /// Into the state, whose lock is ours until this is dropped.
    State(Box<DurableState>),
}

/// It can go nowhere.
#[derive(Debug, Error)]
pub(super) enum NoPlace {
    /// There is something at the admin address that does not answer as a daemon.
    #[error("it is not known whether a daemon runs")]
    NoAnswer(#[source] AdminError),
    /// The daemon has another configuration.
    #[error("the daemon at {base} does not know the credential `{credential}`")]
    Unknown {
        /// Its address.
        base: String,
        /// Whom it does not know.
        credential: String,
    },
    /// The daemon has another configuration, by which the credential takes no grant.
    #[error("the daemon at {base} has another grant for the credential `{credential}`")]
    OtherGrant {
        /// Its address.
        base: String,
        /// Whose grant.
        credential: String,
    },
    /// It does not take it from us.
    #[error("the daemon at {base} does not let us: {detail}")]
    NotAllowed {
        /// Its address.
        base: String,
        /// Its words.
        detail: String,
    },
    /// It answers something else.
    #[error("the daemon at {base} does not take the grant: {detail}")]
    Refused {
        /// Its address.
        base: String,
        /// Its words.
        detail: String,
    },
    /// The way there can be read by others.
    #[error("the grant would go to {0} in clear")]
    InClear(String),
    /// No daemon answers, and the state is not to be had.
    #[error("no daemon answers at {base}, and its state cannot be had")]
    State {
        /// Where one was looked for.
        base: String,
        /// Why not.
        #[source]
        source: Box<StartError>,
    },
    /// It cannot be written.
    #[error("the state cannot be written: {0}")]
    NotWritten(String),
}

impl NoPlace {
    pub(super) fn help(&self) -> Option<String> {
        let text = match self {
            Self::NoAnswer(_) => "see that `--admin` or `admin.listen` is the daemon's admin address",
            Self::Unknown { .. } | Self::OtherGrant { .. } => "start it again with this configuration",
            Self::NotAllowed { .. } => "set `admin.token` as the daemon has it",
            Self::InClear(_) => {
                "run this command on the daemon's machine (docker exec, kubectl exec), or name an https:// address"
            }
            Self::State { source, .. } => {
                return match source.help() {
                    Some(help) if source.is_of_the_configuration() => Some(help.to_owned()),
                    _ => Some(
                        "if that is the daemon, name its admin address with `--admin`; else stop it"
                            .to_owned(),
                    ),
                };
            }
            Self::Refused { .. } | Self::NotWritten(_) => return None,
        };
        Some(text.to_owned())
    }
}

impl Destination {
    /// Finds out who takes the grant; has the state written once, to see that it can be.
    pub(super) async fn find(
        mut daemon: AdminClient,
        credential: &Credential,
        clock: Clock,
    ) -> Result<Self, NoPlace> {
        if !daemon.is_protected() {
            return Err(NoPlace::InClear(daemon.base().to_owned()));
        }
        let name = &credential.name;
        let asked = daemon.operate(Method::GET, &path_of(name, ""), None, ASK_WITHIN).await;
        let base = || daemon.base().to_owned();
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if error.is_refused() => {
                let mut state = open(credential, daemon.base(), clock)?;
                let unchanged = state.state().clone();
                save(&mut state, unchanged).await?;
                return Ok(Self::State(state));
            }
            Err(error) => return Err(NoPlace::NoAnswer(error)),
        };
        match answer.status {
            200 if takes_grant(&answer) => Ok(Self::Daemon(Box::new(daemon))),
            200 => Err(NoPlace::OtherGrant { base: base(), credential: name.clone() }),
            404 => Err(NoPlace::Unknown { base: base(), credential: name.clone() }),
            401 | 403 => Err(NoPlace::NotAllowed { base: base(), detail: said(&answer) }),
            _ => Err(NoPlace::Refused { base: base(), detail: said(&answer) }),
        }
    }

    /// Puts the grant there; says where that is. A daemon that has ended meanwhile has left its state.
    pub(super) async fn store(
        self,
        grant: &LoginGrant,
        credential: &Credential,
        clock: Clock,
    ) -> Result<String, NoPlace> {
        match self {
            Self::State(state) => write(state, grant, credential).await,
            Self::Daemon(mut daemon) => {
                let json = grant.handed_over(clock.now());
                let path = path_of(&credential.name, "/grant");
                let handed = daemon.operate(Method::POST, &path, Some(&json), HAND_OVER_WITHIN).await;
                let base = daemon.base();
                match handed {
                    Ok(answer) if answer.status == 202 => {
                        Ok(format!("in use by the daemon at {base}, and NOT on disk: {}", said(&answer)))
                    }
                    Ok(answer) if answer.is_success() => Ok(format!("handed to the daemon at {base}")),
                    Ok(answer) => Err(NoPlace::Refused { base: base.to_owned(), detail: said(&answer) }),
                    Err(error) if error.is_refused() => {
                        write(open(credential, base, clock)?, grant, credential).await
                    }
                    Err(error) => Err(NoPlace::NoAnswer(error)),
                }
            }
        }
    }
}

/// Whether the daemon's credential of this name is one that grants are handed to.
fn takes_grant(answer: &Answer) -> bool {
    serde_json::from_str::<serde_json::Value>(&answer.text).is_ok_and(|shown| shown["takes_grant"] == true)
}

/// Why not, in the daemon's own words, or else by its status.
fn said(answer: &Answer) -> String {
    answer.detail().unwrap_or_else(|| format!("it answered {}", answer.status))
}

fn open(credential: &Credential, base: &str, clock: Clock) -> Result<Box<DurableState>, NoPlace> {
    match DurableState::open(credential, clock) {
        Ok(state) => Ok(Box::new(state)),
        Err(source) => Err(NoPlace::State {
            base: base.to_owned(),
            source: Box::new(StartError::State { credential: credential.name.clone(), source }),
        }),
    }
}

async fn write(
    mut state: Box<DurableState>,
    grant: &LoginGrant,
    credential: &Credential,
) -> Result<String, NoPlace> {
    let new = grant.state(credential, state.state());
    save(&mut state, new).await?;
    let path = credential.state.as_ref().map(|StatePlace { path, .. }| path.display().to_string());
    Ok(format!("written to {}: no daemon runs", path.unwrap_or_default()))
}

async fn save(state: &mut DurableState, new: State) -> Result<(), NoPlace> {
    state.save(new).await;
    match state.trouble() {
        None => Ok(()),
        Some(error) => Err(NoPlace::NotWritten(error.to_owned())),
    }
}
