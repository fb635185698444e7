//! The state file of a credential, and the keys that encrypt it.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use super::conflicts::resolved;
use crate::config::model::credential::StatePlace;
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::model::state_key::StateKey;
use crate::config::source::choice::Grant;
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Key;
use crate::config::source::schema;
use crate::config::source::units::OneOrMany;

/// Why grants with a refresh token need a state file.
const LOST_GRANT: &str = "a server that replaces refresh tokens accepts each once; without a state file, a restart \
                          loses the current one, and with it the grant";

impl Resolver<'_> {
    /// A path relative to the folder of the configuration; an empty one is absent.
    pub(super) fn state_path(&self, path: Key<PathBuf>) -> Key<PathBuf> {
        match path {
            Key::Written(path) if path.get_ref().as_os_str().is_empty() => Key::Absent,
            Key::Written(path) => {
                Key::Written(Spanned::new(path.span(), self.folder.join(path.into_inner())))
            }
            path => path,
        }
    }

    /// The state file of a credential, if there is one.
    pub(super) fn state(
        &mut self,
        name: &str,
        owner: &Range<usize>,
        keys: &mut schema::Credential,
    ) -> Option<StatePlace> {
        let grant = keys.grant.known_or(Grant::ClientCredentials);
        let rotates = matches!(grant, Some(Grant::RefreshToken | Grant::AuthorizationCode));
        let needs_state = rotates && !self.is_shared;
        let place = keys.state_file.place().unwrap_or_else(|| owner.clone());
        let written = self.state_path(keys.state_file.take());
        let folder = if written.is_absent() { &self.state_dir } else { &Key::Absent };
        let is_refused = matches!((&written, folder), (Key::Refused, _) | (_, Key::Refused));
        let default = folder.usable().map(|folder| folder.get_ref().join(format!("{name}.state")));
        let path = written.into_usable().map(Spanned::into_inner).or(default);
        let key = keys.state_key.usable().and_then(|source| self.state_key(source, path.as_deref()));
        let previous = keys.state_key_previous.take();
        let has_key = !keys.state_key.is_absent();
        let previous_keys = self.previous_keys(previous, has_key, key.as_ref(), path.as_deref());
        if is_refused {
            return None;
        }
        if needs_state && path.is_none() {
            let help = format!("set server.state_dir or state_file, and a state_key: {LOST_GRANT}");
            return self.refuse(place, "this grant needs a `state_file`", help);
        }
        if needs_state && !has_key {
            let help = format!("generate a key with `bearerd keygen`: {LOST_GRANT}");
            return self.refuse(place, "this grant needs a `state_key` to encrypt its refresh token", help);
        }
        let Some(path) = path else {
            if let Some(place) = keys.state_key.place() {
                let help = "set server.state_dir or state_file, or remove `state_key`";
                self.error(place, "`state_key` has no state file to encrypt", help);
            }
            return None;
        };
        self.state_places.insert(name.to_owned(), place.clone());
        if path.file_name().is_none() {
            self.problems.push(Problem::error(place, "not the path of a file"));
        } else if let Some(other) = self.state_files.insert(resolved(&path), name.to_owned()) {
            let title = format!("the credential `{other}` has the same state file");
            self.error(place, title, "each credential needs a state_file of its own");
        }
        Some(StatePlace { path, key, previous_keys })
    }

    fn previous_keys(
        &mut self,
        sources: Key<OneOrMany<SecretSource>>,
        has_key: bool,
        key: Option<&Secret>,
        path: Option<&Path>,
    ) -> Vec<Secret> {
        let Some(sources) = sources.into_usable() else { return Vec::new() };
        let place = sources.span();
        let sources = sources.into_inner().0;
        if !has_key && sources.iter().any(Option::is_some) {
            self.error(
                place,
                "`state_key_previous` needs a `state_key` that replaces it",
                "generate a key with `bearerd keygen`: the daemon decrypts with previous keys and encrypts with the new one",
            );
            return Vec::new();
        }
        let sources = sources.iter().flatten();
        let previous: Vec<Secret> = sources.filter_map(|source| self.state_key(source, path)).collect();
        let is_current = |other: &Secret| {
            key.is_some_and(|key| key.initial().expose_secret() == other.initial().expose_secret())
        };
        if previous.iter().any(is_current) {
            let help = "write the keys that were in use before `state_key`";
            self.warning(place, "`state_key_previous` holds the `state_key` itself", help);
        }
        previous
    }

    /// A key that seals what outlives the process or leaves the machine.
    pub(super) fn sealing_key(&mut self, source: &Spanned<SecretSource>, help: &str) -> Option<Secret> {
        self.secret_that(source, help, |key| {
            let error = StateKey::parse(key.initial()).err()?;
            Some(format!("{} is not usable: {error}", key.place()))
        })
    }

    /// A key for the state file at `path`.
    fn state_key(&mut self, source: &Spanned<SecretSource>, path: Option<&Path>) -> Option<Secret> {
        let key = self.sealing_key(source, "write 32 bytes in base64, as `bearerd keygen` does")?;
        if let SecretSource::File(file) = source.get_ref() {
            self.warn_of_key_file(&self.folder.join(file), path, &source.span());
        }
        Some(key)
    }

    /// Warns of a key that every user can read, or that a copy of the state's folder contains.
    fn warn_of_key_file(&mut self, file: &Path, state: Option<&Path>, place: &Range<usize>) {
        if fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            self.warning(
                place.clone(),
                format!("every user can read {}, a key of the state", file.display()),
                "chmod 600 the file; in Kubernetes, set `defaultMode: 0400` of the volume, and `fsGroup`",
            );
        }
        let folders = canonical_folder(file).zip(state.and_then(canonical_folder));
        if folders.is_some_and(|(keys, states)| keys.starts_with(states)) {
            self.warning(
                place.clone(),
                format!("{}, a key of the state, lies in the folder of the state", file.display()),
                "move the key: a copy of the folder would contain both the state and its key",
            );
        }
    }
}

