//! A credential as an operator reaches it: a new grant is handed to it, a refresh asked of it.
//!
//! An [`Operator`] carries out nothing itself. It gives orders to the refresher, which alone writes store and state, and
//! waits for what became of them. A grant is handed over to be adopted once; a refresh is wished for, and like a demand
//! it is the same wish whoever has it: a thousand at once share one token request and its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::access_token::Generation;
use super::progress::Unavailable;
use crate::clock::{Clock, Moment};

/// How many grants may wait for a refresher that is busy; whoever comes then waits to be one of them.
const MOST_WAITING: usize = 4;

/// Gives orders to one credential's refresher.
#[derive(Clone, Debug)]
pub struct Operator {
    grant: &'static str,
    takes_grants: bool,
    grants: mpsc::Sender<HandOver>,
    wish: Arc<Wish>,
    told: watch::Receiver<Told>,
    clock: Clock,
}

/// What a server gave to whoever authorized the client (RFC 6749 §5.1).
#[derive(Debug)]
pub struct NewGrant {
    /// To get tokens with from now on.
    pub refresh_token: SecretString,
    /// A token that came with it.
    pub access_token: Option<SecretString>,
    /// What is left of its lifetime, as far as that was said.
    pub lifetime: Option<Duration>,
    /// What it was granted for; `None` means as asked for.
    pub scopes: Option<Vec<String>>,
}

/// A grant that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whether it outlives a restart by now. Otherwise it is in memory, and writing it is tried again and again.
    pub is_durable: bool,
}

/// Why a grant was not taken. Nothing has changed then.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotAdopted {
    /// The credential gets its tokens in another way.
    #[error("the credential's grant uses no refresh token")]
    OtherGrant,
    /// No server gives out such a refresh token (RFC 6749 §A.17).
    #[error("the refresh token is empty, or holds characters other than printable ASCII")]
    Illegal,
    /// It was asked with before, and refused.
    #[error("the authorization server has refused this refresh token")]
    Refused,
    /// The refresher is not there any more.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What became of a wish for another token.
#[derive(Clone, Debug)]
pub enum Refreshed {
    /// There is another token.
    New {
        /// Which.
        generation: Generation,
        /// What is left of its lifetime.
        left: Duration,
    },
    /// The authorization server hands out the token that we had.
    Same {
        /// Which.
        generation: Generation,
        /// What is left of its lifetime.
        left: Duration,
        /// How long asking again would not help.
        again_in: Duration,
    },
    /// It was asked for, and none came.
    Failed(Unavailable),
    /// It may not be asked for now.
    Refused(Unavailable),
}

/// Why nothing is known of a wish.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotTold {
    /// It goes on.
    #[error("the refresh is still under way")]
    UnderWay,
    /// The refresher is not there any more.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Operator {
    /// The grant by which the credential gets its tokens, as it is called in the configuration.
    pub const fn grant(&self) -> &'static str {
        self.grant
    }

    /// Whether it takes a grant that is handed over.
    pub const fn takes_grants(&self) -> bool {
        self.takes_grants
    }

    /// Hands a new grant over, and waits until it is in use, and durable or known not to be.
    ///
    /// # Errors
    ///
    /// [`NotAdopted`]: all is as before.
    ///
    /// # Cancel safety
    ///
    /// A grant that the refresher has not taken up by then is not adopted any more.
    pub async fn hand_over(&self, grant: NewGrant) -> Result<Adopted, NotAdopted> {
        if !self.takes_grants {
            return Err(NotAdopted::OtherGrant);
        }
        let token = grant.refresh_token.expose_secret();
        if token.is_empty() || !token.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            return Err(NotAdopted::Illegal);
        }
        let (reply, outcome) = oneshot::channel();
        let hand_over = HandOver { grant, received: self.clock.now(), reply };
        self.grants.send(hand_over).await.map_err(|_| NotAdopted::Stopping)?;
        outcome.await.unwrap_or(Err(NotAdopted::Stopping))
    }

    /// Wishes for another token than the current one, and waits for what becomes of that.
    ///
    /// # Errors
    ///
    /// [`NotTold`] when the time is up, or when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// The wish goes on.
    pub async fn refresh(&self, within: Duration) -> Result<Refreshed, NotTold> {
        let mut told = self.told.clone();
        let seen = told.borrow().number;
        self.wish.raise(seen + 1);
        match tokio::time::timeout(within, told.wait_for(|told| told.number > seen)).await {
            Ok(Ok(told)) => told.outcome.clone().ok_or(NotTold::Stopping),
            Ok(Err(_)) => Err(NotTold::Stopping),
            Err(_) => Err(NotTold::UnderWay),
        }
    }
}

