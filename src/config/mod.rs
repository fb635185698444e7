//! The configuration: `proxy.toml` and the environment, checked and turned into [`Config`].
//!
//! [`source`] reads the text and remembers where each value stands; [`resolve`] checks the values and builds the
//! [`model`]. All problems are reported at once, as [`Diagnostics`]. No other module reads the file or the environment.
//!
//! Dependencies point one way: `resolve` → `source` → `model`.

#[cfg(test)]
pub(crate) mod fixture;
pub mod model;
mod resolve;
pub mod source;

use std::path::{Path, PathBuf};

pub use model::admin::{Admin, AdminAccess};
pub use model::classification::IdentityDigest;
pub use model::config::Config;
pub use model::credential::{ClientCertificate, Credential, HttpVersion, Proxy, Quota, Roots, StatePlace};
pub use model::endpoint::{Endpoint, Issuer};
pub use model::environment::Environment;
pub use model::fields::Fields;
pub use model::hosts::{Hosts, is_host};
pub use model::identity::{BasicEncoding, Identity};
pub use model::limits::Limits;
pub use model::listen::Listen;
pub use model::log::{Log, LogFormat};
pub use model::login::{Login, RedirectUri};
pub use model::pattern::Pattern;
pub use model::protection::{Breaker, Protection, Retry429};
pub use model::request::{AnswerFields, ErrorCodes, NEVER_LISTED, TokenParameters};
pub use model::route::{Address, Destination, Forwarded, Route, Rules, Upstream};
pub use model::secret::Secret;
pub use model::server::{RequiredHeader, Server};
pub use model::server_tls::ServerTls;
pub use resolve::Checked;
pub use source::diagnostics::Diagnostics;

use source::diagnostics::Sources;
use source::document::Document;
use toml::Spanned;

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// All problems, errors and warnings, if at least one is an error.
pub fn load(path: &Path, environment: &Environment) -> Result<Checked, Box<Diagnostics>> {
    let text = std::fs::read_to_string(path).map_err(|error| Diagnostics::unreadable(path, &error))?;
    parse(path, text, environment)
}

/// Checks the text of a configuration. Relative paths in it start at the folder of `path`.
///
/// # Errors
///
/// All problems, errors and warnings, if at least one is an error.
pub fn parse(path: &Path, text: String, environment: &Environment) -> Result<Checked, Box<Diagnostics>> {
    let document = Document::read(Sources::new(path, text), environment);
    resolve::resolve(document, &folder_of(path), environment)
}

/// Finds the configuration file: the flag, `$BEARERD_CONFIG`, `./proxy.toml`, `/etc/bearerd/proxy.toml`.
pub fn find(flag: Option<PathBuf>, environment: &Environment) -> PathBuf {
    let here = PathBuf::from("proxy.toml");
    flag.or_else(|| environment.get("BEARERD_CONFIG").map(PathBuf::from))
        .unwrap_or_else(|| if here.exists() { here } else { PathBuf::from("/etc/bearerd/proxy.toml") })
}

/// Reads the admin address and token, also from a file that has errors elsewhere.
pub fn admin_access(flag: Option<PathBuf>, environment: &Environment) -> AdminAccess {
    let path = find(flag, environment);
    // Without a file, environment variables may still set both.
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let file = Document::read(Sources::new(&path, text), environment).file;
    let admin = file.admin.map(Spanned::into_inner).unwrap_or_default();
    let listen = admin.listen.and_then(|listen| listen.get_ref().parse().ok());
    AdminAccess {
        listen: listen.unwrap_or(model::admin::DEFAULT_LISTEN),
        token: admin.token.map(|source| Secret::load(source.get_ref(), &folder_of(&path), environment)),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_owned)
}
