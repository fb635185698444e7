//! Whose turn a token request is, and what becomes of a state that is shared.

use crate::clock::Moment;
use crate::token::state::file::State;

/// Whether a token request may be made, as far as the other replicas are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::token) enum Turn {
    /// This refresher holds the lease.
    Mine,
    /// The lease may be free.
    Open,
    /// Another holds the lease, until this moment at least.
    Other(Moment),
    /// The store is away.
    Away,
}

/// What became of a state that was to be shared.
#[derive(Debug)]
pub(in crate::token) enum Share {
    /// The state is in the store.
    Done,
    /// Another replica has written before. Its state, unless that cannot be read.
    Lost(Option<Box<State>>),
    /// The store is away: the state is written when the store is back.
    Away,
}

/// Why a state is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::token) enum Occasion {
    /// A token request follows.
    Request,
    /// A token request has failed.
    Failure,
    /// A token request or a person has brought a token.
    Success,
    /// The store does not have the state.
    Repair,
}
