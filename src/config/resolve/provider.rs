//! `provider`: what is known of a platform, put where the file says nothing else.
//!
//! The endpoints are those that the vendors run. A key that is written wins over what is known.

use std::ops::Range;
use std::time::Duration;

use http::header::{ACCEPT, HeaderName, HeaderValue};
use toml::Spanned;

use super::Resolver;
use crate::config::model::http_version::HttpVersion;
use crate::config::model::pattern::Pattern;
use crate::config::source::diagnostics::Problem;
use crate::config::source::schema;
use crate::config::source::schema::{Grant, Provider};
use crate::config::source::units;

/// Genesys Cloud's regions, by the domain of their login and API hosts.
pub(super) const GENESYS_REGIONS: [&str; 18] = [
    "mypurecloud.com",
    "use2.us-gov-pure.cloud",
    "usw2.pure.cloud",
    "cac1.pure.cloud",
    "sae1.pure.cloud",
    "mxc1.pure.cloud",
    "mypurecloud.ie",
    "euw2.pure.cloud",
    "mypurecloud.de",
    "euc2.pure.cloud",
    "edee1.eusc-pure.cloud",
    "mec1.pure.cloud",
    "aps1.pure.cloud",
    "mypurecloud.jp",
    "apne2.pure.cloud",
    "apne3.pure.cloud",
    "apse1.pure.cloud",
    "mypurecloud.com.au",
];

/// Issuers of CXone: commercial, of the government (`FedRAMP`), and the sovereign ones.
const CXONE_ISSUERS: [&str; 5] = [
    "https://cxone.niceincontact.com",
    "https://cxone-gov.niceincontact.com",
    "https://nicecxone-fed.com",
    "https://nicecxone-sov1.au",
    "https://nicecxone-sov1.eu",
];

/// Where SDKs and applications log in on the host that serves the API: as the vendor has it, and as tutorials do.
const GENESYS_LOGINS: &[&str] = &["/oauth/token", "/api/v2/oauth/token"];
const CXONE_LOGINS: &[&str] = &["/auth/token", "/oauth2/token", "/oauth2/v1/token", "/auth/oauth/token"];

/// What in Genesys Cloud's API ends a token ("Delete auth token used to make the request", "Delete all auth tokens for
/// the specified user"), or takes the OAuth client away from us, or makes another that works without us. Behind
/// whatever comes before: its own applications have `/platform` there. CXone has no such paths on its API's hosts
/// that are certain.
const GENESYS_PROTECTED: [&str; 5] = [
    "DELETE /**/api/v2/tokens/**",
    "POST /**/api/v2/oauth/clients",
    "PUT /**/api/v2/oauth/clients/**",
    "DELETE /**/api/v2/oauth/clients/**",
    "POST /**/api/v2/oauth/clients/*/secret",
];

/// A CXone token lives for an hour.
const CXONE_MARGIN: Duration = Duration::from_mins(10);

/// What no route of such a credential lets through, as the upstream would see it.
pub(super) fn protected(provider: Provider) -> Vec<Pattern> {
    let patterns: &[&str] = match provider {
        Provider::Genesys => &GENESYS_PROTECTED,
        Provider::Oauth2 | Provider::Cxone => &[],
    };
    patterns.iter().filter_map(|pattern| pattern.parse().ok()).collect()
}

/// Fields that the API wants. CXone answers a request without `Accept` with "No known way to render data".
pub(super) fn set_if_absent(provider: Provider) -> Vec<(HeaderName, HeaderValue)> {
    match provider {
        Provider::Cxone => vec![(ACCEPT, HeaderValue::from_static("application/json"))],
        Provider::Oauth2 | Provider::Genesys => Vec::new(),
    }
}

