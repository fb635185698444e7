//! The fuzz targets: what each does with an input, and what must hold then.
//!
//! `just fuzz` has libFuzzer look for inputs; `cargo test` includes this file and runs the corpora.

pub mod answer_head;
pub mod api_endpoint;
pub mod configuration;
pub mod forwarded;
pub mod guard;
pub mod json_links;
pub mod jwt;
pub mod location;
pub mod member_path;
pub mod metadata;
pub mod quoted;
pub mod route;
pub mod rules;
pub mod state_file;
pub mod token_answer;

use std::path::Path;

use bearerd::config::{Checked, Environment, parse};
use bearerd::proxy::route::guard::Policy;

/// A target by its name, which its corpus has too.
pub type Target = (&'static str, fn(&[u8]));

pub const ALL: [Target; 15] = [
    ("answer_head", answer_head::run),
    ("api_endpoint", api_endpoint::run),
    ("configuration", configuration::run),
    ("forwarded", forwarded::run),
    ("guard", guard::run),
    ("json_links", json_links::run),
    ("jwt", jwt::run),
    ("location", location::run),
    ("member_path", member_path::run),
    ("metadata", metadata::run),
    ("quoted", quoted::run),
    ("route", route::run),
    ("rules", rules::run),
    ("state_file", state_file::run),
    ("token_answer", token_answer::run),
];

/// A good configuration.
fn checked(text: &str) -> Checked {
    let checked = parse(Path::new("proxy.toml"), text.to_owned(), &Environment::from([]));
    checked.expect("a good configuration")
}

/// The guard's, with these lines of `[server]`.
fn policy(server: &str) -> Policy {
    let text = format!(
        "[server]\n{server}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n"
    );
    Policy::new(&checked(&text).config.server, "bearerd-1")
}
