//! What `bearerd check` sees of credentials' states: whether `run`, as this user, could work with them.
//!
//! A daemon may run meanwhile: nothing is locked and nothing is written.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use crate::causes::in_one_line;
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::source::diagnostics::Problem;
use crate::config::{Checked, Credential, Diagnostics, Identity};
use crate::token::DurableState;
use crate::token::state::file::{OpenError, RUN_AS_DAEMON_USER, Warning};

/// Adds what is wrong with the states to what is known of a configuration.
///
/// # Errors
///
/// All problems, if `run` would refuse a state.
pub(super) fn look_at(mut checked: Checked) -> Result<Checked, Box<Diagnostics>> {
    let clock = Clock::system();
    let mut problems = Vec::new();
    // A folder of several states is looked at with each, and spoken of once.
    let mut folders = BTreeSet::new();
    for credential in &checked.config.credentials {
        let place = checked.state_places.get(&credential.name).cloned();
        let path = credential.state.as_ref().map(|state| state.path.clone()).unwrap_or_default();
        let folder = path.parent().unwrap_or(&path);
        let error = |title: String, help: String| Problem::error(place.clone(), title).help(help);
        match DurableState::inspect(credential, clock) {
            Ok(None) => {}
            Ok(Some(look)) => {
                let is_first = folders.insert(folder.to_owned());
                if let Some(cause) = look.not_writable.filter(|_| is_first) {
                    let title = format!("cannot write in {}: {cause}", folder.display());
                    problems.push(error(title, RUN_AS_DAEMON_USER.to_owned()));
                }
                if let Some(mode) = look.open_folder.filter(|_| is_first) {
                    let title =
                        format!("the mode {mode:04o} of {} lets every user at the states", folder.display());
                    let help = format!("make it the daemon's own: chmod 700 {}", folder.display());
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
                problems.extend(look.warnings.iter().map(|warning| {
                    let title = format!("{}: {}", path.display(), in_one_line(warning));
                    Problem::warning(place.clone(), title).help(help_for_warning(warning))
                }));
                if look.state.refresh_token.is_none() {
                    let (title, help) = match begins_with(credential) {
                        Beginning::Nothing => continue,
                        Beginning::Login => (
                            "nobody has logged in for this credential yet",
                            format!("run `bearerd login {}` as the daemon's user", credential.name),
                        ),
                        Beginning::HandOver => (
                            "there is no refresh token, neither here nor in the state",
                            format!(
                                "write refresh_token = {{ file = \"…\" }}, or hand one to the running daemon: POST \
                                 /credentials/{}/grant at its admin address",
                                credential.name
                            ),
                        ),
                    };
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
            }
            Err(cause @ OpenError::Folder { .. }) if !folders.insert(folder.to_owned()) => drop(cause),
            Err(cause) if is_missing(&cause) => {
                let help = format!(
                    "make the folder, for the daemon's user alone: mkdir -m 700 {}",
                    folder.display()
                );
                problems.push(error(in_one_line(&cause), help));
            }
            Err(cause) => problems.push(error(in_one_line(&cause), cause.help().to_owned())),
        }
    }
    checked.warnings.add(problems);
    if checked.warnings.errors() == 0 { Ok(checked) } else { Err(Box::new(checked.warnings)) }
}

/// Whether there is no such folder at all; one that is there may be somebody else's.
fn is_missing(cause: &OpenError) -> bool {
    matches!(cause, OpenError::Folder { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// What must happen before there is a first token.
enum Beginning {
    Nothing,
    Login,
    HandOver,
}

fn begins_with(credential: &Credential) -> Beginning {
    let Identity { grant, fallback, .. } = &credential.identity;
    match (grant, &credential.login) {
        (Grant::RefreshToken(None), _) if fallback.is_some() => Beginning::Nothing,
        (Grant::RefreshToken(None), Some(_)) => Beginning::Login,
        (Grant::RefreshToken(None), None) => Beginning::HandOver,
        _ => Beginning::Nothing,
    }
}

fn help_for_warning(warning: &Warning) -> &'static str {
    match warning {
        Warning::GroupMode { .. } => "chmod 600; the daemon's next write does the same",
        _ => "the daemon's next write mends that",
    }
}
