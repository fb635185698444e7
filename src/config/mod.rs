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

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub use model::admin::{AddressOrigin, Admin, AdminAccess, Health};
pub use model::audit::{Audit, AuditOutput, OnAuditFailure};
pub use model::caller::{Caller, CallerQuota, KeyHash};
pub use model::classification::IdentityDigest;
pub use model::config::Config;
pub use model::credential::{
    ApiQuota, ClientCertificate, Credential, HttpVersion, Proxy, Quota, Roots, StatePlace,
};
pub use model::endpoint::{Endpoint, Issuer};
pub use model::environment::Environment;
pub use model::fields::Fields;
pub use model::hosts::{Hosts, is_host};
pub use model::identity::{BasicEncoding, Identity};
pub use model::limits::Limits;
pub use model::listen::Listen;
pub use model::log::{Log, LogFormat, LogOutput, Sampling};
pub use model::login::{Login, RedirectUri};
pub use model::pattern::Pattern;
pub use model::pem_file::PemFile;
pub use model::pool::Pool;
pub use model::protection::{Breaker, Protection, Retry429};
pub use model::request::{AnswerFields, ErrorCodes, MemberPath, NEVER_LISTED, TokenParameters};
pub use model::route::{
    Address, Admitted, Destination, Forwarded, LinkField, RewrittenLinks, Route, Rules, Upstream,
};
pub use model::secret::Secret;
pub use model::server::{HalfClosed, HeaderCase, Http1Options, RequiredHeader, Server};
pub use model::server_tls::ServerTls;
pub use model::shared_store::{Shared, WhenAway};
pub use model::token_field::{TokenField, TokenScheme};
pub use model::tracing::{Sampler, Tracing};
pub use model::webhook::{EventPattern, Webhook, WebhookFormat, WebhookUrl, signing_key};
pub use resolve::Checked;
pub use source::diagnostics::Diagnostics;

use source::diagnostics::{Problem, Sources};
use source::document::Document;
use source::file::Content;
use source::reader::Table;
use source::{file, format};
use thiserror::Error;
use toml::Spanned;

/// The variable with the path of the configuration.
const VARIABLE: &str = "BEARERD_CONFIG";
/// The paths of the configuration where none is named, the first one first.
const DEFAULT_PATHS: [&str; 2] = ["proxy.toml", "/etc/bearerd/proxy.toml"];

/// The configuration file cannot be found: `$BEARERD_CONFIG` is no path, or no file is at the default paths.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoPath {
    /// The variable is set to nothing.
    #[error("the environment variable BEARERD_CONFIG is empty")]
    EmptyVariable,
    /// The variable is set to blanks.
    #[error("the environment variable BEARERD_CONFIG holds only blanks")]
    BlankVariable,
    /// The variable is not UTF-8.
    #[error("the environment variable BEARERD_CONFIG is not UTF-8")]
    NotText,
    /// Neither the flag nor the variable names a file, and there is none at the default paths.
    #[error("there is no configuration: neither ./proxy.toml nor /etc/bearerd/proxy.toml exists")]
    NoFile,
}