/// The folder of a file, with symlinks resolved.
fn canonical_folder(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path.parent()?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Diagnostics, Environment, parse};

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    const KEY2: &str = "OTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTBmZWRjYmE=";

    fn read(server: &str, credential: &str) -> Result<Checked, Box<Diagnostics>> {
        let client =
            "token_url = \"https://as.example.com/t\"\nclient_id = \"id\"\nclient_secret = { env = \"S\" }";
        let text = format!(
            "[server]\n{server}\n[credentials.a]\n{client}\n{credential}\n[credentials.b]\n{client}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a\"\n\
             [[routes]]\npath = \"/b\"\nupstream = \"https://api.example.com\"\ncredential = \"b\""
        );
        let environment =
            Environment::from([("S", "s"), ("KEY", KEY), ("KEY2", KEY2), ("SHORT", "c2hvcnQ=")]);
        parse(Path::new("/etc/bearerd/proxy.toml"), text, &environment)
    }

    fn paths(server: &str, credential: &str) -> [Option<String>; 2] {
        let config = read(server, credential).unwrap_or_else(|problems| panic!("{problems}")).config;
        let path = |at: usize| Some(config.credentials[at].state.as_ref()?.path.display().to_string());
        [path(0), path(1)]
    }

    #[test]
    fn a_state_file_is_named_after_its_credential_by_default() {
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(paths("", ""), [None, None]);
        assert_eq!(paths("state_dir = \"\"", "state_file = \"\""), [None, None]);
        let both = [some("/var/lib/b/a.state"), some("/var/lib/b/b.state")];
        assert_eq!(paths("state_dir = \"/var/lib/b\"", ""), both);
        assert_eq!(paths("state_dir = \"s\"", "state_file = \"x\"")[0], some("/etc/bearerd/x"));
        assert_eq!(paths("", "state_file = \"x\"")[1], None);
    }

    #[test]
    fn a_state_that_would_lose_the_grant_is_refused_with_a_remedy() {
        let key = "state_key = { env = \"KEY\" }";
        let refresh = "grant = \"refresh_token\"\nrefresh_token = { env = \"S\" }";
        for (server, lines, title, remedy) in [
            ("", format!("{refresh}\n{key}"), "this grant needs a `state_file`", "set server.state_dir"),
            (
                "state_dir = \"s\"",
                refresh.to_owned(),
                "this grant needs a `state_key`",
                "and with it the grant",
            ),
            ("", key.to_owned(), "`state_key` has no state file", "or remove `state_key`"),
            (
                "state_dir = \"s\"",
                "state_file = \"s/b.state\"".to_owned(),
                "the credential `a` has the same",
                "of its own",
            ),
            (
                "state_dir = \"s\"",
                "state_key = { env = \"SHORT\" }".to_owned(),
                "the environment variable SHORT is not usable",
                "keygen",
            ),
            ("", "state_file = \"..\"".to_owned(), "not the path of a file", ""),
            (
                "state_dir = \"s\"",
                "state_key_previous = { env = \"KEY\" }".to_owned(),
                "`state_key_previous` needs a `state_key`",
                "keygen",
            ),
            (
                "state_dir = \"s\"",
                format!("{key}\nstate_key_previous = [{{ env = \"KEY2\" }}, {{ env = \"SHORT\" }}]"),
                "the environment variable SHORT is not usable",
                "keygen",
            ),
            (
                "state_dir = \"s\"",
                format!("{key}\nstate_key_previous = [[{{ env = \"KEY2\" }}]]"),
                "`credentials.a.state_key_previous[0]`",
                "",
            ),
            (
                "",
                "refresh_token = { env = \"S\" }".to_owned(),
                "`refresh_token` is not used by this grant",
                "refresh_token",
            ),
            (
                "",
                "max_rotations = 3".to_owned(),
                "`max_rotations` is not used by this grant",
                "refresh_token",
            ),
        ] {
            let problems = read(server, &lines).expect_err(&lines);
            let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
            assert!(problem.title.starts_with(title), "{problems}");
            assert!(problems.to_string().contains(remedy), "{problems}");
        }
        // The state file may hold the refresh token.
        for first in ["", "refresh_token = { env = \"S\" }"] {
            let lines = format!("grant = \"refresh_token\"\n{first}\n{key}");
            assert!(read("state_dir = \"s\"", &lines).is_ok());
        }
    }

    #[test]
    fn a_readable_or_copied_key_file_causes_a_warning() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (keys, states) = (folder.path().join("keys"), folder.path().join("states"));
        std::fs::create_dir(&keys).unwrap();
        std::fs::create_dir(&states).unwrap();
        std::os::unix::fs::symlink(&states, keys.join("linked")).unwrap();
        for (file, mode, expected) in [
            (keys.join("key"), 0o600, None),
            (keys.join("key"), 0o640, None),
            (keys.join("key"), 0o644, Some("every user can read ")),
            (states.join("key"), 0o400, Some("lies in the folder of the state")),
            (keys.join("linked/key"), 0o400, Some("lies in the folder of the state")),
        ] {
            std::fs::write(&file, KEY).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            for key in ["state_key = ", "state_key = { env = \"KEY2\" }\nstate_key_previous = "] {
                let lines = format!("{key}{{ file = \"{}\" }}", file.display());
                let read = read(&format!("state_dir = \"{}\"", states.display()), &lines);

                let warnings = read.unwrap_or_else(|problems| panic!("{problems}")).warnings;

                let titles: Vec<&str> =
                    warnings.problems().iter().map(|problem| problem.title.as_str()).collect();
                assert_eq!(titles.len(), usize::from(expected.is_some()), "{titles:?}");
                assert!(
                    titles.iter().all(|title| title.contains(expected.unwrap_or_default())),
                    "{titles:?}"
                );
            }
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn previous_keys_are_one_or_a_list_without_the_current_key() {
        let read = |previous: &str| {
            let lines = format!("state_key = {{ env = \"KEY\" }}\n{previous}");
            read("state_dir = \"s\"", &lines).unwrap_or_else(|problems| panic!("{problems}"))
        };
        let count =
            |previous: &str| read(previous).config.credentials[0].state.as_ref().unwrap().previous_keys.len();

        assert_eq!(count(""), 0);
        assert_eq!(count("state_key_previous = []"), 0);
        assert_eq!(count("state_key_previous = { env = \"KEY2\" }"), 1);
        assert_eq!(count("state_key_previous = [{ env = \"KEY2\" }, { env = \"KEY2\" }]"), 2);
        assert_eq!(read("state_key_previous = { env = \"KEY2\" }").warnings.problems().len(), 0);
        let warnings = read("state_key_previous = [{ env = \"KEY2\" }, { env = \"KEY\" }]").warnings;
        assert!(warnings.to_string().contains("holds the `state_key` itself"), "{warnings}");
        // A key in the configuration itself causes a warning that does not show it.
        let shown = read(&format!("state_key_previous = [\"{KEY2}\"]")).warnings.to_string();
        assert!(shown.contains("a secret stands in the configuration") && !shown.contains("OTg3"), "{shown}");
    }
}
