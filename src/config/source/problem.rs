//! A problem of a configuration, and the texts that its place points into.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used.
    Warning,
}

/// A place in bytes of the [`Sources`]; `None` for the file as a whole.
pub type Place = Option<Range<usize>>;

/// A problem with its place and its remedy.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The severity.
    pub severity: Severity,
    /// The problem, in one line.
    pub title: String,
    /// The place.
    pub place: Place,
    /// A second place, such as that of the first of two equal names.
    pub other: Place,
    /// The remedy.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with which the configuration cannot be used.
    pub fn error(place: impl Into<Place>, title: impl Into<String>) -> Self {
        Self { severity: Severity::Error, title: title.into(), place: place.into(), other: None, help: None }
    }

    /// A problem with which the configuration can be used.
    pub fn warning(place: impl Into<Place>, title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, title) }
    }

    /// Adds a second place.
    #[must_use]
    pub fn and_at(self, other: impl Into<Place>) -> Self {
        Self { other: other.into(), ..self }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// The texts that places point into: the file, and the environment variables that override keys.
///
/// Places count the bytes of the file first, then those of each variable.
#[derive(Clone)]
pub struct Sources {
    path: PathBuf,
    text: String,
    overrides: Vec<Override>,
}

/// An environment variable that overrides a key.
#[derive(Clone)]
pub(super) struct Override {
    start: usize,
    /// Its name.
    pub(super) variable: String,
    value: String,
}

impl Sources {
    /// The text of the file at `path`.
    pub fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text, overrides: Vec::new() }
    }

    /// The file's path.
    pub(in crate::config) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds an environment variable. Returns the place of its value.
    pub fn add_override(&mut self, variable: &str, value: &str) -> Range<usize> {
        // A byte between two texts gives an empty text a place of its own.
        let start = 1 + self.overrides.last().map_or(self.text.len(), |last| last.start + last.value.len());
        self.overrides.push(Override { start, variable: variable.to_owned(), value: value.to_owned() });
        start..start + value.len()
    }

    /// The name of the environment variable at this place.
    pub(in crate::config) fn variable_at(&self, place: &Range<usize>) -> Option<&str> {
        self.override_at(place).map(|found| found.variable.as_str())
    }

    /// The environment variable at this place.
    pub(super) fn override_at(&self, place: &Range<usize>) -> Option<&Override> {
        self.overrides.iter().rfind(|one| one.start <= place.start)
    }

    /// The text of the environment variable whose whole value is at this place.
    pub(in crate::config) fn whole_override(&self, place: &Range<usize>) -> Option<&str> {
        let found = self.override_at(place).map(|found| (found.start, found.value.as_str()));
        found.filter(|(start, value)| *place == (*start..start + value.len())).map(|(_, value)| value)
    }
}

/// Without the texts: they may hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("path", &self.path).finish_non_exhaustive()
    }
}
