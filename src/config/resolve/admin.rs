//! `[admin]`: the operator's own address.

use std::net::SocketAddr;

use toml::Spanned;

use super::Resolver;
use crate::config::diagnostics::Problem;
use crate::config::{Admin, Listen, file};

impl Resolver<'_> {
    pub(super) fn admin(&mut self, admin: file::Admin, callers: &[Listen]) -> Option<Admin> {
        let place = admin.listen.as_ref().map(Spanned::span);
        let listen = match admin.listen {
            Some(listen) => self.address(listen.get_ref(), &listen.span())?,
            None => SocketAddr::from(([127, 0, 0, 1], 9090)),
        };
        if listen.port() != 0 && callers.contains(&Listen::Tcp(listen)) {
            self.problems.push(
                Problem::error(place.clone(), "`admin.listen` and `server.listen` are the same address")
                    .help("give the operator's address a port of its own"),
            );
        }
        if !listen.ip().is_loopback() {
            self.problems.push(
                Problem::warning(place, "the admin address does not ask who calls, and is not on loopback")
                    .help("it shows no secret; let only your health checks reach it"),
            );
        }
        Some(Admin { listen })
    }
}
