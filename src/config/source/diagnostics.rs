//! Problems of a configuration, and their output.
//!
//! All problems are shown together, each with its place in the file (or the environment variable that overrides the
//! file), a caret and a remedy. Quoted lines are masked: they may hold secrets.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::mask::mask;
pub use super::problem::{Place, Problem, Severity, Sources};

/// The problems of a configuration, with the texts that their places point into.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    sources: Sources,
    problems: Vec<Problem>,
}

impl Diagnostics {
    /// Sorts the problems, errors and warnings, by place.
    pub fn new(sources: Sources, problems: Vec<Problem>) -> Self {
        let mut diagnostics = Self { sources, problems: Vec::new() };
        diagnostics.add(problems);
        diagnostics
    }

    /// Adds further problems.
    pub fn add(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
        let start = |problem: &Problem| problem.place.as_ref().map_or(usize::MAX, |place| place.start);
        self.problems.sort_by_key(start);
    }

    /// The problem of an unreadable file.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let mut problem = Problem::error(None, format!("cannot read {}: {error}", path.display()));
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "name another file with -c FILE or $BEARERD_CONFIG; without them, bearerd reads ./proxy.toml or \
                 /etc/bearerd/proxy.toml"
            }
            std::io::ErrorKind::InvalidData => "save the file as UTF-8: editors on Windows may write UTF-16",
            std::io::ErrorKind::FileTooLarge => "set the path of a configuration: it has at most 1 MiB",
            std::io::ErrorKind::TimedOut => "close the pipe after the last line of the configuration",
            _ => "",
        };
        if !help.is_empty() {
            problem = problem.help(help);
        }
        Self::new(Sources::new(path, String::new()), vec![problem])
    }

    /// The problems, sorted by place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// The number of warnings.
    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }

    /// The place of a problem: file and line, or the name of the environment variable.
    pub fn place_of(&self, problem: &Problem) -> Option<String> {
        let place = problem.place.as_ref()?;
        Some(match self.sources.override_at(place) {
            Some(found) => found.variable.clone(),
            None => {
                let text = self.sources.text();
                let before = text.get(..place.start).unwrap_or(text);
                let line = 1 + before.matches('\n').count();
                format!("{}:{line}", self.sources.path().display())
            }
        })
    }

    /// All problems as text, with colour for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let path = self.sources.path().display().to_string();
        let masked = mask(self.sources.text());
        let problems = self.problems.iter();
        problems.map(|problem| renderer.render(&[self.group(problem, &path, &masked)]) + "\n\n").collect()
    }

    fn group<'a>(&'a self, problem: &'a Problem, path: &'a str, masked: &'a str) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(problem.title.as_str()));
        if let Some(place) = &problem.place {
            let (path, text, span) = match self.sources.override_at(place) {
                None => (path, masked, within(place.clone(), masked)),
                // Shows the variable's name: the value may be a secret.
                Some(found) => ("environment", found.variable.as_str(), 0..found.variable.len()),
            };
            let snippet = Snippet::source(text).path(path);
            let other = problem.other.clone().filter(|other| self.sources.override_at(other).is_none());
            let other = other.map(|other| AnnotationKind::Context.span(within(other, masked)));
            group = group.element(snippet.annotation(AnnotationKind::Primary.span(span)).annotations(other));
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

/// Limits a place to the text, and to character boundaries.
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
    fn a_problem_is_shown_with_its_line_a_caret_and_a_remedy() {
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
