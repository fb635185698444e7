//! The connection to the store: made, watched, and made anew.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates,
    TlsMode, Value,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::super::store::StoreError;
use crate::backoff::Backoff;
use crate::tls::diagnosis;

/// How long a connection may take, TLS and login included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The waits between two connections.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };

/// Where the store is.
#[derive(Clone, Debug)]
pub struct Address {
    /// `redis://` or `rediss://`, with host, port and database; without user information.
    pub url: String,
    /// The user; `None` for the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<SecretString>,
    /// The certificate authorities in PEM, in the place of the system's.
    pub roots: Option<Vec<u8>>,
    /// The host and port of each sentinel; they know the primary named `sentinel_primary`.
    pub sentinels: Vec<(String, u16)>,
    /// The name of the primary.
    pub sentinel_primary: String,
}

/// The state of the connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// No connection has been tried.
    Beginning,
    /// Connected.
    Connected(MultiplexedConnection),
    /// Not connected.
    Away(StoreError),
}

/// Makes connections.
pub(super) struct Connector {
    address: Address,
    channel: String,
    announcements: Announcements,
    link: watch::Sender<Link>,
    broken: Arc<Notify>,
}

impl Address {
    fn is_encrypted(&self) -> bool {
        self.url.starts_with("rediss://")
    }

    fn info(&self) -> Result<ConnectionInfo, RedisError> {
        let info = self.url.as_str().into_connection_info()?;
        let settings = self.log_in(info.redis_settings().clone());
        Ok(info.set_redis_settings(settings).set_tcp_settings(tcp()))
    }

    fn log_in(&self, mut settings: RedisConnectionInfo) -> RedisConnectionInfo {
        settings = settings.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.expose_secret());
        }
        settings
    }

    fn certificates(&self) -> TlsCertificates {
        TlsCertificates { client_tls: None, root_cert: self.roots.clone() }
    }

    /// A client of the primary, which the sentinels may have to be asked for.
    pub(super) async fn client(&self) -> Result<Client, RedisError> {
        let info = self.info()?;
        if self.sentinels.is_empty() {
            return if self.is_encrypted() {
                Client::build_with_tls(info, self.certificates())
            } else {
                Client::open(info)
            };
        }
        let sentinels = self.sentinels.iter().cloned().map(|(host, port)| {
            if self.is_encrypted() {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        });
        let mut builder =
            SentinelClientBuilder::new(sentinels, &self.sentinel_primary, SentinelServerType::Master)?
                .set_client_to_redis_db(info.redis_settings().db())
                .set_client_to_redis_protocol(ProtocolVersion::RESP3)
                .set_client_to_redis_tcp_settings(tcp());
        if let Some(username) = &self.username {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        if self.is_encrypted() {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates())
                .set_client_to_sentinel_certificates(self.certificates());
        }
        builder.build()?.async_get_client().await
    }
}

/// Without bounds of its own: they are those of `run` and of each operation.
pub(super) fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

impl Connector {
    pub(super) fn new(
        address: Address,
        channel: String,
        announcements: Announcements,
    ) -> (Self, watch::Receiver<Link>) {
        let (link, seen) = watch::channel(Link::Beginning);
        (Self { address, channel, announcements, link, broken: Arc::default() }, seen)
    }

    /// Told where the connection is of no more use.
    pub(super) fn broken(&self) -> Arc<Notify> {
        Arc::clone(&self.broken)
    }

    /// Connects, and connects anew, for ever.
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            let connected = timeout(CONNECT_TIMEOUT, self.connect()).await;
            let connected = connected.unwrap_or_else(|_| {
                Err(StoreError::Away(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))
            });
            match connected {
                Ok(connection) => {
                    failures = 0;
                    debug!("connected to the shared store");
                    self.link.send_replace(Link::Connected(connection));
                    self.announcements.all();
                    self.broken.notified().await;
                    self.link
                        .send_replace(Link::Away(StoreError::Away("the connection has ended".to_owned())));
                }
                Err(error) => {
                    debug!(%error, "no connection to the shared store");
                    self.link.send_replace(Link::Away(error));
                    failures += 1;
                }
            }
            sleep(RECONNECT.jittered(failures, fastrand::f64())).await;
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let client = self.address.client().await.map_err(|error| said(&error))?;
        let pushes = Pushes {
            channel: self.channel.clone(),
            announcements: self.announcements.clone(),
            broken: Arc::clone(&self.broken),
        };
        let config = patient().set_push_sender(pushes);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| said(&error))?;
        // Without announcements, the records are read every few seconds all the same.
        if let Err(error) = connection.subscribe(&self.channel).await {
            debug!(%error, "no announcements of the shared store");
        }
        Ok(connection)
    }
}

/// Receives what the server sends unasked.
struct Pushes {
    channel: String,
    announcements: Announcements,
    broken: Arc<Notify>,
}

impl AsyncPushSender for Pushes {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        match (info.kind, info.data.as_slice()) {
            (PushKind::Disconnection, _) => self.broken.notify_one(),
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(place)])
                if channel == self.channel.as_bytes() =>
            {
                if let Ok(place) = std::str::from_utf8(place) {
                    self.announcements.of(place);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Who is told of which place.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcements(Arc<Mutex<HashMap<String, watch::Sender<()>>>>);

impl Announcements {
    pub(super) fn watches(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place was written.
    fn of(&self, place: &str) {
        if let Some(watch) = self.watches().get(place) {
            watch.send_replace(());
        }
    }

    /// Announcements may have been missed.
    fn all(&self) {
        let mut watches = self.watches();
        watches.retain(|_, watch| !watch.is_closed());
        for watch in watches.values() {
            watch.send_replace(());
        }
    }
}

/// The error as operators see it. Servers do not repeat arguments in their errors, except for the names of commands and users.
pub(super) fn said(error: &RedisError) -> StoreError {
    let text = tls_failure(error).unwrap_or_else(|| error.to_string());
    match error.kind() {
        ErrorKind::UnexpectedReturnType | ErrorKind::Parse => {
            StoreError::Corrupt(format!("the store answers what it should not: {text}"))
        }
        ErrorKind::Extension if error.code() == Some("WRONGTYPE") => {
            StoreError::Corrupt(format!("a key of bearerd has a value of another kind: {text}"))
        }
        ErrorKind::Extension if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
            StoreError::Refused(text)
        }
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::Server(ServerErrorKind::NoPerm) => StoreError::Refused(text),
        _ => StoreError::Away(text),
    }
}

/// The cause and remedy of a failed TLS handshake.
pub(super) fn tls_failure(error: &RedisError) -> Option<String> {
    // The error is inside of an `Arc`, which hides its type.
    let cause = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    diagnosis::described(&**cause)
}
