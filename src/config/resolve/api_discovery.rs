//! `upstream = "discover"`: whether there is an issuer that can be asked where the API is.

use std::ops::Range;

use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::credential::Credential;
use crate::config::source::diagnostics::Problem;
use crate::config::source::schema::Provider;

/// What is written in the place of an upstream's address.
pub(super) const DISCOVER: &str = "discover";

/// The issuer, of a provider whose issuers say where APIs are. What is wrong with it has been reported.
pub(super) fn issuer(provider: Option<&Spanned<Provider>>, issuer: Option<&Spanned<String>>) -> Option<Url> {
    provider.filter(|provider| *provider.get_ref() == Provider::Cxone)?;
    Url::parse(issuer?.get_ref()).ok()
}

impl Resolver<'_> {
    /// Refuses to discover where nobody can be asked.
    pub(super) fn discovered(&mut self, place: Range<usize>, credential: Option<&Credential>) {
        let (title, help) = match credential {
            Some(credential) if credential.discovery.is_some() => return,
            Some(_) => (
                "nobody can be asked where the API of this credential is",
                "write the API's address; for NICE CXone the credential has provider = \"cxone\" and `issuer`",
            ),
            None => (
                "a route without a credential has nobody to ask where its API is",
                "write the API's address, or set `credential` to one with provider = \"cxone\" and `issuer`",
            ),
        };
        self.problems.push(Problem::error(place, title).help(help));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Destination, Diagnostics, Environment, parse};

    fn read(credential: &str, route: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"SECRET\" }}\n{credential}\n\
             [[routes]]\nupstream = \"discover\"\n{route}\n"
        );
        parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x")]))
    }

    const CXONE: &str = "provider = \"cxone\"\nissuer = \"https://cxone.niceincontact.com/\"\n\
                         grant = \"client_credentials\"\n";

    #[test]
    fn an_issuer_of_cxone_can_be_asked_whatever_the_token_url_is() {
        for token_url in ["", "token_url = \"https://na1.nice-incontact.com/t\"\n"] {
            let config = read(&format!("{CXONE}{token_url}"), "credential = \"c\"").unwrap().config;
            assert_eq!(config.routes[0].upstream.destination, Destination::Discovered);
            let issuer = config.credentials[0].discovery.as_ref().unwrap();
            assert_eq!(issuer.as_str(), "https://cxone.niceincontact.com/");
        }
    }

    #[test]
    fn where_nobody_can_be_asked_the_address_must_be_written() {
        let url = "token_url = \"https://as.example.com/t\"\n";
        let without_issuer = format!("provider = \"cxone\"\ngrant = \"client_credentials\"\n{url}");
        let genesys = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";
        for (credential, name, title) in [
            (url, "c", "nobody can be asked where the API of this credential is"),
            (&without_issuer, "c", "nobody can be asked where the API of this credential is"),
            (genesys, "c", "nobody can be asked where the API of this credential is"),
            (CXONE, "none", "a route without a credential has nobody to ask"),
        ] {
            let problems = read(credential, &format!("credential = \"{name}\"")).unwrap_err();
            assert!(problems.errors() == 1 && problems.to_string().contains(title), "{problems}");
            assert!(problems.to_string().contains("write the API's address"), "{problems}");
        }
    }
}