/// A grant on its way to the refresher.
#[derive(Debug)]
pub(super) struct HandOver {
    pub(super) grant: NewGrant,
    /// From when on the access token's age counts.
    pub(super) received: Moment,
    pub(super) reply: oneshot::Sender<Result<Adopted, NotAdopted>>,
}

/// Up to which outcome is waited for. Wishing for the same one again changes nothing.
#[derive(Debug, Default)]
struct Wish {
    wanted: AtomicU64,
    raised: Notify,
}

impl Wish {
    fn raise(&self, wanted: u64) {
        if self.wanted.fetch_max(wanted, Ordering::AcqRel) < wanted {
            self.raised.notify_one();
        }
    }
}

/// The latest outcome of a wish, and how many there have been.
#[derive(Debug, Default)]
struct Told {
    number: u64,
    outcome: Option<Refreshed>,
}

/// The orders as the refresher has them.
#[derive(Debug)]
pub(super) struct Orders {
    grants: (mpsc::Sender<HandOver>, mpsc::Receiver<HandOver>),
    /// One that came while the refresher waited.
    arrived: Option<HandOver>,
    wish: Arc<Wish>,
    told: watch::Sender<Told>,
    /// The latest wish that was looked at.
    noticed: u64,
}

impl Orders {
    pub(super) fn new() -> Self {
        Self {
            grants: mpsc::channel(MOST_WAITING),
            arrived: None,
            wish: Arc::default(),
            told: watch::Sender::default(),
            noticed: 0,
        }
    }

    /// Whoever has this gives orders.
    pub(super) fn operator(&self, grant: &'static str, takes_grants: bool, clock: Clock) -> Operator {
        let (grants, wish) = (self.grants.0.clone(), Arc::clone(&self.wish));
        Operator { grant, takes_grants, grants, wish, told: self.told.subscribe(), clock }
    }

    /// Waits for an order that was not there before.
    ///
    /// # Cancel safety
    ///
    /// An order that comes while nobody waits is kept.
    pub(super) async fn arrived(&mut self) {
        tokio::select! {
            Some(grant) = self.grants.1.recv(), if self.arrived.is_none() => self.arrived = Some(grant),
            () = self.wish.raised.notified() => {}
        }
    }

    /// The next grant that somebody still waits to hand over.
    pub(super) fn take_grant(&mut self) -> Option<HandOver> {
        loop {
            let grant = self.arrived.take().or_else(|| self.grants.1.try_recv().ok())?;
            if !grant.reply.is_closed() {
                return Some(grant);
            }
        }
    }

    /// Whether another token is wished for.
    pub(super) fn is_refresh_wanted(&self) -> bool {
        self.wish.wanted.load(Ordering::Acquire) > self.told.borrow().number
    }

    /// The same, and for the first time.
    pub(super) fn notices_wish(&mut self) -> bool {
        let wanted = self.wish.wanted.load(Ordering::Acquire);
        self.is_refresh_wanted() && std::mem::replace(&mut self.noticed, wanted) < wanted
    }

    /// Tells all who wish for another token what became of it.
    pub(super) fn tell(&self, outcome: Refreshed) {
        self.told.send_modify(|told| {
            told.number += 1;
            told.outcome = Some(outcome);
        });
    }
}
