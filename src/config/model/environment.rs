//! The environment variables of the process, read once at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// A snapshot of environment variables.
#[derive(Clone)]
pub struct Environment {
    texts: BTreeMap<String, String>,
    /// The names of the variables whose value is not UTF-8.
    not_text: BTreeSet<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let variables = std::env::vars_os();
        Self::of(variables)
    }

    fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self { texts: BTreeMap::new(), not_text: BTreeSet::new() };
        for (name, value) in variables {
            // No variable that bearerd reads has such a name.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => _ = environment.texts.insert(name, value),
                Err(_) => _ = environment.not_text.insert(name),
            }
        }
        environment
    }

    /// The value of one variable; `None` if the variable is not set, or is not text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// All variables that are text, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether the variable is set to a value that is not UTF-8.
    pub fn is_not_text(&self, name: &str) -> bool {
        self.not_text.contains(name)
    }

    /// The names of the variables whose value is not UTF-8.
    pub fn not_text(&self) -> impl Iterator<Item = &str> {
        self.not_text.iter().map(String::as_str)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::of(variables.into_iter().map(|(name, value)| (name.into(), value.into())))
    }
}

/// Shows names only: values may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.texts.keys()).entries(&self.not_text).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_that_is_not_text_is_known_by_its_name() {
        let variables = [("A", &b"hunter2"[..]), ("B", b"hunter2\xff")]
            .map(|(name, value)| (name.into(), OsString::from_vec(value.to_owned())));

        let environment = Environment::of(variables.into_iter());

        assert_eq!((environment.get("A"), environment.get("B")), (Some("hunter2"), None));
        assert!(environment.is_not_text("B") && !environment.is_not_text("A"));
        assert_eq!(format!("{environment:?}"), "{\"A\", \"B\"}");
    }
}
