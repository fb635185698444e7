//! Checks for `bearerd check` whether `bearerd run` could use the states of the credentials: as the same user, or, if that
//! is root, as the owner of their folder.
//!
//! A daemon may be running, so nothing is locked and nothing is written.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use crate::causes::in_one_line;
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::source::diagnostics::Problem;
use crate::config::{Checked, Credential, Diagnostics, Identity};
use crate::judged_as::JudgedAs;
use crate::token::DurableState;
use crate::token::state::file::{OpenError, RUN_AS_DAEMON_USER, Warning};

/// Adds the problems of the states to those of the configuration.
///
/// # Errors
///
/// All problems, if `run` would refuse a state.
pub(super) fn check(mut checked: Checked) -> Result<Checked, Box<Diagnostics>> {
    let clock = Clock::system();
    let mut problems = Vec::new();
    // Several states may share a folder, whose problems are reported once.
    let mut folders = BTreeSet::new();
    for credential in &checked.config.credentials {
        let place = checked.state_places.get(&credential.name).cloned();
        let path = credential.state.as_ref().map(|state| state.path.clone()).unwrap_or_default();
        let folder = path.parent().unwrap_or(&path);
        let error = |title: String, help: String| Problem::error(place.clone(), title).help(help);
        match DurableState::inspect(credential, clock, JudgedAs::FolderOwner) {
            Ok(None) => {}
            Ok(Some(look)) => {
                let is_first = folders.insert(folder.to_owned());
                if let Some(user) = look.other_user.filter(|_| is_first) {
                    let title = format!(
                        "{} belongs to the user with id {user}: its files were checked for a daemon of that user",
                        folder.display()
                    );
                    let help = "run the daemon, `bearerd login` and `bearerd forget` as that user; a daemon of root refuses \
                                its files";
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
                if let Some(cause) = look.not_writable.filter(|_| is_first) {
                    let title = format!("cannot write in {}: {cause}", folder.display());
                    problems.push(error(title, RUN_AS_DAEMON_USER.to_owned()));
                }
                if look.is_disk_full && is_first {
                    let title = format!("the disk of {} is full", folder.display());
                    let help = "free space: a state that cannot be written is lost at a restart";
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
                if let Some(mode) = look.open_folder.filter(|_| is_first) {
                    let title = format!(
                        "the mode {mode:04o} of {} lets every user access the states",
                        folder.display()
                    );
                    let help =
                        format!("restrict the folder to the daemon's user: chmod 700 {}", folder.display());
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
                problems.extend(look.warnings.iter().map(|warning| {
                    let title = format!("{}: {}", path.display(), in_one_line(warning));
                    Problem::warning(place.clone(), title).help(help_for_warning(warning))
                }));
                if look.state.refresh_token.is_none()
                    && let Some((title, help)) = missing_grant(credential)
                {
                    problems.push(Problem::warning(place.clone(), title).help(help));
                }
            }
            Err(cause @ OpenError::Folder(..)) if !folders.insert(folder.to_owned()) => drop(cause),
            Err(cause) if is_missing(&cause) => {
                let help = format!(
                    "create the folder for the daemon's user alone: mkdir -m 700 {}",
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

/// Whether the folder does not exist.
fn is_missing(cause: &OpenError) -> bool {
    matches!(cause, OpenError::Folder(_, source) if source.kind() == ErrorKind::NotFound)
}

/// The problem of a credential whose state has no refresh token, and its remedy; `None` if the credential needs none.
fn missing_grant(credential: &Credential) -> Option<(&'static str, String)> {
    let Identity { grant, fallback, .. } = &credential.identity;
    if !matches!(grant, Grant::RefreshToken(None)) || fallback.is_some() {
        return None;
    }
    let name = &credential.name;
    Some(match credential.login {
        Some(_) => (
            "nobody has logged in for this credential yet",
            format!("run `bearerd login {name}` as the daemon's user"),
        ),
        None => (
            "neither the configuration nor the state has a refresh token",
            format!(
                "set refresh_token = {{ file = \"…\" }}, or hand one to the running daemon with POST \
                 /credentials/{name}/grant at its admin address"
            ),
        ),
    })
}

fn help_for_warning(warning: &Warning) -> &'static str {
    match warning {
        Warning::GroupMode(_) => "run chmod 600; the daemon's next write does the same",
        Warning::Discarded(_) => "nothing has to be done; `bearerd forget CREDENTIAL` removes the file now",
        Warning::OtherFallback => "nothing has to be done: the fallback brings another one",
        Warning::Damaged(_) => {
            "where the grant is a refresh token, hand over a new one or run `bearerd login`; otherwise nothing is lost \
             but waits and tokens"
        }
        _ => "the daemon's next write repairs the file",
    }
}
