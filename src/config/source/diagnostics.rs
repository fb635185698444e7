//! Problems of a configuration, and how a person sees them.
//!
//! All problems are collected before any is shown, each with its place in the file (or in the environment
//! variable that overrides it), a caret and the way to mend it. Text that may be a secret is masked before a
//! line of the file is quoted.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::mask::mask;

/// Whether a configuration can be used in spite of the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but should be looked at.
    Warning,
}

/// One problem: what is wrong, where, and what would mend it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub title: String,
    /// Where: bytes of the [`Sources`]; `None` for the file as a whole.
    pub place: Option<Range<usize>>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem that forbids using the configuration.
    pub fn error(place: impl Into<Option<Range<usize>>>, title: impl Into<String>) -> Self {
        Self { severity: Severity::Error, title: title.into(), place: place.into(), help: None }
    }

    /// A problem to look at.
    pub fn warning(place: impl Into<Option<Range<usize>>>, title: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, title) }
    }

    /// Says what would mend it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// The texts that problems point into: the file, and the environment variables that override it.
///
/// Their bytes are numbered in one row: the file's first, then each variable's.
#[derive(Clone)]
pub struct Sources {
    path: PathBuf,
    text: String,
    overrides: Vec<Override>,
}

#[derive(Clone)]
struct Override {
    start: usize,
    variable: String,
    value: String,
}

impl Sources {
    /// A file's text, known by its path.
    pub fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text, overrides: Vec::new() }
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds an environment variable; answers the bytes that its value is.
    pub fn add_override(&mut self, variable: &str, value: &str) -> Range<usize> {
        // One byte between two texts, so that an empty one has a place of its own too.
        let start = 1 + self.overrides.last().map_or(self.text.len(), |last| last.start + last.value.len());
        self.overrides.push(Override { start, variable: variable.to_owned(), value: value.to_owned() });
        start..start + value.len()
    }

    /// Whether a place is in the environment and not in the file.
    pub fn is_override(&self, place: &Range<usize>) -> bool {
        self.override_at(place).is_some()
    }

    /// The value of the environment variable at this place.
    pub fn override_text(&self, place: &Range<usize>) -> Option<&str> {
        self.override_at(place).map(|found| found.value.as_str())
    }

    fn override_at(&self, place: &Range<usize>) -> Option<&Override> {
        self.overrides.iter().rfind(|one| one.start <= place.start)
    }
}

/// Without the texts, which may hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&str> = self.overrides.iter().map(|one| one.variable.as_str()).collect();
        f.debug_struct("Sources")
            .field("path", &self.path)
            .field("bytes", &self.text.len())
            .field("overrides", &variables)
            .finish()
    }
}

/// All problems of a configuration with the texts they point into.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    sources: Sources,
    problems: Vec<Problem>,
}

impl Diagnostics {
    /// Sorts the problems by place, errors and warnings mixed as they stand in the file.
    pub fn new(sources: Sources, problems: Vec<Problem>) -> Self {
        let mut diagnostics = Self { sources, problems: Vec::new() };
        diagnostics.add(problems);
        diagnostics
    }

    /// Adds problems that were found later.
    pub fn add(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
        let start = |problem: &Problem| problem.place.as_ref().map_or(usize::MAX, |place| place.start);
        self.problems.sort_by_key(start);
    }

