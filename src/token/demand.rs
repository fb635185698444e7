//! Demands for later tokens.
//!
//! Each *party* that can tell that a token is rejected, which is a route, has one demand: for a token of a later generation
//! than the rejected one. The refresher works towards the latest generation that any party demands.
//!
//! A party withdraws only its own demand, when the rejected token is accepted after all: in response to a request that was
//! sent while the demand stood. The late response to an earlier request says nothing about a token that was revoked since.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::access_token::Generation;
use crate::clock::Moment;

/// The demands of all parties for one credential's tokens, and a signal to the refresher.
#[derive(Debug, Default)]
pub(super) struct Demands {
    /// Locked by the refresher, by operators and where a party is added; never by a request.
    parties: Mutex<Vec<Weak<Demand>>>,
    signal: Notify,
}

/// What a route knows of the tokens that its upstream rejects.
pub trait Verdicts: fmt::Debug + Send + Sync {
    /// Whether the upstream rejects this token, and no refresh has helped.
    fn rejects(&self, generation: Generation, now: Moment) -> bool;
}

/// The demand of one party.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// The verdicts of the route that the party is. The credential's own source, which others are made from, sends no
    /// requests.
    route: Option<Arc<dyn Verdicts>>,
    /// A [`Demanded`].
    word: AtomicU64,
    withdrawn: Notify,
}

/// What a party demands at a moment: the number of the lowest generation that it accepts, 0 without a demand, and in the
/// low bits a number that distinguishes demands for one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demanded(u64);

impl Demanded {
    const NUMBER_BITS: u32 = 16;

    const fn lowest(self) -> u64 {
        self.0 >> Self::NUMBER_BITS
    }

    /// The next demand, for this generation.
    const fn next(self, lowest: Generation) -> Self {
        let number = (self.0 + 1) & ((1 << Self::NUMBER_BITS) - 1);
        Self(lowest.number() << Self::NUMBER_BITS | number)
    }

    const fn none(self) -> Self {
        Self(self.0 & ((1 << Self::NUMBER_BITS) - 1))
    }
}

/// Which parties reject a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    None,
    Some,
    All,
}

impl Demands {
    /// The party of a route, which demands nothing. A party that is dropped withdraws its demand.
    pub(super) fn party(&self, verdicts: Arc<dyn Verdicts>) -> Arc<Demand> {
        self.add(Demand { route: Some(verdicts), ..Demand::default() })
    }

    /// The party of the credential's own source.
    pub(super) fn own(&self) -> Arc<Demand> {
        self.add(Demand::default())
    }

    fn add(&self, party: Demand) -> Arc<Demand> {
        let party = Arc::new(party);
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        parties.retain(|other| other.strong_count() > 0);
        parties.push(Arc::downgrade(&party));
        party
    }

    /// Whether a party demands a later token than this one.
    pub(super) fn exceed(&self, generation: Generation) -> bool {
        self.parties().any(|party| party.exceeds(generation))
    }

    /// Which parties demand a later token than this one, or would if a refresh helped.
    pub(super) fn rejection(&self, generation: Generation, now: Moment) -> Rejection {
        let (mut some, mut all) = (false, true);
        for party in self.parties() {
            let is_held = |route: &Arc<dyn Verdicts>| route.rejects(generation, now);
            let rejects = party.exceeds(generation) || party.route.as_ref().is_some_and(is_held);
            (some, all) = (some || rejects, all && (rejects || party.route.is_none()));
        }
        match (some, all) {
            (false, _) => Rejection::None,
            (true, false) => Rejection::Some,
            (true, true) => Rejection::All,
        }
    }

    /// Withdraws every demand for a later token than this one: the server issues no other.
    pub(super) fn withdraw_beyond(&self, generation: Generation) {
        for party in self.parties() {
            party.change(|demanded| (demanded.lowest() > generation.number()).then(|| demanded.none()));
        }
    }

    /// Wakes the refresher.
    pub(super) fn wake(&self) {
        self.signal.notify_one();
    }

    /// Waits until the refresher is woken.
    ///
    /// # Cancel safety
    ///
    /// A signal that is sent while nobody waits is kept for the next call.
    pub(super) async fn raised(&self) {
        self.signal.notified().await;
    }

    fn parties(&self) -> impl Iterator<Item = Arc<Demand>> {
        let parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let live: Vec<_> = parties.iter().filter_map(Weak::upgrade).collect();
        live.into_iter()
    }
}

