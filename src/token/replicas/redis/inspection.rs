//! Whether bearerd can work with a store, for `bearerd check --online`.
//!
//! Each command that the daemon uses is tried by itself, on keys of the inspection's own under the prefix. What the replicas
//! share is neither read nor written.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value, cmd};
use tokio::time::{Instant, timeout};

use super::connector::{Address, CONNECT_TIMEOUT, patient, tls_failure};
use super::followers;
use crate::peer_text::printable;

/// The time of one command, which tells a slow store from a hung one.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a key of the inspection lives at most, in milliseconds.
const KEY_LASTS: u64 = 10_000;

/// The commands without which bearerd shares tokens all the same, only later or less safely.
pub const OPTIONAL: [&str; 3] = ["subscribe", "role", "wait"];

/// What a store is like.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The server's name and version, such as `redis 7.0.15`.
    pub server: Option<String>,
    /// Whether the server follows another one, and takes no writes.
    pub is_follower: bool,
    /// How many servers follow this one; `None` where that may not be asked.
    pub followers: Option<usize>,
    /// The longest time of a command.
    pub slowest: Duration,
    /// The commands that the user may not run, as an ACL names them.
    pub denied: Vec<&'static str>,
    /// Whether the user may not use keys with the prefix.
    pub denies_keys: bool,
    /// Whether the user may not use the channel of announcements.
    pub denies_channel: bool,
    /// The first command that failed otherwise, and why.
    pub failure: Option<(&'static str, String)>,
    /// Whether every write is appended to a file; `None` where that may not be asked.
    pub appends: Option<bool>,
    /// Whether snapshots are saved; `None` where that may not be asked.
    pub saves: Option<bool>,
    /// The limit of memory, 0 for none; `None` where that may not be asked.
    pub max_memory: Option<u64>,
    /// What is evicted at the limit; `None` where that may not be asked.
    pub eviction: Option<String>,
    /// What the user may do that bearerd does not need, as a verb with its object.
    pub beyond: Vec<&'static str>,
    /// The sentinels that do not name the primary, with the reason.
    pub silent_sentinels: Vec<(String, String)>,
}

/// Why a store cannot be inspected.
#[derive(Debug)]
pub struct Unreachable {
    /// What stands in the way.
    pub obstacle: Obstacle,
    /// The error.
    pub text: String,
}

/// What stands in the way to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No connection, or no answer.
    Network,
    /// No TLS.
    Tls,
    /// User and password are not accepted.
    Login,
    /// The sentinels name no primary.
    Sentinels,
    /// The user may not even ask for the role of the server.
    Permission,
    /// The server is too old, or no Redis.
    Protocol,
    /// The server is not ready, or refuses for another reason.
    Other,
}

impl Unreachable {
    fn new(error: &RedisError) -> Self {
        let tls = tls_failure(error);
        let obstacle = match error.kind() {
            _ if tls.is_some() => Obstacle::Tls,
            ErrorKind::AuthenticationFailed => Obstacle::Login,
            ErrorKind::Extension if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Obstacle::Login,
            ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::EmptySentinelList => Obstacle::Sentinels,
            ErrorKind::Server(ServerErrorKind::NoPerm) => Obstacle::Permission,
            ErrorKind::RESP3NotSupported | ErrorKind::Parse => Obstacle::Protocol,
            ErrorKind::Io => Obstacle::Network,
            _ => Obstacle::Other,
        };
        // A text of the table of TLS failures is ours, and ends with its remedy.
        Self { obstacle, text: tls.unwrap_or_else(|| printable(&error.to_string())) }
    }

    fn silent(what: &str, bound: Duration) -> Self {
        Self { obstacle: Obstacle::Network, text: format!("{what} within {} s", bound.as_secs()) }
    }
}

