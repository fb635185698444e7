//! The sockets that the daemon listens on, which are bound before anything is started or changed.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::StartError;
use crate::config;
use crate::config::{Config, Listen};
use crate::proxy::listener;
use crate::proxy::listener::{BoundSocket, LISTEN_BACKLOG, ListenSocket};
use crate::systemd::sockets::{PassedSocket, PassedSockets, Wanted};
use crate::unix_socket;

/// The key of the callers' addresses.
const CALLERS: &str = "server.listen";
/// The key of the operators' address.
pub(super) const ADMIN: &str = "admin.listen";
/// The key of the address of health checks.
pub(super) const HEALTH: &str = "health.listen";

#[derive(Clone, Debug, Default)]
pub(super) struct ListenSockets {
    open: Vec<Open>,
    next_number: u32,
    /// The sockets that systemd holds too, with the configured address of each. They stay, so that a reload can use again
    /// what another reload has left.
    held: Arc<[(Listen, PassedSocket)]>,
}

/// The sockets that systemd has passed, by the key that they are for.
#[derive(Debug)]
pub(super) struct Passed {
    /// No sockets are open yet.
    pub(super) callers: ListenSockets,
    /// The sockets of the other addresses.
    pub(super) others: PassedToAdmin,
}

/// The sockets that systemd has passed for the addresses of operators and health checks, with their addresses.
#[derive(Debug, Default)]
pub(super) struct PassedToAdmin {
    pub(super) operators: Option<(BoundSocket, Listen)>,
    pub(super) checks: Option<(BoundSocket, Listen)>,
}

impl Passed {
    /// # Errors
    ///
    /// [`StartError::PassedSocket`].
    pub(super) fn new(sockets: PassedSockets, config: &Config) -> Result<Self, StartError> {
        let mut wanted = [
            Wanted::new(CALLERS, config.server.listen.iter().cloned()),
            Wanted::new(ADMIN, [config.admin.listen.clone()]),
            Wanted::new(HEALTH, config.health.listen.clone()),
        ];
        sockets.give_to(&mut wanted)?;
        let [callers, operators, checks] = wanted.map(Wanted::sockets);
        let callers = ListenSockets { held: callers.into(), ..ListenSockets::default() };
        let first = |sockets: Vec<(Listen, PassedSocket)>| sockets.into_iter().next();
        let (operators, checks) = (first(operators), first(checks));
        if let Some((_, PassedSocket { address: Listen::Unix(path), .. })) = &operators {
            unix_socket::is_private(path)
                .map_err(|source| refused(ADMIN, &Listen::Unix(path.clone()), source))?;
        }
        let bound = |(_, PassedSocket { listener, address, .. }): (Listen, PassedSocket)| -> io::Result<_> {
            Ok((BoundSocket::of(listener)?, address))
        };
        let operators = operators.map(bound).transpose()?;
        let others = PassedToAdmin { operators, checks: checks.map(bound).transpose()? };
        Ok(Self { callers, others })
    }
}

#[derive(Clone, Debug)]
struct Open {
    number: u32,
    /// The address as configured.
    configured: Listen,
    /// The address with the port that the system chose.
    address: Listen,
}

/// A change of the listening sockets at a reload.
#[derive(Debug)]
pub(super) struct Transition {
    pub(super) after: ListenSockets,
    /// The listening sockets that stay: their numbers before and after.
    pub(super) stay: HashMap<u32, u32>,
    /// New listening sockets, already bound.
    pub(super) new: Vec<ListenSocket>,
    pub(super) addresses: Vec<Listen>,
}

