//! A small configuration for the tests of those who need one: a credential `c` and a route to it.

use std::path::Path;

use super::{Config, Environment, parse};

/// With these sections in front and these keys of the credential; a `client_id` there replaces "id".
pub(crate) fn config(sections: &str, credential: &str, secret: &str) -> Config {
    let client_id = if credential.contains("client_id") { "" } else { "client_id = \"id\"" };
    let text = format!(
        "{sections}\n[credentials.c]\ntoken_url = \"https://as.example.com/t\"\n{client_id}\n\
         client_secret = {{ env = \"S\" }}\n{credential}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\""
    );
    parse(Path::new("proxy.toml"), text, &Environment::from([("S", secret)])).unwrap().config
}
