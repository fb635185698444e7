//! `bearerd demo --platform`: the authorization server and the API at one address, over TLS, for a daemon elsewhere.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use testkit::api::Describe;
use testkit::authorization_server::AuthorizationServer;
use testkit::pki::Pki;
use tokio::net::TcpListener;

use super::{CLIENT_ID, DemoError};

/// No secret: the platform protects nothing, and its configuration is the same on every machine.
const CLIENT_SECRET: &str = "demo";
/// A certificate is public.
const CERTIFICATE_MODE: u32 = 0o644;

/// The two servers, which run until this is dropped.
#[derive(Debug)]
pub struct Platform {
    server: AuthorizationServer,
    ca_out: PathBuf,
}

impl Platform {
    /// Listens on an address, and writes the certificate of the authority that has issued the servers' certificate for
    /// `name`. Once the file is there, the platform answers.
    ///
    /// # Errors
    ///
    /// [`DemoError`].
    pub async fn start(listen: SocketAddr, name: &str, ca_out: &Path) -> Result<Self, DemoError> {
        let pki = Pki::new(&[name, "localhost", "127.0.0.1"])?;
        let tls = pki.server_config(&[b"h2", b"http/1.1"])?;
        let listener = TcpListener::bind(listen).await?;
        let client = (CLIENT_ID, CLIENT_SECRET);
        let server =
            AuthorizationServer::with_api(listener, tls, name, client, |tokens| Describe { tokens })?;
        replace(ca_out, pki.authority_pem().as_bytes())
            .map_err(|source| DemoError::Certificate { path: ca_out.to_owned(), source })?;
        Ok(Self { server, ca_out: ca_out.to_owned() })
    }

    /// The values for the configuration of a daemon.
    pub fn introduction(&self) -> String {
        format!(
            "bearerd demo --platform: an authorization server and an API. For proxy.toml:\n\
             \n\
             \x20 [credentials.api]\n\
             \x20 token_url     = \"{}\"\n\
             \x20 client_id     = \"{CLIENT_ID}\"\n\
             \x20 client_secret = \"{CLIENT_SECRET}\"\n\
             \x20 ca_file       = \"{}\"\n\
             \n\
             \x20 [[routes]]\n\
             \x20 upstream      = \"{}\"\n\
             \x20 credential    = \"api\"\n\
             \x20 ca_file       = \"{}\"\n\
             \n\
             health check: {}/livez\n",
            self.server.token_url(),
            self.ca_out.display(),
            self.server.issuer(),
            self.ca_out.display(),
            self.server.issuer(),
        )
    }

    /// Revokes all tokens. Returns how many token requests there were so far.
    pub fn revoke(&self) -> usize {
        self.server.revoke_all();
        self.server.requests()
    }
}

/// Replaces a file: a reader sees the old content or the new, and never a part.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:08x}", fastrand::u32(..)));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file =
            File::options().write(true).create_new(true).mode(CERTIFICATE_MODE).open(&temporary)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(CERTIFICATE_MODE))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Nothing is left behind; the first error is the cause.
        let _ = fs::remove_file(&temporary);
    }
    written
}