/// The admin address and token cannot be read.
#[derive(Debug, Error)]
pub enum NoAdminAccess {
    /// The configuration file cannot be found.
    #[error(transparent)]
    NoPath(#[from] NoPath),
    /// The file cannot be read, is not TOML, or has no usable `[admin]`.
    #[error("{0}")]
    File(Box<Diagnostics>),
}

impl NoPath {
    /// The remedy.
    pub const fn help(self) -> &'static str {
        match self {
            Self::EmptyVariable | Self::BlankVariable => {
                "set the variable to the path of the configuration, or unset it: without it, bearerd reads \
                 ./proxy.toml or /etc/bearerd/proxy.toml"
            }
            Self::NotText => "write the path with -c FILE",
            Self::NoFile => {
                "write a proxy.toml, or name the configuration with -c FILE or in the environment variable \
                 BEARERD_CONFIG; `bearerd demo` shows bearerd without a configuration"
            }
        }
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// All problems, errors and warnings, if at least one is an error.
pub fn load(path: &Path, environment: &Environment) -> Result<Checked, Box<Diagnostics>> {
    check(path, file::read(path), environment)
}

/// Checks what was read at `path`.
///
/// # Errors
///
/// All problems, errors and warnings, if at least one is an error.
pub fn check(
    path: &Path,
    read: io::Result<Content>,
    environment: &Environment,
) -> Result<Checked, Box<Diagnostics>> {
    let text = read.and_then(Content::into_text).map_err(|error| Diagnostics::unreadable(path, &error))?;
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
    resolve::resolve(Document::read(sources, environment)?, &folder_of(path), environment)
}

/// The text of a configuration that was checked as `config`, as TOML with defaults and overrides, and without secrets.
pub fn print(text: &str, config: &Config, environment: &Environment) -> String {
    source::print::print(text, config, environment)
}

/// Finds the configuration file: the flag, `$BEARERD_CONFIG`, `./proxy.toml`, `/etc/bearerd/proxy.toml`.
///
/// # Errors
///
/// [`NoPath`] if there is no flag, and the variable is set but names no file, or there is no file at the default paths.
pub fn find(flag: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, NoPath> {
    match (flag, environment.get(VARIABLE)) {
        (Some(path), _) => Ok(path),
        (None, Some("")) => Err(NoPath::EmptyVariable),
        (None, Some(blanks)) if blanks.trim().is_empty() => Err(NoPath::BlankVariable),
        (None, Some(path)) => Ok(path.into()),
        (None, None) if environment.is_not_text(VARIABLE) => Err(NoPath::NotText),
        (None, None) => {
            DEFAULT_PATHS.into_iter().map(PathBuf::from).find(|path| is_there(path)).ok_or(NoPath::NoFile)
        }
    }
}

/// Whether there is a file, or the system does not tell: then reading it fails with the reason.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().map_or_else(|error| error.kind() != ErrorKind::NotFound, |_| true)
}

/// Reads the admin address and token, also from a file that has errors elsewhere. Without a file at the default paths,
/// the defaults and the environment count.
///
/// # Errors
///
/// [`NoAdminAccess`] if `$BEARERD_CONFIG` is no path, or the file cannot be read, is not TOML or has no usable `[admin]`. A
/// command must not use the default address then: another daemon may listen there.
pub fn admin_access(flag: Option<PathBuf>, environment: &Environment) -> Result<AdminAccess, NoAdminAccess> {
    let (path, text) = match find(flag, environment) {
        Ok(path) => {
            let text = file::read(&path).and_then(Content::into_text);
            let text = text.map_err(|error| Box::new(Diagnostics::unreadable(&path, &error)));
            (Some(path), text.map_err(NoAdminAccess::File)?)
        }
        Err(NoPath::NoFile) => (None, String::new()),
        Err(error) => return Err(error.into()),
    };
    let not_set = path.clone().map_or(AddressOrigin::NoFile, AddressOrigin::NotSet);
    let path = path.unwrap_or_else(|| DEFAULT_PATHS[0].into());
    let Document { file, sources, mut problems } =
        Document::read(Sources::new(&path, text), environment).map_err(NoAdminAccess::File)?;
    let folder = folder_of(&path);
    let token_file = resolve::own_token::path(&file, &folder);
    let admin = source::schema::Admin::of(file.admin);
    let origin = admin.listen.place().map_or(not_set, |place| match sources.variable_at(&place) {
        Some(variable) => AddressOrigin::Variable(variable.to_owned()),
        None => AddressOrigin::File(path.clone()),
    });
    let listen = admin.listen.read_or(Listen::Tcp(model::admin::DEFAULT_LISTEN), |listen| {
        let text = listen.get_ref();
        if let Some(path) = text.strip_prefix("unix:") {
            return Some(Listen::Unix(folder.join(path)));
        }
        let help =
            "write an IP address and a port, such as \"127.0.0.1:9090\", or \"unix:/run/bearerd/admin.sock\"";
        let problem = || Problem::error(listen.span(), "`admin.listen` is not an address").help(help);
        let address = resolve::socket_address(text).map(Listen::Tcp);
        if address.is_none() {
            problems.push(problem());
        }
        address
    });
    let load = |source: &Spanned<_>| Some(Secret::load(source.get_ref(), &folder, environment));
    let token = admin.token.read_or(None, |source| Some(load(source)));
    let tls = admin.tls.read_or(None, |tls| {
        Some(Some(tls.get_ref().certificate.usable().map(|path| path.get_ref().clone())))
    });
    match (listen, token, tls) {
        (Some(listen), Some(token), Some(tls)) => {
            let certificate = tls
                .as_ref()
                .and_then(|path| model::pem_file::read_certificate(&folder.join(path.as_ref()?)).ok());
            Ok(AdminAccess { listen, origin, token, token_file, speaks_tls: tls.is_some(), certificate })
        }
        _ => Err(NoAdminAccess::File(Box::new(Diagnostics::new(sources, problems)))),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_owned)
}
