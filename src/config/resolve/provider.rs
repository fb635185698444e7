//! `provider`: endpoints and defaults of known platforms, for keys that are not set.
//!
//! The endpoints are those of the vendors.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use http::header::{ACCEPT, HeaderName, HeaderValue};
use toml::Spanned;

use super::Resolver;
use super::region::{domains, one_of};
use crate::config::model::credential::{ApiQuota, HttpVersion};
use crate::config::model::pattern::Pattern;
use crate::config::source::choice::{Grant, Provider};
use crate::config::source::key::Key;
use crate::config::source::nearest::nearest_domain;
use crate::config::source::{schema, units};

/// Issuers of CXone: commercial, US government (`FedRAMP`), and sovereign.
pub(super) const CXONE_ISSUERS: [&str; 5] = [
    "https://cxone.niceincontact.com",
    "https://cxone-gov.niceincontact.com",
    "https://nicecxone-fed.com",
    "https://nicecxone-sov1.au",
    "https://nicecxone-sov1.eu",
];

/// Paths at which SDKs and applications log in on the API host: those of the vendor, and those of tutorials.
const GENESYS_LOGINS: &[&str] = &["/oauth/token", "/api/v2/oauth/token"];
const CXONE_LOGINS: &[&str] = &["/auth/token", "/oauth2/token", "/oauth2/v1/token", "/auth/oauth/token"];

/// Requests of the Genesys Cloud API that end tokens ("Delete auth token used to make the request", "Delete all auth
/// tokens for the specified user"), or that change OAuth clients.
///
/// A prefix is possible: Genesys Cloud's own applications use `/platform`. CXone has no such paths that are certain.
const GENESYS_PROTECTED: [&str; 5] = [
    "DELETE /**/api/v2/tokens/**",
    "POST /**/api/v2/oauth/clients",
    "PUT /**/api/v2/oauth/clients/**",
    "DELETE /**/api/v2/oauth/clients/**",
    "POST /**/api/v2/oauth/clients/*/secret",
];

/// Genesys Cloud allows a token 300 requests a minute.
const GENESYS_QUOTA: ApiQuota = ApiQuota {
    requests: const { NonZeroU32::new(300).unwrap() },
    per: Duration::from_mins(1),
    learn: true,
    wait: Duration::from_secs(2),
};

/// A CXone token lives for an hour.
const CXONE_REFRESH_MARGIN: Duration = Duration::from_mins(10);

/// Requests that no route with a credential of the provider forwards.
pub(super) fn protected(provider: Provider) -> Vec<Pattern> {
    let patterns: &[&str] = match provider {
        Provider::Genesys => &GENESYS_PROTECTED,
        Provider::Oauth2 | Provider::Cxone => &[],
    };
    patterns.iter().filter_map(|pattern| pattern.parse().ok()).collect()
}

/// Header fields that the API needs. CXone answers a request without `Accept` with "No known way to render data".
pub(super) fn set_if_absent(provider: Provider) -> Vec<(HeaderName, HeaderValue)> {
    match provider {
        Provider::Cxone => vec![(ACCEPT, HeaderValue::from_static("application/json"))],
        Provider::Oauth2 | Provider::Genesys => Vec::new(),
    }
}

/// The rate limit of the API for one token, where the vendor documents it.
pub(super) const fn api_quota(provider: Provider) -> Option<ApiQuota> {
    match provider {
        Provider::Genesys => Some(GENESYS_QUOTA),
        Provider::Oauth2 | Provider::Cxone => None,
    }
}

fn refuse_absent<T>(key: &mut Key<T>) {
    if key.is_absent() {
        *key = Key::Refused;
    }
}

