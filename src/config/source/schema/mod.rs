//! The tables of `proxy.toml` as they are written: each key optional, each value with its place.
//!
//! [`resolve`](crate::config::resolve) decides what a key means and which default applies. The shipped `proxy.toml`
//! documents the keys.

/// Lets tables be `""` for none.
macro_rules! optional {
    ($($table:ident: $expected:literal,)*) => {$(
        impl $crate::config::source::reader::Value for Option<$table> {
            fn read(
                value: &$crate::config::source::reader::Written<'_>,
                path: &str,
                reader: &mut $crate::config::source::reader::Reader<'_>,
            ) -> Option<Self> {
                match reader.text(value) {
                    Some("") => Some(None),
                    Some(_) => reader.invalid(value, path, $expected),
                    None => reader.inline_table(value, path, $expected).map(Some),
                }
            }
        }

        impl $crate::config::source::shape::Shaped for Option<$table> {
            fn shape() -> $crate::config::source::shape::Shape {
                use $crate::config::source::shape::{Shape, Shaped};
                Shape::OneOf(vec![Shape::Choice(vec![""]), <$table as Shaped>::shape()])
            }
        }
    )*};
}

mod caller;
mod credential;
mod pool;
mod route;
mod server;
mod shared_store;
mod telemetry;

use std::collections::BTreeMap;

use toml::Spanned;

use super::key::Entry;
use super::problem::Problem;
use super::reader::{Reader, Table, Value, Written, tables};
use crate::config::model::secret::SecretSource;

pub(in crate::config) use self::caller::{Caller, CallerQuota, Callers};
pub(in crate::config) use self::credential::{
    ApiQuota, Assertion, ClaimsByName, Credential, Credentials, Errors, Fields, Rate,
};
pub(in crate::config) use self::pool::{Pool, Pools};
pub(in crate::config) use self::route::{Breaker, Headers, Retry429, Route, Routes};
pub(in crate::config) use self::server::{Admin, Health, Limits, Server, Tls};
pub(in crate::config) use self::shared_store::Shared;
pub(in crate::config) use self::telemetry::{Audit, Log, Tracing, Webhook, Webhooks};

/// Strings, each with its place.
pub(in crate::config) type Texts = Vec<Entry<String>>;
/// Strings by name, each with its place.
pub(in crate::config) type TextsByName = BTreeMap<Spanned<String>, Entry<String>>;
/// Secrets by name, each with its place.
pub(in crate::config) type SecretsByName = BTreeMap<Spanned<String>, Entry<SecretSource>>;

tables! {
    /// The whole file.
    plain File {
        hidden server: Server,
        hidden health: Health,
        hidden admin: Admin,
        hidden callers: Callers,
        hidden shared: Shared,
        hidden credentials: Credentials,
        hidden pools: Pools,
        hidden routes: Routes,
        hidden log: Log,
        hidden audit: Audit,
        hidden webhooks: Webhooks,
        hidden tracing: Tracing,
    }
}

/// A list of tables; a single table is reported, and read as the only one of its list.
fn list_of_tables<T: Table + Value>(
    value: &Written<'_>,
    path: &str,
    reader: &mut Reader<'_>,
    help: &str,
) -> Option<Vec<Entry<T>>> {
    if let Some(list) = reader.list(value, path) {
        return Some(list);
    }
    reader
        .problems
        .push(Problem::error(value.span(), format!("`{path}` must be a list of tables")).help(help));
    let table = value.get_ref().as_table()?;
    let only = T::from_table(table, &format!("{path}[0]"), reader);
    Some(vec![Some(Spanned::new(value.span(), only))])
}
