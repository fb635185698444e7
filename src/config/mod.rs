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
pub use model::pem_file::PemFile;
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
use source::format;
use thiserror::Error;
use toml::Spanned;

/// The variable with the path of the configuration.
const VARIABLE: &str = "BEARERD_CONFIG";

/// The configuration file cannot be found, because `$BEARERD_CONFIG` is no path.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoPath {
    /// The variable is set to nothing.
    #[error("the environment variable BEARERD_CONFIG is empty")]
    EmptyVariable,
    /// The variable is not UTF-8.
    #[error("the environment variable BEARERD_CONFIG is not UTF-8")]
    NotText,
}

impl NoPath {
    /// The remedy.
    pub const fn help(self) -> &'static str {
        match self {
            Self::EmptyVariable => {
                "set the variable to the path of the configuration, or unset it: without it, bearerd reads \
                 ./proxy.toml or /etc/bearerd/proxy.toml"
            }
            Self::NotText => "write the path with -c FILE",
        }
    }
}

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
    let sources = Sources::new(path, text);
    if let Some(problem) = format::other_than_toml(&sources) {
        return Err(Box::new(Diagnostics::new(sources, vec![problem])));
    }
    let document = Document::read(sources, environment);
    resolve::resolve(document, &folder_of(path), environment)
}

/// Finds the configuration file: the flag, `$BEARERD_CONFIG`, `./proxy.toml`, `/etc/bearerd/proxy.toml`.
///
/// # Errors
///
/// [`NoPath`] if there is no flag and the variable is set but names no file.
pub fn find(flag: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, NoPath> {
    let here = PathBuf::from("proxy.toml");
    match (flag, environment.get(VARIABLE)) {
        (Some(path), _) => Ok(path),
        (None, Some("")) => Err(NoPath::EmptyVariable),
        (None, Some(path)) => Ok(path.into()),
        (None, None) if environment.is_not_text(VARIABLE) => Err(NoPath::NotText),
        (None, None) if here.exists() => Ok(here),
        (None, None) => Ok("/etc/bearerd/proxy.toml".into()),
    }
}

/// Reads the admin address and token, also from a file that has errors elsewhere.
///
/// # Errors
///
/// [`NoPath`] if there is no flag and the variable is set but names no file.
pub fn admin_access(flag: Option<PathBuf>, environment: &Environment) -> Result<AdminAccess, NoPath> {
    let path = find(flag, environment)?;
    // Without a file, environment variables may still set both.
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let file = Document::read(Sources::new(&path, text), environment).file;
    let admin = file.admin.map(Spanned::into_inner).unwrap_or_default();
    let listen = admin.listen.and_then(|listen| listen.get_ref().parse().ok());
    Ok(AdminAccess {
        listen: listen.unwrap_or(model::admin::DEFAULT_LISTEN),
        token: admin.token.map(|source| Secret::load(source.get_ref(), &folder_of(&path), environment)),
    })
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_owned)
}
