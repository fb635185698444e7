//! `[admin]`: the operator's own address.

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use crate::config::model::admin::{Admin, DEFAULT_LISTEN};
use crate::config::model::listen::Listen;
use crate::config::model::secret::Secret;
use crate::config::model::secret::SecretSource;
use crate::config::source::diagnostics::Problem;
use crate::config::source::schema;

/// As many characters as 16 random bytes have in base64, without its padding.
const SHORTEST_TOKEN: usize = 22;

impl Resolver<'_> {
    pub(super) fn admin(&mut self, admin: schema::Admin, callers: &[Listen]) -> Option<Admin> {
        let place = admin.listen.as_ref().map(Spanned::span);
        let listen = match admin.listen {
            Some(listen) => self.address(listen.get_ref(), &listen.span())?,
            None => DEFAULT_LISTEN,
        };
        if listen.port() != 0 && callers.contains(&Listen::Tcp(listen)) {
            self.problems.push(
                Problem::error(place.clone(), "`admin.listen` and `server.listen` are the same address")
                    .help("give the operator's address a port of its own"),
            );
        }
        let has_token = admin.token.is_some();
        let token = admin.token.and_then(|source| self.admin_token(&source));
        if !has_token && !listen.ip().to_canonical().is_loopback() {
            self.problems.push(
                Problem::warning(place, "the admin address is not on loopback, and there is no `admin.token`")
                    .help(
                        "there it answers /livez and /readyz alone; with `admin.token` also operators who show it",
                    ),
            );
        }
        Some(Admin { listen, token })
    }

    /// A secret that a field can carry (RFC 6750 §2.1).
    fn admin_token(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        let token = self.secret(source)?;
        if !token.initial().expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            let title = format!("{} holds characters that no Authorization field carries", token.place());
            self.problems
                .push(Problem::error(source.span(), title).help(
                    "an admin token is printable ASCII without spaces, such as `bearerd keygen` makes",
                ));
        }
        if token.initial().expose_secret().len() < SHORTEST_TOKEN {
            let title = format!("{} is short for a secret that lets its bearer operate", token.place());
            self.problems.push(
                Problem::warning(source.span(), title)
                    .help("write one that nobody guesses, such as `bearerd keygen` makes"),
            );
        }
        Some(token)
    }
}