impl ListenSockets {
    /// Binds the configured addresses that are not open yet. Open listening sockets stay; with `begin_anew` (TCP connections
    /// must speak TLS from now on, for example) a listening socket gets a new number, to which its open connections do not
    /// belong.
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`]: an address cannot be bound, and nothing has changed.
    pub(super) fn to(&self, server: &config::Server, begin_anew: bool) -> Result<Transition, StartError> {
        let mut left = self.open.clone();
        let mut after =
            Self { open: Vec::new(), next_number: self.next_number, held: Arc::clone(&self.held) };
        let (mut stay, mut new, mut addresses) = (HashMap::new(), Vec::new(), Vec::new());
        for configured in &server.listen {
            let at = left.iter().position(|open| open.configured == *configured);
            if let Some(Open { number: before, address, .. }) = at.map(|at| left.remove(at)) {
                let is_another = begin_anew && matches!(configured, Listen::Tcp(_));
                let number = if is_another { after.number() } else { before };
                stay.insert(before, number);
                after.open.push(Open { number, configured: configured.clone(), address });
                continue;
            }
            let held = self.held(configured)?;
            let is_held = held.is_some();
            let (socket, address) = match held {
                Some(held) => held,
                None => bind(CALLERS, configured).map_err(|error| explain(error, &self.addresses()))?,
            };
            let number = after.number();
            new.push(ListenSocket { number, socket, is_held });
            addresses.push(address.clone());
            after.open.push(Open { number, configured: configured.clone(), address });
        }
        Ok(Transition { after, stay, new, addresses })
    }

    /// The socket for an address, if systemd holds it.
    fn held(&self, wanted: &Listen) -> Result<Option<(BoundSocket, Listen)>, StartError> {
        let is_wanted = |held: &&(Listen, PassedSocket)| held.0 == *wanted || held.1.address == *wanted;
        let Some((_, held)) = self.held.iter().find(is_wanted) else { return Ok(None) };
        Ok(Some((BoundSocket::of(held.listener.try_clone()?)?, held.address.clone())))
    }

    /// The addresses that callers connect to.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        self.open.iter().map(|open| open.address.clone()).collect()
    }

    pub(super) fn numbers(&self) -> Vec<u32> {
        self.open.iter().map(|open| open.number).collect()
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Binds an address of this configuration key, and returns the address with the port that the system chose.
///
/// # Errors
///
/// [`StartError::Listen`].
pub(super) fn bind(key: &'static str, address: &Listen) -> Result<(BoundSocket, Listen), StartError> {
    let bound = match address {
        Listen::Tcp(wanted) => listener::bind(*wanted).and_then(|socket| {
            let address = Listen::Tcp(socket.local_addr()?);
            Ok((BoundSocket::Tcp(socket), address))
        }),
        Listen::Unix(path) => unix_socket::bind(path, LISTEN_BACKLOG)
            .map(|(socket, file)| (BoundSocket::Unix(socket, Some(file)), address.clone())),
    };
    bound.map_err(|source| refused(key, address, source))
}

/// Explains a port in use by the daemon itself, which has `open` addresses: `0.0.0.0:80` cannot be bound before a reload
/// closes `127.0.0.1:80`.
pub(super) fn explain(error: StartError, open: &[Listen]) -> StartError {
    let StartError::Listen { key, address: Listen::Tcp(wanted), source } = &error else { return error };
    let has_port = |open: &&Listen| matches!(open, Listen::Tcp(own) if own.port() == wanted.port());
    match open.iter().find(has_port) {
        Some(own) if source.kind() == ErrorKind::AddrInUse => {
            StartError::OwnPort { key, address: Listen::Tcp(*wanted), own: own.clone() }
        }
        _ => error,
    }
}

/// Whether the unix sockets could be bound, by this process or by the daemon that listens on them already.
///
/// # Errors
///
/// [`StartError::Listen`].
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    let callers = config.server.listen.iter().map(|address| (CALLERS, address));
    let admin = [(ADMIN, &config.admin.listen)];
    let health = config.health.listen.iter().map(|address| (HEALTH, address));
    callers.chain(admin).chain(health).try_for_each(|(key, address)| match address {
        Listen::Tcp(_) => Ok(()),
        Listen::Unix(path) => unix_socket::check(path).map_err(|source| refused(key, address, source)),
    })
}

fn refused(key: &'static str, address: &Listen, source: io::Error) -> StartError {
    StartError::Listen { key, address: address.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;
    use crate::config::{Config, Environment};
    use crate::judged_as::JudgedAs;
    use crate::token::DurableState;

    /// The last three are those of operators and health checks alone.
    const ADDRESSES: [&str; 12] = [
        "127.0.0.1:P",
        "127.0.0.1:Q",
        "127.0.0.2:P",
        "0.0.0.0:P",
        "[::1]:P",
        "[::]:P",
        "[::ffff:127.0.0.1]:P",
        "[::ffff:0.0.0.0]:P",
        "127.0.0.1:0",
        "unix:s",
        "unix:link/s",
        "unix:none/s",
    ];
    const SOCKETS: [&str; 6] = ["s", "./s", "real/../s", "real/s", "link/s", "none/s"];
    const STATES: [&str; 7] = ["a", "./a", "real/../a", "real/a", "link/a", "none/a", "link/../a"];

    /// What `check` concludes: the configuration, or why `run` would refuse it.
    fn checked(folder: &Path, text: &str) -> Result<Config, String> {
        let environment = Environment::from([("S", "s")]);
        let checked = config::parse(&folder.join("proxy.toml"), text.to_owned(), &environment);
        let config = checked.map_err(|problems| problems.to_string())?.config;
        check(&config).map_err(|error| error.to_string())?;
        let inspect = |credential| DurableState::inspect(credential, Clock::system(), JudgedAs::ThisUser);
        for credential in &config.credentials {
            inspect(credential).map_err(|error| error.to_string())?;
        }
        Ok(config)
    }

    /// What `run` does first.
    fn bound(config: &Config) -> Result<(), String> {
        let states: Result<Vec<_>, _> =
            config.credentials.iter().map(|one| DurableState::open(one, Clock::system())).collect();
        let _states = states.map_err(|error| error.to_string())?;
        let _sockets =
            ListenSockets::default().to(&config.server, false).map_err(|error| error.to_string())?;
        let _admin = bind(ADMIN, &config.admin.listen).map_err(|error| error.to_string())?;
        let health = config.health.listen.as_ref().map(|listen| bind(HEALTH, listen)).transpose();
        health.map(|_| ()).map_err(|error| error.to_string())
    }

    fn free_port() -> u16 {
        listener::bind(([0, 0, 0, 0], 0).into()).unwrap().local_addr().unwrap().port()
    }

    fn text(listen: &[String], (admin, health): (&str, &str), states: &[&str]) -> String {
        let mut text = format!(
            "[server]\nlisten = {listen:?}\nallow_from = [\"10.0.0.0/8\"]\nhosts = [\"h\"]\n[admin]\nlisten = {admin:?}\n[health]\nlisten = {health:?}\n"
        );
        for (index, state) in states.iter().enumerate() {
            let credential = format!(
                "[credentials.c{index}]\ntoken_url = \"https://a.example.com/\"\nclient_id = \"id\"\nclient_secret = {{ env = \"S\" }}\n\
                 state_file = {state:?}\n[[routes]]\npath = \"/{index}\"\nupstream = \"https://a.example.com\"\ncredential = \"c{index}\"\n"
            );
            text += &credential;
        }
        text + "[[routes]]\nupstream = \"https://a.example.com\"\ncredential = \"none\"\n"
    }

    /// Binds each address and each path of the configuration on its own, without the check.
    fn refused_by_the_system(
        folder: &Path,
        listen: &[String],
        (admin, health): (&str, &str),
        states: &[&str],
    ) -> bool {
        let mut parts = Vec::new();
        for state in states {
            let one = checked(folder, &text(&["127.0.0.1:0".to_owned()], ("127.0.0.1:0", ""), &[state]));
            let Ok(config) = one else { return true };
            let Ok(open) = DurableState::open(&config.credentials[0], Clock::system()) else { return true };
            parts.push(open);
        }
        let mut sockets = Vec::new();
        for address in listen.iter().map(String::as_str).chain([admin, health]).filter(|one| !one.is_empty())
        {
            let address = match address.strip_prefix("unix:") {
                Some(path) => Listen::Unix(folder.join(path)),
                None => Listen::Tcp(address.parse().unwrap()),
            };
            let Ok(socket) = bind(CALLERS, &address) else { return true };
            sockets.push(socket);
        }
        false
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn check_says_ok_exactly_where_run_can_bind_and_open(
            tcp in prop::collection::vec(prop::sample::select(&ADDRESSES[..9]), 0..3),
            unix in prop::collection::vec(prop::sample::select(&SOCKETS[..]), 0..3),
            admin in prop::sample::select(&ADDRESSES[..]),
            health in prop::option::of(prop::sample::select(&ADDRESSES[..])),
            states in prop::collection::vec(prop::sample::select(&STATES[..]), 0..3),
        ) {
            prop_assume!(!tcp.is_empty() || !unix.is_empty());
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("real")).unwrap();
            std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
            // A port that the system gave may have been taken meanwhile.
            let agree = (0..3).any(|_| {
                let (p, q) = (free_port(), free_port());
                let with_ports =
                    |address: &&str| address.replace('P', &p.to_string()).replace('Q', &q.to_string());
                let unix = unix.iter().map(|path| format!("unix:{path}"));
                let listen: Vec<String> = tcp.iter().map(with_ports).chain(unix).collect();
                let (admin, health) = (with_ports(&admin), health.as_ref().map(with_ports).unwrap_or_default());
                let own = (admin.as_str(), health.as_str());
                let is_refused = refused_by_the_system(folder.path(), &listen, own, &states);
                match checked(folder.path(), &text(&listen, own, &states)) {
                    Ok(config) => !is_refused && bound(&config).is_ok(),
                    Err(_) => is_refused,
                }
            });
            prop_assert!(agree, "{tcp:?} {unix:?} {admin} {health:?} {states:?}");
        }
    }
}
