//! `[admin]`: the admin listener.

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use super::conflicts::conflict;
use crate::config::model::admin::{Admin, DEFAULT_LISTEN};
use crate::config::model::listen::Listen;
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::source::schema;

/// Shortest token without a warning: 16 random bytes in base64 without padding.
const MIN_TOKEN_BYTES: usize = 22;

impl Resolver<'_> {
    pub(super) fn admin(&mut self, admin: schema::Admin, callers: &[Listen]) -> Option<Admin> {
        let schema::Admin { listen, token } = admin;
        let is_open = token.is_absent();
        let token = token.into_usable().and_then(|source| self.admin_token(&source));
        let place = listen.place();
        let listen = listen.read_or(DEFAULT_LISTEN, |listen| self.address(listen))?;
        let own = Listen::Tcp(listen);
        if let Some(callers) = callers.iter().find(|callers| conflict(callers, &own)) {
            let title = if *callers == own {
                "`admin.listen` and `server.listen` are the same address".to_owned()
            } else {
                format!("`admin.listen` and {callers} in `server.listen` cannot both be listened on")
            };
            self.error(place.clone(), title, "give the admin listener a port of its own");
        }
        if is_open && !listen.ip().to_canonical().is_loopback() {
            self.warning(
                place,
                "the admin address is not on loopback, and there is no `admin.token`",
                "without `admin.token`, the admin listener answers only /livez and /readyz to other machines",
            );
        }
        Some(Admin { listen, token })
    }

    /// A bearer token (RFC 6750 §2.1).
    fn admin_token(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        let help = "an admin token is printable ASCII without spaces, such as `bearerd keygen` makes";
        let token = self.secret_that(source, help, |token| {
            let is_usable = token.initial().expose_secret().bytes().all(|byte| byte.is_ascii_graphic());
            let title =
                || format!("{} has characters that an Authorization field cannot carry", token.place());
            (!is_usable).then(title)
        })?;
        if token.initial().expose_secret().len() < MIN_TOKEN_BYTES {
            self.warning(
                source.span(),
                format!("{} is short for an admin token", token.place()),
                "use a token that cannot be guessed, such as `bearerd keygen` makes",
            );
        }
        Some(token)
    }
}