impl Resolver<'_> {
    /// Puts what the credential's provider is known for into the keys that are not written.
    pub(super) fn fill_in(&mut self, name: &str, place: &Range<usize>, file: &mut schema::Credential) {
        let path = |key: &str| format!("credentials.{name}.{key}");
        if self.unusable.contains(&path("provider")) {
            return;
        }
        let provider = file.provider.as_ref().map_or(Provider::Oauth2, |provider| *provider.get_ref());
        let known_at = file.provider.as_ref().map_or_else(|| place.clone(), Spanned::span);
        self.refuse_keys_of_others(file, provider);
        let logins = match provider {
            Provider::Oauth2 => &[],
            Provider::Genesys => GENESYS_LOGINS,
            Provider::Cxone => CXONE_LOGINS,
        };
        file.login_stub.get_or_insert_with(|| {
            let paths = logins.iter().map(|path| Spanned::new(known_at.clone(), (*path).to_owned()));
            Spanned::new(known_at.clone(), paths.collect())
        });
        match provider {
            Provider::Oauth2 => {}
            Provider::Genesys => {
                let region = file.region.as_ref().and_then(|region| self.region(region));
                let is_login =
                    file.grant.as_ref().is_some_and(|one| *one.get_ref() == Grant::AuthorizationCode);
                if let Some(region) = region.filter(|_| is_login) {
                    let url = format!("https://login.{region}/oauth/authorize");
                    file.authorize_url.get_or_insert_with(|| Spanned::new(known_at.clone(), url));
                }
                if file.token_url.is_none() {
                    if file.region.is_none() {
                        let help = format!("one of: {}", GENESYS_REGIONS.join(", "));
                        self.missing(&path("region"), &known_at, &help);
                    }
                    // What is missing now has been reported.
                    self.unusable.insert(path("token_url"));
                    let url = |region| format!("https://login.{region}/oauth/token");
                    file.token_url = region.map(|region| Spanned::new(known_at, url(region)));
                }
            }
            Provider::Cxone => {
                let issuer = file.issuer.as_ref().and_then(|issuer| self.issuer_of_cxone(issuer));
                if file.token_url.is_none() {
                    if file.issuer.is_none() {
                        let help = format!("one of: {}", CXONE_ISSUERS.join(", "));
                        self.missing(&path("issuer"), &known_at, &help);
                    }
                    self.unusable.insert(path("token_url"));
                    let url = |issuer| format!("{issuer}/auth/token");
                    file.token_url = issuer.map(|issuer| Spanned::new(known_at.clone(), url(issuer)));
                }
                let known = |value| Spanned::new(known_at.clone(), value);
                if !self.unusable.contains(&path("grant")) {
                    file.grant.get_or_insert_with(|| known(Grant::Password));
                }
                file.http_version.get_or_insert_with(|| Spanned::new(known_at.clone(), HttpVersion::Http1));
                let margin = units::Duration(CXONE_MARGIN);
                file.refresh_margin.get_or_insert_with(|| Spanned::new(known_at.clone(), margin));
            }
        }
    }

    /// A key that nothing would act on is a slip.
    fn refuse_keys_of_others(&mut self, file: &schema::Credential, provider: Provider) {
        if let Some(region) = file.region.as_ref().filter(|_| provider != Provider::Genesys) {
            self.problems.push(
                Problem::error(region.span(), "`region` is not used by this provider")
                    .help("set provider = \"genesys\", or take it out"),
            );
        }
        let Some(issuer) = &file.issuer else { return };
        if provider == Provider::Genesys {
            self.problems.push(
                Problem::error(issuer.span(), "`issuer` is not used by this provider")
                    .help("write `region`, or take it out"),
            );
        }
    }

    fn region(&mut self, region: &Spanned<String>) -> Option<&'static str> {
        let written = region.get_ref().to_ascii_lowercase();
        let known = GENESYS_REGIONS.into_iter().find(|known| *known == written);
        if known.is_none() {
            let help = match nearest(&written, &GENESYS_REGIONS) {
                Some(known) => {
                    format!("did you mean \"{known}\"? a region that is new has `token_url` instead")
                }
                None => format!("one of: {}", GENESYS_REGIONS.join(", ")),
            };
            self.problems.push(
                Problem::error(region.span(), "not a region of Genesys Cloud that is known").help(help),
            );
        }
        known
    }

    /// An issuer without a slash at its end.
    fn issuer_of_cxone(&mut self, issuer: &Spanned<String>) -> Option<String> {
        let url = self.endpoint(issuer)?;
        if url.query().is_some() {
            self.problems.push(Problem::error(issuer.span(), "an issuer has no query"));
            return None;
        }
        let issuer_url = url.as_str().trim_end_matches('/').to_owned();
        if !CXONE_ISSUERS.contains(&issuer_url.as_str()) {
            let help = match nearest(&issuer_url, &CXONE_ISSUERS) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None => format!("known are: {}", CXONE_ISSUERS.join(", ")),
            };
            self.problems
                .push(Problem::warning(issuer.span(), "not an issuer of CXone that is known").help(help));
        }
        Some(issuer_url)
    }
}