impl Resolver<'_> {
    /// Sets the provider's defaults for keys of the credential that are absent. A key that has no default because of a
    /// refused or missing key becomes a refused one. Returns whether the provider is known.
    pub(super) fn fill_in(
        &mut self,
        name: &str,
        owner: &Range<usize>,
        file: &mut schema::Credential,
    ) -> bool {
        let Some(provider) = file.provider.known_or(Provider::Oauth2) else {
            self.regions.insert(name.to_owned(), None);
            for url in [&mut file.token_url, &mut file.issuer, &mut file.authorize_url] {
                refuse_absent(url);
            }
            refuse_absent(&mut file.grant);
            return false;
        };
        self.refuse_keys_of_others(file, provider);
        let place = file.provider.place().unwrap_or_else(|| owner.clone());
        let text = |text: String| Spanned::new(place.clone(), text);
        let logins = match provider {
            Provider::Oauth2 => &[],
            Provider::Genesys => GENESYS_LOGINS,
            Provider::Cxone => CXONE_LOGINS,
        };
        let paths = logins.iter().map(|path| Some(text((*path).to_owned())));
        file.login_stub.fill(Spanned::new(place.clone(), paths.collect()));
        match provider {
            Provider::Oauth2 => {}
            Provider::Genesys => {
                let region = file.region.usable().and_then(|region| self.region(region));
                if !file.region.is_absent() {
                    self.regions.insert(name.to_owned(), region);
                }
                if let (Some(region), Some(token_url)) = (region, file.token_url.usable()) {
                    self.compare_region(token_url, region);
                }
                if file.token_url.is_absent() {
                    self.required(&place, "region", &file.region, &one_of(&domains()));
                }
                let needs_region = !file.region.is_absent() || file.token_url.is_absent();
                let of_region =
                    |path| region.map(|region| text(format!("https://login.{region}/oauth/{path}")));
                let is_login =
                    file.grant.known_or(Grant::ClientCredentials) == Some(Grant::AuthorizationCode);
                if is_login && needs_region && file.authorize_url.is_absent() {
                    file.authorize_url = of_region("authorize").map_or(Key::Refused, Key::Written);
                }
                if file.token_url.is_absent() {
                    file.token_url = of_region("token").map_or(Key::Refused, Key::Written);
                }
            }
            Provider::Cxone => {
                let issuer = file.issuer.usable().and_then(|issuer| self.issuer_of_cxone(issuer));
                if file.token_url.is_absent() {
                    self.required(&place, "issuer", &file.issuer, &one_of(&CXONE_ISSUERS));
                }
                if issuer.is_none() && (!file.issuer.is_absent() || file.token_url.is_absent()) {
                    file.issuer = Key::Refused;
                }
                if file.token_url.is_absent() {
                    let url = issuer.map(|issuer| text(format!("{issuer}/auth/token")));
                    file.token_url = url.map_or(Key::Refused, Key::Written);
                }
                file.grant.fill(Spanned::new(place.clone(), Grant::Password));
                file.http_version.fill(Spanned::new(place.clone(), HttpVersion::Http1));
                let margin = units::Duration(CXONE_REFRESH_MARGIN);
                file.refresh_margin.fill(Spanned::new(place.clone(), margin));
            }
        }
        true
    }

    /// Refuses keys without effect: the key or the provider is a mistake.
    fn refuse_keys_of_others(&mut self, file: &schema::Credential, provider: Provider) {
        if let Some(region) = file.region.usable().filter(|_| provider != Provider::Genesys) {
            let help = "set provider = \"genesys\", or remove `region`";
            self.error(region.span(), "`region` is not used by this provider", help);
        }
        if let Some(issuer) = file.issuer.usable().filter(|_| provider == Provider::Genesys) {
            let help = "write `region` instead, or remove `issuer`";
            self.error(issuer.span(), "`issuer` is not used by this provider", help);
        }
    }

    /// The issuer without a slash at the end.
    fn issuer_of_cxone(&mut self, issuer: &Spanned<String>) -> Option<String> {
        let url = self.endpoint(issuer)?;
        if url.query().is_some() {
            return self.refuse(issuer.span(), "an issuer has no query", "remove the part from `?` on");
        }
        let issuer_url = url.as_str().trim_end_matches('/').to_owned();
        if !CXONE_ISSUERS.contains(&issuer_url.as_str()) {
            let help = match nearest_domain(&CXONE_ISSUERS, &issuer_url) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("the known issuers are: {}", CXONE_ISSUERS.join(", ")),
            };
            self.warning(issuer.span(), "not a known issuer of CXone", help);
        }
        Some(issuer_url)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::model::identity;
    use crate::config::{Checked, Credential, Diagnostics, Environment, parse};

    const GENESYS: &str = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";
    const CXONE: &str = "provider = \"cxone\"\nissuer = \"https://cxone.niceincontact.com\"\n";
    const KEY: &str = "username = \"key\"\npassword = { env = \"SECRET\" }\n";

    fn read(lines: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"SECRET\" }}\n{lines}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x")]))
    }

    fn credential(lines: &str) -> Credential {
        let checked = read(lines).unwrap_or_else(|problems| panic!("{problems}"));
        Credential::clone(&checked.config.credentials[0])
    }

    /// The title and the remedy of the only problem.
    fn problem(lines: &str) -> (String, String) {
        let problems = read(lines).map_or_else(|problems| *problems, |checked| checked.warnings);
        let [problem] = problems.problems() else { panic!("{problems}") };
        (problem.title.clone(), problem.help.clone().unwrap_or_default())
    }

    #[test]
    fn each_genesys_region_has_its_own_login_host() {
        for region in domains() {
            let credential = credential(&format!("provider = \"genesys\"\nregion = \"{region}\""));
            assert_eq!(credential.token_url.as_str(), format!("https://login.{region}/oauth/token"));
            assert!(matches!(credential.identity.grant, identity::Grant::ClientCredentials));
            assert_eq!(credential.login_stub, GENESYS_LOGINS);
            assert_eq!(credential.protected.len(), GENESYS_PROTECTED.len());
        }
    }

    #[test]
    fn each_cxone_issuer_has_its_token_endpoint_and_the_defaults_of_cxone() {
        for issuer in CXONE_ISSUERS {
            let credential = credential(&format!("provider = \"cxone\"\nissuer = \"{issuer}/\"\n{KEY}"));
            assert_eq!(credential.token_url.as_str(), format!("{issuer}/auth/token"));
            assert!(matches!(credential.identity.grant, identity::Grant::Password { .. }));
            assert_eq!(credential.http_version, HttpVersion::Http1);
            assert_eq!(credential.refresh_margin, CXONE_REFRESH_MARGIN);
            assert_eq!(credential.login_stub, CXONE_LOGINS);
            assert_eq!(credential.set_if_absent, [(ACCEPT, HeaderValue::from_static("application/json"))]);
        }
    }

    #[test]
    fn configured_keys_take_precedence_over_the_providers_defaults() {
        let own = credential(&format!(
            "{CXONE}grant = \"client_credentials\"\nhttp_version = \"auto\"\nrefresh_margin = \"1s\"\n\
             token_url = \"https://own.example.com/t\""
        ));
        assert_eq!(own.token_url.as_str(), "https://own.example.com/t");
        assert!(matches!(own.identity.grant, identity::Grant::ClientCredentials));
        assert_eq!((own.http_version, own.refresh_margin), (HttpVersion::Auto, Duration::from_secs(1)));

        let own = credential("provider = \"genesys\"\ntoken_url = \"https://own.example.com/t\"");
        assert_eq!(own.token_url.as_str(), "https://own.example.com/t");
        credential(&format!("provider = \"cxone\"\ntoken_url = \"https://own.example.com/t\"\n{KEY}"));
        assert_eq!(credential(GENESYS).refresh_margin, Duration::from_mins(5));
        assert!(credential(&format!("{GENESYS}\nlogin_stub = []")).login_stub.is_empty());
        assert_eq!(credential(&format!("{GENESYS}\nlogin_stub = [\"/own\"]")).login_stub, ["/own"]);
    }

    #[test]
    fn an_unknown_region_is_an_error_and_an_unknown_issuer_a_warning() {
        for (region, nearest) in [
            ("mypurecloud.dee", "mypurecloud.de"),
            ("api.mypurecloud.com.au", "mypurecloud.com.au"),
            ("euw3.pure.cloud", "euw2.pure.cloud"),
            ("https://login.usw2.pure.cloud", "usw2.pure.cloud"),
        ] {
            let (title, help) = problem(&format!("provider = \"genesys\"\nregion = \"{region}\""));
            assert_eq!(title, "not a known region of Genesys Cloud");
            assert!(help.contains(&format!("\"{nearest}\"")), "{region}: {help}");
        }
        let (_, help) = problem("provider = \"genesys\"\nregion = \"moon\"");
        assert!(help.contains("sae1.pure.cloud"), "{help}");

        let issuer = |issuer: &str| problem(&format!("provider = \"cxone\"\nissuer = \"{issuer}\"\n{KEY}"));
        let (title, help) = issuer("https://cxone.niceincontct.com");
        assert_eq!(title, "not a known issuer of CXone");
        assert!(help.contains("did you mean \"https://cxone.niceincontact.com\""), "{help}");
        assert!(issuer("https://other.example.com").1.contains("nicecxone-sov1.eu"));
        assert!(issuer("http://other.example.com").0.contains("plain http://"));
    }

    #[test]
    fn a_missing_or_unused_region_or_issuer_is_reported_once() {
        assert_eq!(problem("provider = \"genesys\"").0, "`region` is missing");
        assert_eq!(problem(&format!("provider = \"cxone\"\n{KEY}")).0, "`issuer` is missing");
        let with_url = "token_url = \"https://own.example.com/t\"\n";
        let other = problem(&format!("{with_url}region = \"mypurecloud.de\""));
        assert_eq!(other.0, "`region` is not used by this provider");
        let other = problem(&format!("{GENESYS}\nissuer = \"https://x.example.com\""));
        assert_eq!(other.0, "`issuer` is not used by this provider");
    }
}
