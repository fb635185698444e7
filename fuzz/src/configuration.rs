//! Any text as `proxy.toml`: read, checked, and shown with what is wrong with it.

use std::path::Path;

use bearerd::config::{Environment, parse};

const SECRET: &str = "correct-horse-battery-staple";

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let environment = Environment::from([("SECRET", SECRET)]);
    let shown = match parse(Path::new("proxy.toml"), text.to_owned(), &environment) {
        Ok(checked) => format!("{:?}{}", checked.config, checked.warnings),
        Err(diagnostics) => diagnostics.to_string(),
    };
    assert!(!shown.contains(SECRET) || text.contains(SECRET));
}
