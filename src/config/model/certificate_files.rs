//! The certificates and keys of `ca_file`, `client_certificate` and `client_key`, read again while the daemon runs.
//!
//! [`Config::read_certificates_again`] compares the content of the files with the content in use. Files that belong
//! together are not written in one moment: content counts only if the previous reading has found the same. A file that
//! cannot be used, and a certificate whose key does not fit, change nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use secrecy::zeroize::Zeroizing;

use super::certificate;
use super::config::Config;
use super::credential::{ClientCertificate, Credential, Roots};
use super::pem_file::{self, MAX_AUTHORITIES_BYTES, MAX_CERTIFICATE_BYTES, PemError, PemFile, with_cause};
use super::route::Upstream;
use super::webhook::Webhook;

/// Files whose content is not the content in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The keys that name the files, such as `credentials.api.client_certificate`.
    pub keys: Vec<String>,
    /// The file of the certificates.
    pub path: PathBuf,
    /// The digests of the content; empty if a file cannot be read.
    content: Vec<[u8; 32]>,
    /// Why the content cannot be used, if so.
    pub error: Option<String>,
    /// What is worth a warning about the validity of the certificates, if the content can be used.
    pub warning: Option<String>,
}

/// The outcome of a reading.
#[derive(Debug, Default)]
pub struct Reading {
    /// The differences from the content in use.
    pub findings: Vec<Finding>,
    /// The configuration with the usable new content that the previous reading has found too; `None` without such content.
    pub config: Option<Config>,
}

/// The certificate of a client and the key that fits it.
pub(in crate::config) fn client_certificate(
    (certificate_path, certificate): (&Path, &[u8]),
    (key_path, key): (&Path, &[u8]),
) -> Result<ClientCertificate, PemError> {
    let chain = pem_file::certificates(certificate_path, certificate)?;
    let private_key = pem_file::private_key(key_path, key)?;
    pem_file::certified_key(key_path, chain.clone(), private_key.clone_key())?;
    Ok(ClientCertificate {
        chain,
        key: Arc::new(private_key),
        certificate_file: PemFile::new(certificate_path, certificate),
        key_file: PemFile::new(key_path, key),
    })
}

/// Reads the certificate of a client and its key.
///
/// # Errors
///
/// Why the files cannot be used.
pub fn read_client_certificate(certificate: &Path, key: &Path) -> Result<ClientCertificate, String> {
    let read = |path| pem_file::read(path, MAX_CERTIFICATE_BYTES);
    let pair = read(certificate).and_then(|content| {
        let key_content = Zeroizing::new(read(key)?);
        client_certificate((certificate, &content), (key, &key_content))
    });
    pair.map_err(|error| with_cause(&error))
}

impl Config {
    /// Whether the configuration names a file that [`Config::read_certificates_again`] reads.
    pub fn has_certificate_files(&self) -> bool {
        self.certificate_files().next().is_some()
    }

    /// The files, each with the size up to which it is read.
    fn certificate_files(&self) -> impl Iterator<Item = (&PemFile, u64)> {
        let of_routes = self.routes.iter().filter_map(|route| route.upstream.ca_file.as_ref());
        let of_credentials = self.credentials.iter().filter_map(|one| one.ca_file.as_ref());
        let certificates = self.credentials.iter().filter_map(|one| one.client_certificate.as_ref());
        let shown = self.routes.iter().filter_map(|route| route.upstream.client_certificate.as_ref());
        let pairs = certificates.chain(shown).flat_map(|one| [&one.certificate_file, &one.key_file]);
        let of_webhooks = self.webhooks.iter().filter_map(|webhook| webhook.ca_file.as_ref());
        let authorities =
            of_routes.chain(of_credentials).chain(of_webhooks).map(|file| (file, MAX_AUTHORITIES_BYTES));
        authorities.chain(pairs.map(|file| (file, MAX_CERTIFICATE_BYTES)))
    }

