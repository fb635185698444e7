//! `[audit]`: the output and the key of the audit trail.

use std::fs;
use std::path::Path;

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use super::conflicts::resolved;
use crate::config::model::audit::{Audit, AuditOutput, OnAuditFailure};
use crate::config::model::log::{Log, LogOutput};
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::source::schema;

/// Shortest key without a warning: 16 random bytes in base64 without padding.
const MIN_KEY_BYTES: usize = 22;

impl Resolver<'_> {
    pub(super) fn audit(&mut self, audit: schema::Audit, log: &Log) -> Audit {
        let output = audit.output.usable().and_then(|output| self.audit_output(output, log));
        Audit {
            output: output.unwrap_or(AuditOutput::Off),
            on_failure: audit.on_failure.or(OnAuditFailure::GoOn),
            key: audit.key.usable().and_then(|source| self.audit_key(source)),
        }
    }

    fn audit_output(&mut self, output: &Spanned<String>, log: &Log) -> Option<AuditOutput> {
        let (chosen, is_shared) = match output.get_ref().as_str() {
            "off" => (AuditOutput::Off, false),
            "stdout" => (AuditOutput::Stdout, log.output == LogOutput::Stdout),
            other => match other.strip_prefix("file:").filter(|path| !path.is_empty()) {
                Some(path) => {
                    let path = self.folder.join(path);
                    let is_shared =
                        matches!(&log.output, LogOutput::File(other) if is_one_file(&path, other));
                    (AuditOutput::File(path), is_shared)
                }
                None => {
                    let help = "write \"off\", \"stdout\" or \"file:/var/log/bearerd/audit.jsonl\"";
                    return self.refuse(output.span(), "not an output of the audit trail", help);
                }
            },
        };
        if is_shared {
            let help = "choose another output: a line of the log between two lines of the trail would look like an \
                        altered trail";
            return self.refuse(output.span(), "`audit.output` and `log.output` are the same", help);
        }
        Some(chosen)
    }

    fn audit_key(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        let key = self.secret(source)?;
        if key.initial().expose_secret().len() < MIN_KEY_BYTES {
            self.warning(
                source.span(),
                format!("{} is short for a key", key.place()),
                "use a key that cannot be guessed, such as `bearerd keygen` makes",
            );
        }
        Some(key)
    }
}

/// Whether two paths lead to one file, which need not exist.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let target = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| resolved(path));
    target(one) == target(other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Checked, Environment, parse};

    fn read(sections: &str) -> Result<Checked, String> {
        let text =
            format!("{sections}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"");
        let environment = Environment::from([("SHORT", "guessable"), ("LONG", "abcdefghijklmnopqrstuv")]);
        let checked = parse(Path::new("/etc/bearerd/proxy.toml"), text, &environment);
        checked.map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_trail_is_off_or_goes_to_a_stream_or_a_file_relative_to_the_configuration() {
        for (written, output) in [
            ("", AuditOutput::Off),
            ("[audit]\noutput = \"off\"", AuditOutput::Off),
            ("[audit]\noutput = \"stdout\"", AuditOutput::Stdout),
            ("[audit]\noutput = \"file:/a.jsonl\"", AuditOutput::File("/a.jsonl".into())),
            ("[audit]\noutput = \"file:a.jsonl\"", AuditOutput::File("/etc/bearerd/a.jsonl".into())),
        ] {
            let audit = read(written).unwrap().config.audit;
            assert_eq!((audit.output, audit.on_failure), (output, OnAuditFailure::GoOn), "{written}");
        }
        for wrong in ["", "file:", "/a.jsonl", "stderr"] {
            let problems = read(&format!("[audit]\noutput = \"{wrong}\"")).unwrap_err();
            assert!(problems.contains("not an output of the audit trail"), "{problems}");
        }
    }

    #[test]
    fn log_and_trail_have_outputs_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
        let [a, b] = ["a", "b"].map(|name| format!("file:{}", folder.path().join(name).display()));
        for (one, other) in
            [("stdout", "stdout"), ("file:x", "file:x"), ("file:x", "file:./none/../x"), (&*a, &*b)]
        {
            let text = format!("[audit]\noutput = \"{one}\"\n[log]\noutput = \"{other}\"");
            assert!(read(&text).unwrap_err().contains("are the same"), "{one} {other}");
        }
        read("[audit]\noutput = \"file:x\"\n[log]\noutput = \"file:none/x\"").unwrap();
    }

    #[test]
    fn a_key_that_can_be_guessed_is_warned_of() {
        let warnings = |name| read(&format!("[audit]\nkey = {{ env = \"{name}\" }}")).unwrap().warnings;
        assert!(warnings("SHORT").to_string().contains("short for a key"));
        assert!(warnings("LONG").problems().is_empty());
    }
}
