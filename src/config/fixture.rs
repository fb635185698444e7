//! A small configuration for the tests of those who need one: a credential `c` and a route to it.

use std::path::Path;

use super::{Config, Environment, parse};

/// With these sections in front and these keys of the credential, whose `client_id` is "id" and whose secret is
/// `secret` unless they say otherwise.
pub(crate) fn config(sections: &str, credential: &str, secret: &str) -> Config {
    let unless_given = |key: &str, line| if credential.contains(key) { "" } else { line };
    let client_id = unless_given("client_id =", "client_id = \"id\"");
    let client_secret = unless_given("client_secret =", "client_secret = { env = \"S\" }");
    let text = format!(
        "{sections}\n[credentials.c]\ntoken_url = \"https://as.example.com/t\"\n{client_id}\n\
         {client_secret}\n{credential}\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\""
    );
    parse(Path::new("proxy.toml"), text, &Environment::from([("S", secret)])).unwrap().config
}