    /// Reads the files again, where `earlier` is what the previous reading has found. Blocks as long as the file system
    /// does.
    pub fn read_certificates_again(&self, earlier: &[Finding]) -> Reading {
        let mut reader = Reader { earlier, contents: HashMap::new(), findings: Vec::new() };
        if self.certificate_files().all(|(file, max_bytes)| reader.is_unchanged(file, max_bytes)) {
            return Reading::default();
        }
        let mut config = self.clone();
        let mut is_changed = false;
        for webhook in &mut config.webhooks {
            is_changed |= reader.webhook(webhook);
        }
        for credential in &mut config.credentials {
            if let Some(changed) = reader.credential(credential) {
                *credential = Arc::new(changed);
                is_changed = true;
            }
        }
        for route in &mut config.routes {
            is_changed |= reader.upstream(&mut route.upstream, &format!("({})", route.name));
            if let Some(used) = &mut route.credential
                && let Some(changed) = config.credentials.iter().find(|one| one.name == used.name)
            {
                *used = Arc::clone(changed);
            }
        }
        Reading { findings: reader.findings, config: is_changed.then_some(config) }
    }
}

/// Reads each file once.
struct Reader<'a> {
    earlier: &'a [Finding],
    contents: HashMap<PathBuf, Result<Content, String>>,
    findings: Vec<Finding>,
}

#[derive(Clone)]
struct Content {
    file: PemFile,
    bytes: Arc<Zeroizing<Vec<u8>>>,
}

