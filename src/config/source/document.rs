//! The text of `proxy.toml` with the overrides of the environment, read as a [`File`].

use toml::de::DeTable;

use super::diagnostics::Diagnostics;
use super::overrides;
use super::problem::{Problem, Sources};
use super::reader::{Reader, Table};
use super::schema::File;
use super::section::unknown_key;
use crate::config::model::environment::Environment;

/// A configuration as it is written, and the problems of what cannot be read.
#[derive(Debug)]
pub(in crate::config) struct Document {
    /// The file.
    pub(in crate::config) file: File,
    /// The texts that places point into.
    pub(in crate::config) sources: Sources,
    /// The problems.
    pub(in crate::config) problems: Vec<Problem>,
}

impl Document {
    /// Parses the text, applies the environment's overrides, and reads each key. Returns the problems of a text that is
    /// not TOML.
    pub(in crate::config) fn read(
        mut sources: Sources,
        environment: &Environment,
    ) -> Result<Self, Box<Diagnostics>> {
        let text = sources.text().to_owned();
        let (root, errors) = DeTable::parse_recoverable(&text);
        // Of a text that is not TOML, a key or a value could be a part of a secret: nothing of it is named.
        let mut problems: Vec<Problem> = errors
            .iter()
            .map(|error| Problem::error(error.span(), format!("not TOML: {}", error.message())))
            .collect();
        if !problems.is_empty() {
            return Err(Box::new(Diagnostics::new(sources, problems)));
        }
        let mut root = root.into_inner();
        overrides::apply(&mut root, &mut sources, environment, &mut problems);
        let mut reader = Reader::new(&sources, problems);
        let file = File::from_table(&root, "", &mut reader);
        let Reader { mut problems, unknown, .. } = reader;
        problems.extend(unknown.into_iter().map(unknown_key));
        Ok(Self { file, sources, problems })
    }
}