/// What is a typing error away; the host of an API or a login page has the region in it.
fn nearest(written: &str, known: &[&'static str]) -> Option<&'static str> {
    let within =
        known.iter().filter(|known| written.ends_with(&format!(".{known}"))).max_by_key(|known| known.len());
    let by_typing = || {
        let distances = known.iter().map(|known| (strsim::damerau_levenshtein(known, written), known));
        distances.min().filter(|(distance, _)| *distance <= 3).map(|(_, known)| known)
    };
    within.or_else(by_typing).copied()
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

    /// The only problem: its title and what would mend it.
    fn problem(lines: &str) -> (String, String) {
        let problems = read(lines).map_or_else(|problems| *problems, |checked| checked.warnings);
        let [problem] = problems.problems() else { panic!("{problems}") };
        (problem.title.clone(), problem.help.clone().unwrap_or_default())
    }

    #[test]
    fn each_genesys_region_has_its_own_login_host() {
        for region in GENESYS_REGIONS {
            let credential = credential(&format!("provider = \"genesys\"\nregion = \"{region}\""));
            assert_eq!(credential.token_url.as_str(), format!("https://login.{region}/oauth/token"));
            assert!(matches!(credential.identity.grant, identity::Grant::ClientCredentials));
            assert_eq!(credential.login_stub, GENESYS_LOGINS);
            assert_eq!(credential.protected.len(), GENESYS_PROTECTED.len());
        }
    }

    #[test]
    fn each_cxone_issuer_has_its_token_endpoint_and_cxones_habits() {
        for issuer in CXONE_ISSUERS {
            let credential = credential(&format!("provider = \"cxone\"\nissuer = \"{issuer}/\"\n{KEY}"));
            assert_eq!(credential.token_url.as_str(), format!("{issuer}/auth/token"));
            assert!(matches!(credential.identity.grant, identity::Grant::Password { .. }));
            assert_eq!(credential.http_version, HttpVersion::Http1);
            assert_eq!(credential.refresh_margin, CXONE_MARGIN);
            assert_eq!(credential.login_stub, CXONE_LOGINS);
            assert_eq!(credential.set_if_absent, [(ACCEPT, HeaderValue::from_static("application/json"))]);
        }
    }

    #[test]
    fn what_is_written_wins_over_what_is_known() {
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
    fn an_unknown_region_is_refused_and_an_unknown_issuer_warned_of_with_the_nearest() {
        for (region, nearest) in [
            ("mypurecloud.dee", "mypurecloud.de"),
            ("api.mypurecloud.com.au", "mypurecloud.com.au"),
            ("euw3.pure.cloud", "euw2.pure.cloud"),
            ("https://login.usw2.pure.cloud", "usw2.pure.cloud"),
        ] {
            let (title, help) = problem(&format!("provider = \"genesys\"\nregion = \"{region}\""));
            assert_eq!(title, "not a region of Genesys Cloud that is known");
            assert!(help.contains(&format!("\"{nearest}\"")), "{region}: {help}");
        }
        let (_, help) = problem("provider = \"genesys\"\nregion = \"frankfurt\"");
        assert!(help.contains("sae1.pure.cloud"), "{help}");

        let issuer = |issuer: &str| problem(&format!("provider = \"cxone\"\nissuer = \"{issuer}\"\n{KEY}"));
        let (title, help) = issuer("https://cxone.niceincontct.com");
        assert_eq!(title, "not an issuer of CXone that is known");
        assert!(help.contains("did you mean \"https://cxone.niceincontact.com\""), "{help}");
        assert!(issuer("https://other.example.com").1.contains("nicecxone-sov1.eu"));
        assert!(issuer("http://other.example.com").0.contains("plain http://"));
    }

    #[test]
    fn a_region_or_issuer_that_is_missing_or_anothers_is_said_once() {
        assert_eq!(problem("provider = \"genesys\"").0, "`region` is missing");
        assert_eq!(problem(&format!("provider = \"cxone\"\n{KEY}")).0, "`issuer` is missing");
        let with_url = "token_url = \"https://own.example.com/t\"\n";
        let other = problem(&format!("{with_url}region = \"mypurecloud.de\""));
        assert_eq!(other.0, "`region` is not used by this provider");
        let other = problem(&format!("{GENESYS}\nissuer = \"https://x.example.com\""));
        assert_eq!(other.0, "`issuer` is not used by this provider");
    }
}