/// Connects as the daemon does, and tries what the daemon does.
///
/// # Errors
///
/// [`Unreachable`] where the store could not be asked to the end.
pub async fn inspect(address: &Address, prefix: &str) -> Result<Inspection, Unreachable> {
    let connecting = async {
        let client = address.client().await?;
        client.get_multiplexed_async_connection_with_config(&patient()).await
    };
    let (connected, silent_sentinels) = futures_util::future::join(
        timeout(CONNECT_TIMEOUT, connecting),
        join_all(address.sentinels.iter().map(|sentinel| ask_sentinel(address, sentinel))),
    )
    .await;
    let connection = connected
        .map_err(|_| Unreachable::silent("no connection", CONNECT_TIMEOUT))?
        .map_err(|error| Unreachable::new(&error))?;
    let silent_sentinels = silent_sentinels.into_iter().flatten().collect();
    let mut inspector =
        Inspector { connection, found: Inspection { silent_sentinels, ..Inspection::default() } };
    inspector.identify().await?;
    inspector.try_commands(prefix).await?;
    inspector.ask_settings().await?;
    inspector.look_beyond(prefix).await?;
    Ok(inspector.found)
}

/// A sentinel that names no primary, with the reason.
async fn ask_sentinel(address: &Address, sentinel: &(String, u16)) -> Option<(String, String)> {
    let alone = Address { sentinels: vec![sentinel.clone()], ..address.clone() };
    let answer: Result<RedisResult<Client>, _> = timeout(CONNECT_TIMEOUT, alone.client()).await;
    let why = match answer {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => Unreachable::new(&error).text,
        Err(_) => Unreachable::silent("no answer", CONNECT_TIMEOUT).text,
    };
    Some((format!("{}:{}", sentinel.0, sentinel.1), why))
}

struct Inspector {
    connection: MultiplexedConnection,
    found: Inspection,
}

impl Inspector {
    /// Runs a command. The inner error is the server's.
    async fn run(&mut self, command: &Cmd) -> Result<RedisResult<Value>, Unreachable> {
        let sent = Instant::now();
        let answer = timeout(COMMAND_TIMEOUT, command.query_async(&mut self.connection)).await;
        let answer = answer.map_err(|_| Unreachable::silent("no answer", COMMAND_TIMEOUT))?;
        self.found.slowest = self.found.slowest.max(sent.elapsed());
        match answer {
            Err(error) if error.is_io_error() => Err(Unreachable::new(&error)),
            answer => Ok(answer),
        }
    }

    /// Asks for the name, the version and the role.
    async fn identify(&mut self) -> Result<(), Unreachable> {
        if let Ok(hello) = self.run(cmd("HELLO").arg(3)).await? {
            let said: HashMap<String, Value> = redis::from_redis_value(hello).unwrap_or_default();
            let text = |name: &str| redis::from_redis_value::<String>(said.get(name)?.clone()).ok();
            if let (Some(server), Some(version)) = (text("server"), text("version")) {
                self.found.server = Some(printable(&format!("{server} {version}")));
            }
            self.found.is_follower = text("role").is_some_and(|role| role != "master");
        }
        Ok(())
    }

