//! The canonical encoding of a field's value, which is hashed and never stored.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};

use crate::config::model::endpoint::Endpoint;
use crate::config::model::request::RequestFormat;
use crate::config::model::secret::SecretSource;
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::source::schema::{BasicEncoding, HttpVersion};

/// The digest of what is written.
pub(super) fn digest(write: impl FnOnce(&mut Context)) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    write(&mut context);
    let digest = context.finish();
    std::array::from_fn(|at| digest.as_ref()[at])
}

/// A value as bytes. Of two different values of one type, neither encoding is a prefix of the other.
pub(super) trait Canonical {
    fn write(&self, to: &mut Context);
}

impl Canonical for u64 {
    fn write(&self, to: &mut Context) {
        to.update(&self.to_be_bytes());
    }
}

impl Canonical for bool {
    fn write(&self, to: &mut Context) {
        to.update(&[u8::from(*self)]);
    }
}

impl Canonical for Duration {
    fn write(&self, to: &mut Context) {
        to.update(&self.as_nanos().to_be_bytes());
    }
}

impl Canonical for [u8] {
    fn write(&self, to: &mut Context) {
        (self.len() as u64).write(to);
        to.update(self);
    }
}

impl Canonical for str {
    fn write(&self, to: &mut Context) {
        self.as_bytes().write(to);
    }
}

impl Canonical for String {
    fn write(&self, to: &mut Context) {
        self.as_str().write(to);
    }
}

impl Canonical for SecretString {
    fn write(&self, to: &mut Context) {
        self.expose_secret().write(to);
    }
}

impl Canonical for CertificateDer<'_> {
    fn write(&self, to: &mut Context) {
        self.as_ref().write(to);
    }
}

impl<T: Canonical + ?Sized> Canonical for &T {
    fn write(&self, to: &mut Context) {
        (**self).write(to);
    }
}

impl<T: Canonical> Canonical for Option<T> {
    fn write(&self, to: &mut Context) {
        self.is_some().write(to);
        if let Some(value) = self {
            value.write(to);
        }
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn write(&self, to: &mut Context) {
        (self.len() as u64).write(to);
        for item in self {
            item.write(to);
        }
    }
}

impl<A: Canonical, B: Canonical> Canonical for (A, B) {
    fn write(&self, to: &mut Context) {
        self.0.write(to);
        self.1.write(to);
    }
}

impl Canonical for BTreeMap<String, String> {
    fn write(&self, to: &mut Context) {
        self.iter().collect::<Vec<_>>().write(to);
    }
}

impl Canonical for Endpoint {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Written(url) => (false, url.as_str()).write(to),
            Self::OfIssuer(issuer) => (true, issuer.as_str()).write(to),
        }
    }
}

impl Canonical for SecretSource {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Environment(name) => (0_u64, name.as_bytes()).write(to),
            Self::File(path) => (1_u64, path.as_os_str().as_bytes()).write(to),
            // Its place is the configuration.
            Self::Plain(_) => (2_u64, [].as_slice()).write(to),
        }
    }
}

impl Canonical for BasicEncoding {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Raw => 0_u64.write(to),
            Self::Form => 1_u64.write(to),
        }
    }
}

impl Canonical for RequestFormat {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Form => 0_u64.write(to),
            Self::Json => 1_u64.write(to),
        }
    }
}

impl Canonical for SigningAlgorithm {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Rs256 => 0_u64.write(to),
            Self::Es256 => 1_u64.write(to),
        }
    }
}

impl Canonical for HttpVersion {
    fn write(&self, to: &mut Context) {
        match self {
            Self::Auto => 0_u64.write(to),
            Self::Http1 => 1_u64.write(to),
            Self::Http2 => 2_u64.write(to),
        }
    }
}