impl Demand {
    /// Demands a later token than the rejected one. Returns whether the party did not demand that before.
    pub(super) fn raise_beyond(&self, rejected: Generation) -> bool {
        let lowest = rejected.next();
        self.change(|demanded| (demanded.lowest() < lowest.number()).then(|| demanded.next(lowest)))
    }

    /// What the party demands now. One relaxed load.
    pub(super) fn demanded(&self) -> Demanded {
        Demanded(self.word.load(Ordering::Relaxed))
    }

    /// Whether the party demands a later token than this one.
    pub(super) fn exceeds(&self, generation: Generation) -> bool {
        Demanded(self.word.load(Ordering::SeqCst)).lowest() > generation.number()
    }

    /// Ends the demand if the party accepts this token and the token meets the demand, or is the one that the party
    /// complains of and was sent under this very demand. Returns whether the party complained of it. One relaxed load
    /// without a demand.
    pub(super) fn accepted(&self, generation: Generation, sent: Demanded) -> bool {
        self.demanded().lowest() != 0 && self.end(generation, sent)
    }

    #[cold]
    fn end(&self, generation: Generation, sent: Demanded) -> bool {
        let mut complained = false;
        let ended = self.change(|demanded| {
            complained = demanded == sent && demanded.lowest() == generation.next().number();
            (complained || demanded.lowest() <= generation.number()).then(|| demanded.none())
        });
        if ended && complained {
            self.withdrawn.notify_waiters();
        }
        ended && complained
    }

    fn change(&self, mut change: impl FnMut(Demanded) -> Option<Demanded>) -> bool {
        let change = |word| change(Demanded(word)).map(|demanded| demanded.0);
        self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok()
    }

    /// Resolves when the demand ends by [`Demand::accepted`] after this call.
    pub(super) fn withdrawn(&self) -> Notified<'_> {
        self.withdrawn.notified()
    }
}

#[cfg(test)]
impl Verdicts for () {
    fn rejects(&self, _: Generation, _: Moment) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const G1: Generation = Generation::from_number(1);
    const G2: Generation = Generation::from_number(2);
    const G3: Generation = Generation::from_number(3);

    /// The party accepts this token in response to a request that is sent now.
    fn accepts(party: &Demand, generation: Generation) -> bool {
        party.accepted(generation, party.demanded())
    }

    #[test]
    fn a_demand_ends_with_the_acceptance_of_the_token_that_it_complains_of() {
        let demands = Demands::default();
        let party = demands.party(Arc::new(()));
        assert!(!accepts(&party, G2));
        assert!(party.raise_beyond(G2) && !party.raise_beyond(G2));
        assert!(demands.exceed(G2) && !demands.exceed(G3));

        let withdrawn = party.withdrawn();
        assert!(!accepts(&party, G1), "an earlier token says nothing about this one");
        assert!(demands.exceed(G2));
        assert!(accepts(&party, G2));

        assert!(!demands.exceed(Generation::NONE));
        assert!(withdrawn.now_or_never().is_some());
        assert!(party.raise_beyond(G2), "a withdrawn demand can be made again");
        assert!(!accepts(&party, G3), "the demand is met");
        assert!(!demands.exceed(Generation::NONE));
    }

    #[test]
    fn the_late_response_to_an_earlier_request_withdraws_no_demand() {
        let demands = Demands::default();
        let party = demands.party(Arc::new(()));
        let before = party.demanded();
        party.raise_beyond(G1);
        let during = party.demanded();
        assert!(!party.accepted(G1, before));
        assert!(demands.exceed(G1));
        assert!(party.accepted(G1, during));

        party.raise_beyond(G1);
        assert!(!party.accepted(G1, before) && !party.accepted(G1, during));
        assert!(demands.exceed(G1), "another demand for the same generation");
    }

    #[test]
    fn a_party_withdraws_only_its_own_demand() {
        let demands = Demands::default();
        let (one, other) = (demands.party(Arc::new(())), demands.party(Arc::new(())));
        one.raise_beyond(G1);
        other.raise_beyond(G1);
        assert!(accepts(&one, G1));
        assert!(demands.exceed(G1));
        drop(other);
        assert!(!demands.exceed(G1));

        one.raise_beyond(G2);
        demands.withdraw_beyond(G1);
        assert!(!demands.exceed(Generation::NONE));
        one.raise_beyond(G2);
        demands.withdraw_beyond(G3);
        assert!(demands.exceed(G2), "the demand is met by that token");
    }
}