    /// Tries each command of the daemon in a form that changes nothing of the replicas'.
    async fn try_commands(&mut self, prefix: &str) -> Result<(), Unreachable> {
        let place = format!("{prefix}{{check-{:016x}}}", fastrand::u64(..));
        let key = |name: &str| format!("{place}:{name}");
        let (text, hash, set) = (key("lease"), key("record"), key("replicas"));
        let channel = format!("{prefix}changed");
        let script = Script::new("return 1");
        let tried = [
            ("time", cmd("TIME")),
            ("set", cmd("SET").arg(&text).arg("check").arg("PX").arg(KEY_LASTS).take()),
            ("get", cmd("GET").arg(&text).take()),
            ("type", cmd("TYPE").arg(&text).take()),
            ("pttl", cmd("PTTL").arg(&text).take()),
            ("hset", cmd("HSET").arg(&hash).arg("n").arg(1).take()),
            ("pexpire", cmd("PEXPIRE").arg(&hash).arg(KEY_LASTS).take()),
            ("hget", cmd("HGET").arg(&hash).arg("n").take()),
            ("hstrlen", cmd("HSTRLEN").arg(&hash).arg("n").take()),
            ("hdel", cmd("HDEL").arg(&hash).arg("late").take()),
            // These find no key, and make none.
            ("persist", cmd("PERSIST").arg(&set).take()),
            ("zadd", cmd("ZADD").arg(&set).arg("XX").arg(0).arg("check").take()),
            ("zremrangebyscore", cmd("ZREMRANGEBYSCORE").arg(&set).arg(0).arg(0).take()),
            ("zcard", cmd("ZCARD").arg(&set).take()),
            // No replica has a place without a name.
            ("publish", cmd("PUBLISH").arg(&channel).arg("").take()),
            ("script|load", cmd("SCRIPT").arg("LOAD").arg("return 1").take()),
            ("evalsha", cmd("EVALSHA").arg(script.get_hash()).arg(0).take()),
            ("wait", cmd("WAIT").arg(0).arg(1).take()),
            ("role", cmd("ROLE")),
            ("del", cmd("DEL").arg(&text).arg(&hash).take()),
        ];
        for (name, command) in tried {
            match self.run(&command).await? {
                Ok(role) if name == "role" => self.found.followers = Some(followers(&role)),
                Ok(_) => {}
                Err(error) => self.refused(name, &error),
            }
        }
        let subscribed = timeout(COMMAND_TIMEOUT, self.connection.subscribe(&channel)).await;
        if let Err(error) = subscribed.map_err(|_| Unreachable::silent("no answer", COMMAND_TIMEOUT))? {
            self.refused("subscribe", &error);
        }
        Ok(())
    }

    fn refused(&mut self, name: &'static str, error: &RedisError) {
        let text = error.detail().unwrap_or_default();
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) if text.contains("to run the") => {
                self.found.denied.push(name);
            }
            ErrorKind::Server(ServerErrorKind::NoPerm) if text.contains("channel") => {
                self.found.denies_channel = true;
            }
            ErrorKind::Server(ServerErrorKind::NoPerm) => self.found.denies_keys = true,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => self.found.is_follower = true,
            // The script could not be loaded, which was noted.
            ErrorKind::Server(ServerErrorKind::NoScript) => {}
            _ => {
                self.found.failure.get_or_insert_with(|| (name, printable(&error.to_string())));
            }
        }
    }

    /// Asks for persistence and eviction, by the command that the user may run.
    async fn ask_settings(&mut self) -> Result<(), Unreachable> {
        let mut known = HashMap::new();
        for section in ["persistence", "memory"] {
            if let Ok(answer) = self.run(cmd("INFO").arg(section)).await? {
                let text: String = redis::from_redis_value(answer).unwrap_or_default();
                let lines = text.lines().filter_map(|line| line.split_once(':'));
                known.extend(lines.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
        }
        for name in ["save", "appendonly", "maxmemory", "maxmemory-policy"] {
            if let Ok(answer) = self.run(cmd("CONFIG").arg("GET").arg(name)).await? {
                let settings: HashMap<String, String> = redis::from_redis_value(answer).unwrap_or_default();
                known.extend(settings);
            }
        }
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| known.get(name)).cloned();
        let is_on = |value: String| matches!(value.as_str(), "1" | "yes");
        self.found.appends = first(["appendonly", "aof_enabled"]).map(is_on);
        self.found.saves = known.get("save").map(|points| !points.is_empty());
        self.found.max_memory = known.get("maxmemory").and_then(|bytes| bytes.parse().ok());
        self.found.eviction =
            first(["maxmemory-policy", "maxmemory_policy"]).map(|policy| printable(&policy));
        Ok(())
    }

    /// Tries what bearerd does not need.
    async fn look_beyond(&mut self, prefix: &str) -> Result<(), Unreachable> {
        let name = format!("check-{:016x}", fastrand::u64(..));
        if !name.starts_with(prefix) && self.run(cmd("GET").arg(name)).await?.is_ok() {
            self.found.beyond.push("use all keys");
        }
        if self.run(cmd("ACL").arg("USERS")).await?.is_ok() {
            self.found.beyond.push("administer users");
        }
        Ok(())
    }
}