    /// A file that could not even be read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let mut problem = Problem::error(None, format!("cannot read {}: {error}", path.display()));
        if error.kind() == std::io::ErrorKind::NotFound {
            problem = problem.help(
                "name the file by -c FILE or $BEARERD_CONFIG; else it is ./proxy.toml or /etc/bearerd/proxy.toml",
            );
        }
        Self::new(Sources::new(path, String::new()), vec![problem])
    }

    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems forbid using the configuration.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// How many only want a look.
    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }

    /// Where a problem is, in a word: the line of the file, or the environment variable.
    pub fn place_of(&self, problem: &Problem) -> Option<String> {
        let place = problem.place.as_ref()?;
        Some(match self.sources.override_at(place) {
            Some(found) => found.variable.clone(),
            None => {
                let text = &self.sources.text;
                let before = text.get(..place.start).unwrap_or(text);
                let line = 1 + before.matches('\n').count();
                format!("{}:{line}", self.sources.path.display())
            }
        })
    }

    /// All problems as text for a terminal, or without colour for a log.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let path = self.sources.path.display().to_string();
        let masked = mask(&self.sources.text);
        let groups = self.problems.iter().map(|problem| self.group(problem, &path, &masked));
        let mut text = String::new();
        for group in groups {
            text.push_str(&renderer.render(&[group]));
            text.push_str("\n\n");
        }
        text
    }

    fn group<'a>(&'a self, problem: &'a Problem, path: &'a str, masked: &'a str) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(problem.title.as_str()));
        if let Some(place) = &problem.place {
            group = match self.sources.override_at(place) {
                None => group.element(
                    Snippet::source(masked)
                        .path(path)
                        .annotation(AnnotationKind::Primary.span(within(place.clone(), masked))),
                ),
                // The value may be a secret: the variable's name is the place.
                Some(found) => group.element(
                    Snippet::source(found.variable.as_str())
                        .path("environment")
                        .annotation(AnnotationKind::Primary.span(0..found.variable.len())),
                ),
            };
        }
        match &problem.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Keeps a span inside the text and on character boundaries.
fn within(place: Range<usize>, text: &str) -> Range<usize> {
    let mut start = place.start.min(text.len());
    let mut end = place.end.clamp(start, text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_line_a_caret_and_the_way_to_mend_it() {
        let text = "[server]\nlisten = \"127.0.0.1:8080\"\nreplay_bdoy = \"1MiB\"\n".to_owned();
        let place = text.find("replay_bdoy").map(|start| start..start + 11).unwrap();
        let problem = Problem::error(place, "unknown key `replay_bdoy`").help("did you mean `replay_body`?");

        let shown = Diagnostics::new(Sources::new(Path::new("proxy.toml"), text), vec![problem]).to_string();

        assert!(shown.contains("error: unknown key `replay_bdoy`"), "{shown}");
        assert!(shown.contains("proxy.toml:3:1"), "{shown}");
        assert!(shown.contains("^^^^^^^^^^^"), "{shown}");
        assert!(shown.contains("help: did you mean `replay_body`?"), "{shown}");
    }

    #[test]
    fn a_problem_in_an_override_names_the_variable_and_not_its_value() {
        let mut sources = Sources::new(Path::new("proxy.toml"), "[server]\n".into());
        sources.add_override("BEARERD_SERVER__DRAIN", "20s");
        let place = sources.add_override("BEARERD_CREDENTIALS__A__CLIENT_SECRET", "hunter2");

        let shown = Diagnostics::new(sources, vec![Problem::error(place, "too short")]).to_string();

        assert!(shown.contains("BEARERD_CREDENTIALS__A__CLIENT_SECRET"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_place_is_a_line_of_the_file_or_a_variable() {
        let mut sources = Sources::new(Path::new("proxy.toml"), "[server]\ndrain = 1\n".into());
        let variable = sources.add_override("BEARERD_SERVER__DRAIN", "20s");
        let problems = [Some(9..14), Some(variable), None].map(|place| Problem::warning(place, "odd"));
        let diagnostics = Diagnostics::new(sources, problems.to_vec());

        let places: Vec<_> =
            diagnostics.problems().iter().map(|problem| diagnostics.place_of(problem)).collect();

        let expected = ["proxy.toml:2", "BEARERD_SERVER__DRAIN"].map(|place| Some(place.to_owned()));
        assert_eq!(places[..2], expected);
        assert_eq!(places[2], None);
    }
}
