//! What a shared store must be able to do, and the values that pass between it and a replica.
//!
//! All times are the store's: a replica tells durations and is told the store's time, so that no two replicas' clocks are
//! compared. Every operation has a bound on its time, and an operation whose answer is lost may have taken effect.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

/// The largest record that is read; a larger one is as unreadable as a damaged one.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Where the replicas keep what they share: an engine with atomic operations, in practice Redis or Valkey.
pub trait SharedStore: fmt::Debug + Send + Sync {
    /// Takes the lease on a place, or takes it again, unless another holder has it; and reads the place.
    fn take<'a>(&'a self, place: &'a str, request: Take<'a>) -> Operation<'a, Taken>;

    /// Prolongs a lease that this holder has. Answers whether the holder has it.
    fn renew<'a>(&'a self, place: &'a str, holder: &'a str, ttl: Duration) -> Operation<'a, bool>;

    /// Gives a lease back that this holder may have.
    fn give_back<'a>(&'a self, place: &'a str, holder: &'a str) -> Operation<'a, ()>;

    /// Reads a place.
    fn read<'a>(&'a self, place: &'a str, known: u64) -> Operation<'a, Seen>;

    /// Replaces the record of a place, if its number is the expected one.
    fn write<'a>(&'a self, place: &'a str, write: Write<'a>) -> Operation<'a, Written>;

    /// Notes that this replica lives, and counts the replicas that have been noted within 15 s.
    fn beat<'a>(&'a self, replica: &'a str) -> Operation<'a, u64>;

    /// Tells of announced writes of this place, and of moments at which one may have been missed.
    fn watch(&self, place: &str) -> watch::Receiver<()>;
}

/// One operation of a store.
pub type Operation<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Why an operation brought no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// The store is not reachable, does not answer in time, or is not ready.
    #[error("{0}")]
    Away(String),
    /// The store refuses the client or the command.
    #[error("{0}")]
    Refused(String),
    /// The store answers, but with something that bearerd's scripts do not return, or finds values that they did not write.
    #[error("{0}")]
    Corrupt(String),
}

impl StoreError {
    /// The kind, in one word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Refused(_) => "refused",
            Self::Corrupt(_) => "corrupt",
        }
    }
}

/// What is wrong with the keys of a place, which no replica has written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The record is a value of another kind.
    Kind,
    /// The number of the record is not a number.
    Number,
    /// The record is larger than [`MAX_RECORD_BYTES`].
    Size,
    /// The lease or its fence, and not the record.
    Lease,
}

impl Flaw {
    /// What to do about it.
    pub const REMEDY: &'static str =
        "give bearerd a database or a `shared.prefix` of its own: another program writes to these keys";

    /// The flaw in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Kind => "the record is no hash",
            Self::Number => "the number of the record is not a number",
            Self::Size => "the record is larger than 256 KiB",
            Self::Lease => "the lease or its fence is not what a replica writes",
        }
    }
}

/// A request for the lease on a place.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a> {
    /// The holder, which is unique among all refreshers of all replicas.
    pub holder: &'a str,
    /// When the lease ends by itself.
    pub ttl: Duration,
    /// The number of the record that the replica has; its content is not sent again.
    pub known: u64,
    /// The highest fence that the replica has seen; the lease's is higher, also in a store that has lost its memory.
    pub fence: u64,
}

/// The answer to a [`Take`].
#[derive(Clone, Debug)]
pub struct Taken {
    /// The fence of the lease; or, where another holder has it, the time until that lease ends.
    pub lease: Result<u64, Duration>,
    /// The place.
    pub seen: Seen,
}

/// A place at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The store's time, since 1970.
    pub now: Duration,
    /// The number of the record; 0 without one.
    pub number: u64,
    /// The record, unless it has the known number.
    pub record: Option<Vec<u8>>,
    /// A record that came too late ([`Write::keeps_late`]).
    pub late: Option<Vec<u8>>,
    /// What is wrong with the place. A record with a flaw of its own is an empty one.
    pub flaw: Option<Flaw>,
    /// The holder of the lease under which the record was written.
    pub writer: Option<String>,
}

/// A new record of a place.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The number of the record that is replaced.
    pub expected: u64,
    /// The number of the new record.
    pub number: u64,
    /// The new record.
    pub record: &'a [u8],
    /// When the store may drop the record; `None` for never.
    pub keep: Option<Duration>,
    /// Whether the other replicas are told.
    pub is_announced: bool,
    /// Whether a late record is dropped.
    pub clears_late: bool,
    /// Whether a record that is not written, because the number is not the expected one, is kept beside the one that is
    /// there.
    pub keeps_late: bool,
    /// The holder of the lease; `None` where the record is only restored.
    pub writer: Option<&'a str>,
    /// In which servers of the store the record is to be when the write ends.
    pub copies: Copies,
}

/// In which servers of a store a record is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// In the primary.
    Primary,
    /// In another one as well, if there is one and it confirms in a bounded time.
    Confirmed,
}

/// What a write found.
#[derive(Clone, Debug)]
pub enum Written {
    /// The record is the new one.
    Done,
    /// The record is the new one, but no other server of the store has told in time that it has the record, so that a failover
    /// may lose it.
    Unconfirmed,
    /// The record had another number, and stays.
    Lost(Seen),
}
