//! A shared store in Redis or Valkey.
//!
//! One connection carries all operations and, by RESP3, the announcements of other replicas. A task of its own connects, and
//! connects anew: no operation waits for that, except for the first connection after the start.

mod connector;
pub mod inspection;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

pub use self::connector::Address;
use self::connector::{Announcements, Connector, Link, said};
use super::store::{
    Copies, Flaw, MAX_RECORD_BYTES, Operation, Seen, SharedStore, StoreError, Take, Taken, Write, Written,
};

/// How long the first operations wait for the first connection.
const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Operations in a row without an answer, after which another connection is made.
const MAX_TIMEOUTS: u32 = 8;
/// For how long a replica counts after its last heartbeat.
const HEARTBEAT_LASTS: Duration = Duration::from_secs(15);

/// A shared store in Redis or Valkey.
#[derive(Debug)]
pub struct RedisStore {
    prefix: String,
    operation_timeout: Duration,
    link: watch::Receiver<Link>,
    broken: Arc<tokio::sync::Notify>,
    /// The operations without an answer since the last one with an answer.
    timeouts: AtomicU32,
    announcements: Announcements,
    scripts: Scripts,
    /// The task that connects, which ends with this.
    _connector: JoinSet<()>,
}

struct Scripts {
    take: Script,
    renew: Script,
    give_back: Script,
    read: Script,
    write: Script,
    beat: Script,
}

impl std::fmt::Debug for Scripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripts").finish_non_exhaustive()
    }
}

/// A place as the scripts answer it: time, number, record, late record, flaw, writer.
type Read = (u64, u64, Option<Vec<u8>>, Option<Vec<u8>>, u8, Option<Vec<u8>>);

impl RedisStore {
    /// A store at this address, whose keys begin with the prefix. Connects on the current runtime.
    pub fn new(address: Address, prefix: &str, operation_timeout: Duration) -> Self {
        let announcements = Announcements::default();
        let channel = format!("{prefix}changed");
        let (connector, link) = Connector::new(address, channel, announcements.clone());
        let broken = connector.broken();
        let mut task = JoinSet::new();
        task.spawn(connector.run());
        Self {
            prefix: prefix.to_owned(),
            operation_timeout,
            link,
            broken,
            timeouts: AtomicU32::new(0),
            announcements,
            scripts: Scripts {
                take: Script::new(scripts::TAKE),
                renew: Script::new(scripts::RENEW),
                give_back: Script::new(scripts::GIVE_BACK),
                read: Script::new(scripts::READ),
                write: Script::new(scripts::WRITE),
                beat: Script::new(scripts::BEAT),
            },
            _connector: task,
        }
    }

    /// A key of a place. All keys of a place have one hash tag, and so are on one node of a cluster.
    fn key(&self, place: &str, name: &str) -> String {
        format!("{}{{{place}}}:{name}", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}changed", self.prefix)
    }

    /// Runs a script within the operation's time.
    async fn run<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut connection = self.connection().await?;
        self.run_over(&mut connection, invocation).await
    }

    async fn run_over<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let answer = timeout(self.operation_timeout, invocation.invoke_async(connection)).await;
        match answer {
            Ok(Ok(answer)) => {
                self.timeouts.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => {
                if must_connect_anew(&error) {
                    self.broken.notify_one();
                }
                Err(said(&error))
            }
            Err(_) => {
                // A server that has vanished without a word does not end the connection.
                if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
                    self.timeouts.store(0, Ordering::Relaxed);
                    self.broken.notify_one();
                }
                Err(StoreError::Away(format!("no answer within {:?}", self.operation_timeout)))
            }
        }
    }

    /// Whether another server of the store has what was written over this connection, or there is none. Other operations over
    /// the connection wait meanwhile, and have the other half of the operation's time.
    async fn is_confirmed(&self, connection: &mut MultiplexedConnection) -> bool {
        let bound = self.operation_timeout / 2;
        let confirmation = async {
            let role = redis::cmd("ROLE").query_async(connection).await?;
            if followers(&role) == 0 {
                return Ok(true);
            }
            let wait = redis::cmd("WAIT").arg(1).arg(milliseconds(bound)).query_async(connection).await;
            wait.map(|confirmed: u64| confirmed > 0)
        };
        match timeout(self.operation_timeout, confirmation).await {
            Ok(Ok(is_confirmed)) => is_confirmed,
            Ok(Err(error)) => {
                debug!(%error, "no confirmation of a write");
                false
            }
            Err(_) => false,
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut link = self.link.clone();
        let known = link.wait_for(|link| !matches!(link, Link::Beginning));
        let not_yet = || StoreError::Away("not connected yet".to_owned());
        match timeout(FIRST_CONNECTION_TIMEOUT, known).await {
            Ok(Ok(link)) => match &*link {
                Link::Connected(connection) => Ok(connection.clone()),
                Link::Away(error) => Err(error.clone()),
                Link::Beginning => Err(not_yet()),
            },
            Ok(Err(_)) | Err(_) => Err(not_yet()),
        }
    }
}

