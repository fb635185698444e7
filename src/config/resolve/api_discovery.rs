//! `upstream = "discover"`: the credential's issuer names the address of the API.

use std::ops::Range;

use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::credential::Credential;
use crate::config::source::choice::Provider;

/// The value of `upstream` for a discovered address.
pub(super) const DISCOVER: &str = "discover";

/// The issuer, for a provider whose issuers name the addresses of APIs. A wrong issuer has been reported.
pub(super) fn issuer(provider: Provider, issuer: Option<&Spanned<String>>) -> Option<Url> {
    Url::parse(issuer.filter(|_| provider == Provider::Cxone)?.get_ref()).ok()
}

impl Resolver<'_> {
    /// Refuses `upstream = "discover"` without an issuer that names the address.
    pub(super) fn discovered(&mut self, place: Range<usize>, credential: Option<&Credential>) {
        let (title, help) = match credential {
            Some(credential) if credential.discovery.is_some() => return,
            Some(_) => (
                "the address of the API cannot be discovered with this credential",
                "write the address of the API; discovery needs a credential with provider = \"cxone\" and `issuer`, \
                 and upstream = \"region\" one with provider = \"genesys\" and `region`",
            ),
            None => (
                "the address of the API cannot be discovered without a credential",
                "write the address of the API, or a `credential` with provider = \"cxone\" and `issuer`",
            ),
        };
        self.error(place, title, help);
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
    fn an_issuer_of_cxone_discovers_the_api_with_any_token_url() {
        for token_url in ["", "token_url = \"https://na1.nice-incontact.com/t\"\n"] {
            let config = read(&format!("{CXONE}{token_url}"), "credential = \"c\"").unwrap().config;
            assert_eq!(config.routes[0].upstream.destination, Destination::Discovered);
            let issuer = config.credentials[0].discovery.as_ref().unwrap();
            assert_eq!(issuer.as_str(), "https://cxone.niceincontact.com/");
        }
    }

    #[test]
    fn without_an_issuer_of_cxone_the_address_must_be_written() {
        let url = "token_url = \"https://as.example.com/t\"\n";
        let without_issuer = format!("provider = \"cxone\"\ngrant = \"client_credentials\"\n{url}");
        let genesys = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";
        for (credential, name, title) in [
            (url, "c", "the address of the API cannot be discovered with this credential"),
            (&without_issuer, "c", "the address of the API cannot be discovered with this credential"),
            (genesys, "c", "the address of the API cannot be discovered with this credential"),
            (CXONE, "none", "the address of the API cannot be discovered without a credential"),
        ] {
            let problems = read(credential, &format!("credential = \"{name}\"")).unwrap_err();
            assert!(problems.errors() == 1 && problems.to_string().contains(title), "{problems}");
            assert!(problems.to_string().contains("write the address of the API"), "{problems}");
        }
    }
}
