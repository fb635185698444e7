//! A shared record as bytes: the state in the format of state files, sealed under a key of its own.
//!
//! The name of a place is a keyed hash of everything that decides on whose behalf a token is issued, so that it reveals
//! nothing and that no two principals share a record. Key and place are bound into the seal, and so is the number of the
//! write: a record opens under no other key, at no other place and with no other number. Moments are written relative to the
//! store's time.

use std::fmt::Write as _;
use std::time::Duration;

use super::store::{MAX_RECORD_BYTES, Seen};
use crate::clock::Moment;
use crate::config::Credential;
use crate::config::model::identity::Grant;
use crate::config::model::state_key::{StateKey, StateKeys};
use crate::token::limiter::LATCH_MAX;
use crate::token::state::age::{Stamp, nanos};
use crate::token::state::error::StateRefusal;
use crate::token::state::file::{Identity, RefreshTokenHash};
use crate::token::state::format::Format;
use crate::token::state::record::State;

const PLACE_LABEL: &[u8] = b"bearerd: place of a shared record";
const SEAL_LABEL: &[u8] = b"bearerd: seal of a shared record";
/// The bytes of a place's hash that are in its name.
const PLACE_BYTES: usize = 16;

/// One place of a record, under one key.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    format: Format,
    /// The number of the record that was seen here last.
    pub(super) seen: u64,
    /// Whether what was seen here last is no record: damaged, of another kind, or of another place.
    pub(super) is_spoilt: bool,
}

/// The store's time at a moment of this process's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreTime {
    pub(super) now: Duration,
    pub(super) at: Moment,
}

impl StoreTime {
    fn stamp(self, moment: Moment) -> Stamp {
        let wall = self.now + self.at.until(moment);
        Stamp { boot: None, moment: moment.as_nanos(), wall: nanos(wall) }
    }
}

/// The places of a credential's record: one for each key, in the order of their names, so that two refreshers that need
/// both never wait for each other.
pub(super) fn places(keys: &[StateKey], credential: &Credential) -> Vec<Place> {
    let of_key = |key: &StateKey| {
        let identity = identity_of(credential);
        let hash = key.derive(PLACE_LABEL, &identity);
        let mut name = String::new();
        for byte in &hash[..PLACE_BYTES] {
            let _ = write!(name, "{byte:02x}");
        }
        let seal = key.derived(SEAL_LABEL, &*hash);
        let longest_wait = credential.retry_after_max.max(LATCH_MAX);
        let format = Format::new(
            Identity::of(&[&identity]),
            StateKeys::new(seal, Vec::new()),
            name.as_bytes(),
            longest_wait,
        );
        Place { name, format, seen: 0, is_spoilt: false }
    };
    let mut places: Vec<_> = keys.iter().map(of_key).collect();
    places.sort_by(|one, other| one.name.cmp(&other.name));
    places.dedup_by(|one, other| one.name == other.name);
    places
}

/// Whose record it is. An access token belongs to its principal and rights. A refresh token belongs to the account and
/// stays where the rights change; the name tells persons apart who have logged in to one client.
fn identity_of(credential: &Credential) -> Vec<u8> {
    let account = credential.state_identity();
    let own = match credential.identity.grant {
        Grant::RefreshToken(_) => credential.name.as_bytes().to_vec(),
        _ => credential.token_identity().as_bytes().to_vec(),
    };
    [account.as_bytes().as_slice(), &own].concat()
}

/// Whether the refresh token of `ours`, if there is one, is that of `theirs`.
pub(super) fn has_token_of(theirs: &State, ours: &State) -> bool {
    let token = |state: &State| state.refresh_token.as_ref().map(RefreshTokenHash::of);
    ours.refresh_token.is_none() || token(theirs) == token(ours)
}

/// The later one of two states.
pub(super) fn later(one: Option<(u64, State)>, other: Option<(u64, State)>) -> Option<(u64, State)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.0 < other.0 { other } else { one }),
        (one, other) => one.or(other),
    }
}

impl Place {
    /// The record of a state, as of `now`.
    ///
    /// # Errors
    ///
    /// Why the state cannot be sealed, in words.
    pub(super) fn seal(
        &self,
        state: &State,
        number: u64,
        time: StoreTime,
        now: Moment,
    ) -> Result<Vec<u8>, String> {
        let bytes = self.format.write(state, number, time.stamp(now)).map_err(|error| error.to_string())?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(format!(
                "the record has {} bytes, and at most {MAX_RECORD_BYTES} are shared",
                bytes.len()
            ));
        }
        Ok(bytes)
    }

    /// The state of the record that was seen, which was asked for at the moment `sent`.
    ///
    /// # Errors
    ///
    /// [`StateRefusal`] where the record does not open.
    pub(super) fn open(&self, seen: &Seen, sent: Moment) -> Option<Result<State, StateRefusal>> {
        let record = seen.record.as_ref()?;
        Some(self.open_record(record, seen.now, sent).and_then(|(state, number)| {
            if number == seen.number { Ok(state) } else { Err(StateRefusal::Altered) }
        }))
    }

    /// The state of a record that came too late, with its number.
    pub(super) fn open_late(&self, seen: &Seen, sent: Moment) -> Option<State> {
        self.open_record(seen.late.as_ref()?, seen.now, sent).ok().map(|(state, _)| state)
    }

    fn open_record(&self, record: &[u8], now: Duration, sent: Moment) -> Result<(State, u64), StateRefusal> {
        let decoded = self.format.read(record, &StoreTime { now, at: sent }.stamp(sent))?;
        Ok((decoded.state, decoded.sequence))
    }
}