/// Whether another connection may help: this one has ended, or leads to a server that is no primary any more.
fn must_connect_anew(error: &RedisError) -> bool {
    let is_moved = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::Moved)
    );
    is_moved || (error.is_unrecoverable_error() && !error.is_timeout())
}

fn seen((now, number, record, late, flaw, writer): Read) -> Seen {
    let flaw = match flaw {
        0 => None,
        1 => Some(Flaw::Kind),
        2 => Some(Flaw::Number),
        3 => Some(Flaw::Size),
        _ => Some(Flaw::Lease),
    };
    let writer = writer.map(|writer| String::from_utf8_lossy(&writer).into_owned());
    Seen { now: Duration::from_micros(now), number, record, late, flaw, writer }
}

/// How many servers follow the primary, as it answers to `ROLE`.
fn followers(role: &Value) -> usize {
    match role {
        Value::Array(parts) => match parts.as_slice() {
            [_, _, Value::Array(followers)] => followers.len(),
            _ => 0,
        },
        _ => 0,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl SharedStore for RedisStore {
    fn take<'a>(&'a self, place: &'a str, request: Take<'a>) -> Operation<'a, Taken> {
        async move {
            let mut script = self.scripts.take.prepare_invoke();
            for name in ["lease", "fence", "record"] {
                script.key(self.key(place, name));
            }
            script.arg(request.holder).arg(milliseconds(request.ttl)).arg(request.known);
            script.arg(MAX_RECORD_BYTES).arg(request.fence);
            let (is_mine, number, read): (bool, i64, Read) = self.run(&script).await?;
            let number = u64::try_from(number).unwrap_or_default();
            let lease = if is_mine { Ok(number) } else { Err(Duration::from_millis(number)) };
            Ok(Taken { lease, seen: seen(read) })
        }
        .boxed()
    }

    fn renew<'a>(&'a self, place: &'a str, holder: &'a str, ttl: Duration) -> Operation<'a, bool> {
        async move {
            let mut script = self.scripts.renew.key(self.key(place, "lease"));
            self.run(script.arg(holder).arg(milliseconds(ttl))).await
        }
        .boxed()
    }

    fn give_back<'a>(&'a self, place: &'a str, holder: &'a str) -> Operation<'a, ()> {
        async move {
            let mut script = self.scripts.give_back.key(self.key(place, "lease"));
            let _: bool = self.run(script.arg(holder)).await?;
            Ok(())
        }
        .boxed()
    }

    fn read<'a>(&'a self, place: &'a str, known: u64) -> Operation<'a, Seen> {
        async move {
            let mut script = self.scripts.read.key(self.key(place, "record"));
            let read: Read = self.run(script.arg(known).arg(MAX_RECORD_BYTES)).await?;
            Ok(seen(read))
        }
        .boxed()
    }

    fn write<'a>(&'a self, place: &'a str, write: Write<'a>) -> Operation<'a, Written> {
        async move {
            let mut script = self.scripts.write.key(self.key(place, "record"));
            script.arg(write.expected).arg(write.number).arg(write.record);
            script.arg(write.keep.map_or(0, milliseconds));
            script.arg(u8::from(write.is_announced)).arg(u8::from(write.keeps_late)).arg(MAX_RECORD_BYTES);
            script.arg(self.channel()).arg(place).arg(u8::from(write.clears_late));
            script.arg(write.writer.unwrap_or_default());
            // A confirmation is of what was written over the same connection.
            let mut connection = self.connection().await?;
            let (is_done, read): (bool, Read) = self.run_over(&mut connection, &script).await?;
            if !is_done {
                return Ok(Written::Lost(seen(read)));
            }
            let is_confirmed = write.copies == Copies::Primary || self.is_confirmed(&mut connection).await;
            Ok(if is_confirmed { Written::Done } else { Written::Unconfirmed })
        }
        .boxed()
    }

    fn beat<'a>(&'a self, replica: &'a str) -> Operation<'a, u64> {
        async move {
            let mut script = self.scripts.beat.key(format!("{}replicas", self.prefix));
            self.run(script.arg(replica).arg(milliseconds(HEARTBEAT_LASTS))).await
        }
        .boxed()
    }

    fn watch(&self, place: &str) -> watch::Receiver<()> {
        let mut watches = self.announcements.watches();
        watches.entry(place.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
    }
}
