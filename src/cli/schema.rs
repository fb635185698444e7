//! `bearerd schema`: prints the JSON Schema of the configuration.

use super::exit_code::OK;
use super::output;
use crate::config::source::json_schema;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Editors such as VS Code with Even Better TOML check and complete a configuration that names the schema in its first line:

  #:schema ./proxy.schema.json";

/// Prints the schema.
pub(super) fn schema() -> u8 {
    output::line(format_args!("{:#}", json_schema::schema()));
    OK
}