impl Reader<'_> {
    /// The credential with new content of its files; `None` without new content. Its secrets are read again too, because a
    /// token request that differs from the latest one is made at once.
    fn credential(&mut self, before: &Credential) -> Option<Credential> {
        let key = |name| move || format!("credentials.{}.{name}", before.name);
        let authorities = self.authorities(key("ca_file"), before.ca_file.as_ref(), &before.roots);
        let certificate = self.pair(key("client_certificate"), before.client_certificate.as_ref());
        if authorities.is_none() && certificate.is_none() {
            return None;
        }
        let identity = before.identity.map(|keyed| keyed.secret.read_again(keyed.form));
        let mut after = Credential { identity, ..before.clone() };
        if let Some((file, roots)) = authorities {
            (after.ca_file, after.roots) = (Some(file), roots);
        }
        if let Some(certificate) = certificate {
            after.client_certificate = Some(certificate);
        }
        Some(after)
    }

    /// Gives the upstream of a route the new content of its files. Returns whether there is new content.
    fn upstream(&mut self, upstream: &mut Upstream, route: &str) -> bool {
        let key = |name| move || format!("routes.{name} {route}");
        let authorities = self.authorities(key("ca_file"), upstream.ca_file.as_ref(), &upstream.roots);
        let certificate = self.pair(key("client_certificate"), upstream.client_certificate.as_ref());
        let is_changed = authorities.is_some() || certificate.is_some();
        if let Some((file, roots)) = authorities {
            (upstream.ca_file, upstream.roots) = (Some(file), roots);
        }
        if certificate.is_some() {
            upstream.client_certificate = certificate;
        }
        is_changed
    }

    /// Gives a webhook the new content of its file. Returns whether there is new content.
    fn webhook(&mut self, webhook: &mut Webhook) -> bool {
        let key = || format!("webhooks.ca_file ({})", webhook.name);
        let authorities = self.authorities(key, webhook.ca_file.as_ref(), &webhook.roots);
        let Some((file, roots)) = authorities else { return false };
        (webhook.ca_file, webhook.roots) = (Some(file), roots);
        true
    }

    fn authorities(
        &mut self,
        key: impl FnOnce() -> String,
        before: Option<&PemFile>,
        roots: &Roots,
    ) -> Option<(PemFile, Roots)> {
        let PemFile { path, digest } = before?;
        let content = self.content(path, MAX_AUTHORITIES_BYTES);
        if content.as_ref().is_ok_and(|content| content.file.digest == *digest) {
            return None;
        }
        let digests = content.iter().map(|content| content.file.digest).collect();
        let usable = content.and_then(|Content { file, bytes }| {
            let parsed = pem_file::authorities(path, &bytes);
            parsed.map(|(authorities, _)| (file, authorities)).map_err(|error| with_cause(&error))
        });
        let (file, authorities) = self.found(key, path, digests, usable, |(_, authorities)| authorities)?;
        let with_system = matches!(roots, Roots::SystemAnd(_));
        Some((file, if with_system { Roots::SystemAnd(authorities) } else { Roots::Only(authorities) }))
    }

    fn pair(
        &mut self,
        key: impl FnOnce() -> String,
        before: Option<&ClientCertificate>,
    ) -> Option<ClientCertificate> {
        let ClientCertificate { certificate_file, key_file, .. } = before?;
        let (certificate_path, key_path) = (&certificate_file.path, &key_file.path);
        let contents = [certificate_path, key_path].map(|path| self.content(path, MAX_CERTIFICATE_BYTES));
        let digests: Vec<_> = contents.iter().flatten().map(|content| content.file.digest).collect();
        if digests == [certificate_file.digest, key_file.digest] {
            return None;
        }
        let [certificate, key_content] = contents;
        let usable = certificate.and_then(|certificate| Ok((certificate, key_content?)));
        let usable = usable.and_then(|(certificate, key)| {
            let pair = client_certificate((certificate_path, &certificate.bytes), (key_path, &key.bytes));
            let pair = pair.and_then(|pair| refuse_ended(certificate_path, pair));
            pair.map_err(|error| with_cause(&error))
        });
        self.found(key, certificate_path, digests, usable, |pair| &pair.chain)
    }

    /// Records new content. Returns the content if it is usable and the previous reading has found it too.
    fn found<T>(
        &mut self,
        key: impl FnOnce() -> String,
        path: &Path,
        content: Vec<[u8; 32]>,
        usable: Result<T, String>,
        certificates: impl FnOnce(&T) -> &Vec<CertificateDer<'static>>,
    ) -> Option<T> {
        let key = key();
        let error = usable.as_ref().err().cloned();
        let warning = usable.as_ref().ok().and_then(|usable| certificate::validity(certificates(usable)));
        let is_confirmed = self.earlier.iter().any(|earlier| {
            earlier.keys.contains(&key) && (&earlier.content, &earlier.error) == (&content, &error)
        });
        let same = self
            .findings
            .iter_mut()
            .find(|other| other.path == path && (&other.content, &other.error) == (&content, &error));
        match same {
            Some(same) => same.keys.push(key),
            None => {
                let finding = Finding { keys: vec![key], path: path.to_owned(), content, error, warning };
                self.findings.push(finding);
            }
        }
        usable.ok().filter(|_| is_confirmed)
    }

    fn is_unchanged(&mut self, file: &PemFile, max_bytes: u64) -> bool {
        self.content(&file.path, max_bytes).is_ok_and(|content| content.file.digest == file.digest)
    }

    fn content(&mut self, path: &Path, max_bytes: u64) -> Result<Content, String> {
        if let Some(known) = self.contents.get(path) {
            return known.clone();
        }
        let read = pem_file::read(path, max_bytes).map_err(|error| with_cause(&error));
        let content = read.map(|bytes| {
            let bytes = Arc::new(Zeroizing::new(bytes));
            Content { file: PemFile::new(path, &bytes), bytes }
        });
        self.contents.insert(path.to_owned(), content.clone());
        content
    }
}

/// Refuses a certificate that has ended: the one in use may be valid.
fn refuse_ended(path: &Path, pair: ClientCertificate) -> Result<ClientCertificate, PemError> {
    let end = pair.chain.first().and_then(certificate::end);
    if end.is_some_and(|end| end <= certificate::now()) {
        return Err(PemError::Expired(path.to_owned()));
    }
    Ok(pair)
}
