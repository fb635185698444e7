//! Reads secrets for the first time, and reports texts that cannot be the intended secret.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use secrecy::ExposeSecret;
use toml::Spanned;

use super::secret_text::{Flaw, flaw};
use super::{Resolver, with_cause};
use crate::config::model::secret::{Secret, SecretError, SecretForm, SecretSource};
use crate::config::source::diagnostics::{Problem, Severity};
use crate::config::source::key::Key;

const EXAMPLES: &str = "write { env = \"NAME\" } or { file = \"/run/secrets/name\" }";

impl Resolver<'_> {
    pub(super) fn required_secret(
        &mut self,
        owner: &Range<usize>,
        key: &str,
        source: &Key<SecretSource>,
    ) -> Option<Secret> {
        let public_client = match key {
            "client_secret" => "; a client without a secret has client_auth = \"none\"",
            _ => "",
        };
        let help = format!(
            "write {key} = {{ env = \"NAME\" }} or {{ file = \"/run/secrets/name\" }}{public_client}"
        );
        let source = self.required(owner, key, source, &help)?;
        self.secret(source)
    }

    /// Checks secrets that are written, where it is not known which are used.
    pub(super) fn secrets<const N: usize>(&mut self, keys: [&Key<SecretSource>; N]) {
        for source in keys.into_iter().filter_map(Key::usable) {
            self.secret(source);
        }
    }

    /// A secret that may be any text. Warns of a text that was probably meant to be another.
    pub(super) fn secret(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        self.secret_that(source, "", |_| None)
    }

    /// A secret of this form, which `help` names.
    pub(super) fn secret_as(
        &mut self,
        source: &Spanned<SecretSource>,
        form: SecretForm,
        help: &str,
    ) -> Option<Secret> {
        self.secret_that(source, help, |secret| {
            secret.check_initial(form).err().map(|error| with_cause(&error))
        })
    }

    /// A secret of a certain form. `fault` says why a secret has another form, and `help` names the form.
    ///
    /// A flaw of the text explains why the secret is unusable, and both are reported as one problem.
    pub(super) fn secret_that(
        &mut self,
        source: &Spanned<SecretSource>,
        help: &str,
        fault: impl FnOnce(&Secret) -> Option<String>,
    ) -> Option<Secret> {
        if let SecretSource::Plain(value) = source.get_ref() {
            let help = format!("{EXAMPLES}, without quotes around it");
            let value = value.expose_secret();
            if value.starts_with(['{', '$']) && value.ends_with('}') {
                let title = "looks like the source of a secret, but would be the secret itself";
                return self.refuse(source.span(), title, help);
            }
            self.warning(source.span(), "a secret stands in the configuration itself", help);
        }
        let secret = match Secret::load(source.get_ref(), &self.folder, self.environment) {
            Ok(secret) => secret,
            Err(error) => return self.refuse(source.span(), with_cause(&error), remedy(source, &error)),
        };
        let fault = fault(&secret);
        match (flaw(secret.initial().expose_secret()), fault) {
            (Some(Flaw { what, help, is_fatal }), None) => {
                let severity = if is_fatal { Severity::Error } else { Severity::Warning };
                let title = format!("{} {what}", secret.place());
                self.problems.push(Problem { severity, ..Problem::error(source.span(), title).help(help) });
            }
            (Some(Flaw { what, help, .. }), Some(fault)) => {
                self.error(source.span(), format!("{fault} (the text {what})"), help);
            }
            (None, Some(fault)) => self.error(source.span(), fault, help),
            (None, None) => {}
        }
        Some(secret)
    }
}

/// The remedy for a secret that cannot be read.
fn remedy(source: &Spanned<SecretSource>, error: &SecretError) -> String {
    if let SecretError::Unreadable { path, source } = error {
        return remedy_for_file(path, source.kind());
    }
    let help = match (source.get_ref(), error) {
        (_, SecretError::VariableNotText(_)) => "set the variable to text in UTF-8",
        (_, SecretError::NotText(_)) => "save the file as UTF-8: Windows PowerShell writes UTF-16 by default",
        (SecretSource::Environment(_), SecretError::Empty(_)) => {
            "set the variable to the secret; a variable that the shell or the deployment fills in may not be set there"
        }
        (SecretSource::Environment(_), _) => {
            "set the variable for the daemon, or write { file = \"/run/secrets/name\" }"
        }
        (SecretSource::File(_), _) => "write the secret into that file, and nothing else",
        (SecretSource::Plain(_), _) => EXAMPLES,
    };
    help.to_owned()
}

/// The remedy for the file of a secret that cannot be read.
fn remedy_for_file(path: &Path, failure: ErrorKind) -> String {
    let path = path.display();
    match failure {
        ErrorKind::NotFound => format!(
            "create the file for the daemon's user alone, with the secret as its only content: run (umask 077; cat > {path}), \
             paste the secret, and press Enter and Ctrl-D; or write another path, which starts at the configuration's folder"
        ),
        ErrorKind::PermissionDenied => format!(
            "let the daemon's user read the file, now and later, and nobody else: chown it to that user, and chmod 600 {path}"
        ),
        ErrorKind::InvalidInput => {
            "write the path of a file: a container gets a folder where the file to mount is missing on the host".to_owned()
        }
        _ => "the daemon's user must be able to read the file, now and later".to_owned(),
    }
}

#[cfg(test)]
mod tests;
