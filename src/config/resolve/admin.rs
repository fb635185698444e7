//! `[admin]` and `[health]`: the listeners of operators and of health checks.

use std::ops::Range;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use super::conflicts::{conflict, resolved};
use crate::config::model::admin::{Admin, DEFAULT_LISTEN, Health};
use crate::config::model::listen::Listen;
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::source::schema;

/// Shortest token without a warning: 16 random bytes in base64 without padding.
const MIN_TOKEN_BYTES: usize = 22;

impl Resolver<'_> {
    pub(super) fn admin(
        &mut self,
        admin: schema::Admin,
        token_file: Option<PathBuf>,
        callers: &[Listen],
    ) -> Option<Admin> {
        let schema::Admin { listen, token, metrics_token, tls } = admin;
        let place = listen.place();
        let listen = listen.read_or(Listen::Tcp(DEFAULT_LISTEN), |listen| self.listen_address(listen))?;
        self.refuse_own_conflict(("admin.listen", &listen, place.as_ref()), "server.listen", callers);
        let (has_token, speaks_plain_http) = (token.read_or(false, |_| Some(true)), tls.is_absent());
        let tls_place = tls.place();
        let tls = self.tls_files("admin.tls", tls);
        if matches!(listen, Listen::Unix(_)) && tls_place.is_some() {
            self.error(
                tls_place,
                "`admin.tls` has no effect on a unix socket",
                "remove `admin.tls`: the mode of the socket's file admits the daemon's own user alone",
            );
        }
        if !listen.is_local() {
            self.check_beyond_loopback(place, has_token, speaks_plain_http, token_file.is_some());
        }
        let asked_at = metrics_token.usable().filter(|asked| *asked.get_ref()).map(Spanned::span);
        if let Some(asked_at) = asked_at.clone()
            && has_token == Some(false)
            && token_file.is_none()
        {
            let help = "set `admin.token`, or `server.state_dir`, in which the daemon keeps a token";
            self.error(asked_at, "`metrics_token` needs a token", help);
        }
        let token = token.into_usable().and_then(|source| self.admin_token(&source));
        let token_file = token_file.filter(|_| token.is_none());
        Some(Admin { listen, token, token_file, metrics_token: asked_at.is_some(), tls })
    }

    /// Refuses a token in the clear, and warns of an address that serves no operator.
    fn check_beyond_loopback(
        &mut self,
        place: Option<Range<usize>>,
        has_token: Option<bool>,
        speaks_plain_http: bool,
        has_own_token: bool,
    ) {
        if has_token == Some(true) && speaks_plain_http {
            self.error(
                place,
                "`admin.token` would cross the network in the clear",
                "set admin.tls = { certificate = \"…\", private_key = \"…\" }, or listen on loopback or a unix socket; \
                 for health checks and metrics beyond loopback, set `listen` in [health]",
            );
        } else if has_token == Some(false) && (speaks_plain_http || !has_own_token) {
            self.warning(
                place,
                "the admin address is not on loopback, and there is no `admin.token`",
                "without `admin.token`, the admin listener answers only /livez, /readyz and /metrics; [health] has a \
                 listener for these alone",
            );
        }
    }

    pub(super) fn health(
        &mut self,
        health: schema::Health,
        callers: &[Listen],
        admin: Option<&Admin>,
    ) -> Health {
        let listen = health.listen.into_usable().filter(|listen| !listen.get_ref().is_empty());
        let Some(listen) = listen else { return Health { listen: None } };
        let place = listen.span();
        let Some(listen) = self.listen_address(&listen) else {
            return Health { listen: None };
        };
        let own = ("health.listen", &listen, Some(&place));
        self.refuse_own_conflict(own, "server.listen", callers);
        if let Some(admin) = admin {
            self.refuse_own_conflict(own, "admin.listen", std::slice::from_ref(&admin.listen));
            if admin.metrics_token && !listen.is_local() {
                self.check_metrics_in_clear(place, admin);
            }
        }
        Health { listen: Some(listen) }
    }

    fn check_metrics_in_clear(&mut self, place: Range<usize>, admin: &Admin) {
        if admin.token.is_some() {
            self.warning(
                place,
                "the admin token crosses the network in the clear with each scrape of /metrics",
                "remove `metrics_token`, and let a firewall admit your metrics server alone; or scrape `admin.listen` \
                 with `admin.tls`",
            );
        } else if admin.token_file.is_some() {
            self.error(
                place,
                "`metrics_token` needs `admin.token` where /metrics is served beyond loopback",
                "remove `metrics_token`, or set `admin.token`: the daemon's own token is for this machine",
            );
        }
    }

    /// Refuses an address that the system does not let be listened on beside those of another key.
    fn refuse_own_conflict(
        &mut self,
        (key, own, place): (&str, &Listen, Option<&Range<usize>>),
        other_key: &str,
        others: &[Listen],
    ) {
        let Some(other) = others.iter().find(|other| conflict(other, own)) else { return };
        let title = match own {
            own if other == own => format!("`{key}` and `{other_key}` are the same address"),
            Listen::Tcp(_) => format!("`{key}` and {other} in `{other_key}` cannot both be listened on"),
            Listen::Unix(_) => format!("`{key}` and `{other_key}` are the same socket"),
        };
        let what = if matches!(own, Listen::Tcp(_)) { "a port" } else { "a socket" };
        let help = match key {
            "admin.listen" => format!("give the admin listener {what} of its own"),
            _ => format!("give the listener of health checks {what} of its own"),
        };
        self.error(place.cloned(), title, help);
    }

    /// Refuses a state in the place of the daemon's own admin token.
    pub(super) fn refuse_state_in_token_file(&mut self, token_file: Option<&Path>) {
        let Some(path) = token_file else { return };
        if let Some(name) = self.state_files.get(&resolved(path)) {
            let place = self.state_places.get(name).cloned();
            let title =
                format!("the state file is {}, in which the daemon keeps the admin token", path.display());
            self.error(place, title, "write another `state_file`");
        }
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

#[cfg(test)]
mod tests;
