//! The canonical encoding of a field's value, which is hashed and never stored.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretString};

use crate::config::model::credential::HttpVersion;
use crate::config::model::endpoint::Endpoint;
use crate::config::model::identity::{BasicEncoding, Claims};
use crate::config::model::request::{MemberPath, RequestFormat};
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::model::signing_key::SigningAlgorithm;

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

impl<const N: usize> Canonical for [u8; N] {
    fn write(&self, to: &mut Context) {
        to.update(self);
    }
}

impl Canonical for [u8] {
    fn write(&self, to: &mut Context) {
        (self.len() as u64).write(to);
        to.update(self);
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

/// Types that are encoded as another value.
macro_rules! encoded_as {
    ($($type:ty: |$value:ident| $encoded:expr;)*) => {$(
        impl Canonical for $type {
            fn write(&self, to: &mut Context) {
                let $value = self;
                $encoded.write(to);
            }
        }
    )*};
}

encoded_as! {
    u64: |number| number.to_be_bytes();
    u8: |byte| [*byte];
    bool: |is| [u8::from(*is)];
    Duration: |duration| duration.as_nanos().to_be_bytes();
    str: |text| text.as_bytes();
    String: |text| text.as_str();
    BTreeMap<String, String>: |map| map.iter().collect::<Vec<_>>();
    // Sorted by name, and thus one text for each value.
    Claims: |claims| claims.iter().map(|(name, value)| (name, value.to_string())).collect::<Vec<_>>();
    MemberPath: |path| path.as_str();
    SecretString: |secret| secret.expose_secret();
    Secret: |secret| (&secret.source, secret.initial());
    CertificateDer<'_>: |certificate| certificate.as_ref();
    Endpoint: |endpoint| (endpoint.issuer().is_some(), endpoint.as_str());
    SecretSource: |source| match source {
        Self::Environment(name) => (0_u64, name.as_bytes()),
        Self::File(path) => (1_u64, path.as_os_str().as_bytes()),
        // The place of the secret is the configuration.
        Self::Plain(_) => (2_u64, [].as_slice()),
    };
    // Enums without values: the position of the variant.
    BasicEncoding: |encoding| (*encoding as u64);
    RequestFormat: |format| (*format as u64);
    SigningAlgorithm: |algorithm| (*algorithm as u64);
    HttpVersion: |version| (*version as u64);
}
