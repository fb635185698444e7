//! Opening the state of a credential: with its lock, or without for `bearerd check`.

use std::path::PathBuf;

use tracing::{error, info, warn};

use super::file::{
    Identity, Inspection, OpenError, RetiredState, StateFile, StateKey, StateKeys, StateRefusal, Warning,
};
use super::{DurableState, warn_of};
use crate::causes::in_one_line;
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::{Credential, StatePlace};
use crate::judged_as::JudgedAs;
use crate::token::limiter::LATCH_MAX;

impl DurableState {
    /// Opens the state of a credential; one in memory where the credential has no state file. Blocks on the disk.
    ///
    /// A state that is encrypted under a previous key is written again under the current key, so that the previous key can
    /// be removed from the configuration.
    pub fn open(credential: &Credential, clock: Clock) -> Result<Self, OpenError> {
        let Some(place) = &credential.state else {
            return Ok(Self::in_memory(clock));
        };
        let identity = identity_of(credential);
        let longest_wait = credential.retry_after_max.max(LATCH_MAX);
        let open = || StateFile::open(&place.path, identity, keys_of(place), longest_wait, clock);
        let (mut file, mut found) = match open() {
            Err(OpenError::Refused(path, refusal))
                if moves_damage_aside(credential, place) && refusal.is_damage() =>
            {
                move_aside(&credential.name, path, refusal)?;
                open()?
            }
            opened => opened?,
        };
        let opened = file.number();
        if found.state.as_ref().is_some_and(|state| state.is_of_other_fallback(credential)) {
            found.warnings.push(Warning::OtherFallback);
        }
        warn_of(&credential.name, &found);
        let state = found.state.unwrap_or_default().belonging_to(credential);
        if found.warnings.iter().any(|warning| matches!(warning, Warning::OldKey)) {
            let credential = &credential.name;
            match file.save(&state) {
                Ok(()) => {
                    info!(credential, "state encrypted anew under state_key, state_key_previous can go");
                }
                Err(error) => warn!(credential, error = in_one_line(&error), "state not encrypted anew"),
            }
        }
        Ok(Self {
            credential: credential.name.clone(),
            is_on_disk: true,
            opened,
            keeps_tokens: file.keeps_tokens(),
            file: Some(Box::new(file)),
            written: state.clear_part(),
            state,
            ..Self::in_memory(clock)
        })
    }

    /// Whether a daemon of this user that starts now could open the state of a credential; `None` if the credential has no
    /// state file. Takes no lock, so a running daemon is not disturbed. Blocks on the disk.
    pub fn inspect(
        credential: &Credential,
        clock: Clock,
        user: JudgedAs,
    ) -> Result<Option<Inspection>, OpenError> {
        let inspect = |place: &StatePlace| {
            let may = moves_damage_aside(credential, place);
            let (identity, keys) = (identity_of(credential), keys_of(place));
            let mut found = Inspection::of(&place.path, identity, keys, clock, user, may)?;
            if found.state.is_of_other_fallback(credential) {
                found.warnings.push(Warning::OtherFallback);
            }
            Ok(Inspection { state: found.state.belonging_to(credential), ..found })
        };
        credential.state.as_ref().map(inspect).transpose()
    }
}

fn keys_of(place: &StatePlace) -> StateKeys {
    place.key.as_ref().map_or_else(StateKeys::none, |key| {
        StateKeys::new(StateKey::checked(key), place.previous_keys.iter().map(StateKey::checked).collect())
    })
}

/// Whether the daemon moves a damaged state aside and starts without a state. The daemon does not if the
/// damaged file may hold a later refresh token than a configured one, which may have been used.
fn moves_damage_aside(credential: &Credential, place: &StatePlace) -> bool {
    place.key.is_none() || !matches!(credential.identity.grant, Grant::RefreshToken(Some(_)))
}

/// Moves a damaged state file aside, and logs the new path.
///
/// # Errors
///
/// [`OpenError`] where the lock cannot be taken, and [`OpenError::Refused`] where the file cannot be moved.
fn move_aside(credential: &str, path: PathBuf, refusal: StateRefusal) -> Result<(), OpenError> {
    let moved = RetiredState::take(&path)?.move_aside();
    match moved {
        Ok(aside) => {
            let (error, moved_to) = (in_one_line(&refusal), aside.display().to_string());
            let help = "where the grant is a refresh token, hand over a new one or run `bearerd login`";
            error!(credential, error, moved_to, help, "damaged state moved aside, started without it");
            Ok(())
        }
        Err(_) => Err(OpenError::Refused(path, refusal)),
    }
}

/// The account that the state belongs to. The tokens of another principal are removed by
/// [`State::belonging_to`](super::file::State::belonging_to).
fn identity_of(credential: &Credential) -> Identity {
    Identity::of(&[credential.state_identity().as_bytes()])
}
