//! Warnings of token endpoints and login pages at a host of a known vendor that has none there.
//!
//! The URLs are not refused: a vendor may run more than it documents, and a gateway of one's own may answer at them.

use toml::Spanned;
use url::Url;

use super::Resolver;
use super::provider::CXONE_ISSUERS;
use super::region::{cxone_cloud_of, region_of};

/// What a URL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `token_url`.
    Token,
    /// `authorize_url`.
    Login,
}

impl Purpose {
    const fn key(self) -> &'static str {
        match self {
            Self::Token => "token_url",
            Self::Login => "authorize_url",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token endpoint",
            Self::Login => "login page",
        }
    }

    const fn in_tutorials(self) -> &'static str {
        match self {
            Self::Token => "a token URL",
            Self::Login => "a login page",
        }
    }

    /// The last segment of the vendors' own URLs.
    const fn segment(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Login => "authorize",
        }
    }
}

impl Resolver<'_> {
    /// Warns of a URL at a host of a known vendor that is not what it is meant to be, and names the vendor's own.
    pub(super) fn compare_with_vendor(&mut self, purpose: Purpose, text: &Spanned<String>, url: &Url) {
        let host = url.host_str().unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        let Some((vendor, help)) =
            help_for_cxone(purpose, host, path).or_else(|| help_for_genesys(purpose, host, path))
        else {
            return;
        };
        let title = if is_of_tutorial(host, path) {
            format!("{} of tutorials, which {vendor} does not run", purpose.in_tutorials())
        } else {
            format!("`{}` is no {} of {vendor}", purpose.key(), purpose.name())
        };
        self.warning(text.span(), title, help);
    }
}

/// Whether the URL is one that tutorials show.
fn is_of_tutorial(host: &str, path: &str) -> bool {
    match path {
        "/oauth2/token" | "/oauth2/authorize" => host.ends_with(".api.nicecxone.com"),
        "/auth/oauth/token" => host == "api.nicecxone.com",
        "/oauth2/v1/token" => {
            matches!(host, "platform.niceincontact.com" | "platform.devtest.niceincontact.com")
        }
        "/api/v2/oauth/token" => true,
        _ => false,
    }
}

fn help_for_cxone(purpose: Purpose, host: &str, path: &str) -> Option<(&'static str, String)> {
    let cloud = cxone_cloud_of(host)?;
    let own = format!("/auth/{}", purpose.segment());
    let area = area_of(host);
    // An area has a token endpoint for access keys in JSON, at a host of its own.
    let is_of_area = host.ends_with(".nice-incontact.com") && path.starts_with("/authentication/");
    let is_issuer = CXONE_ISSUERS.iter().any(|issuer| issuer.strip_prefix("https://") == Some(host));
    if is_of_area || (is_issuer && path == own) {
        return None;
    }
    let issuer = match cloud {
        "niceincontact.com" if is_issuer => format!("https://{host}"),
        "niceincontact.com" => CXONE_ISSUERS[0].to_owned(),
        domain => format!("https://{domain}"),
    };
    let others = if is_issuer { "" } else { " (and others for governments)" };
    let help = match (purpose, area) {
        (Purpose::Login, _) => {
            format!("NICE runs {issuer}{own}{others}: write authorize_url = \"{issuer}{own}\"")
        }
        (Purpose::Token, None) => format!(
            "NICE runs {issuer}{own}{others}, for the grant \"password\" with an access key: set provider = \"cxone\" and \
             issuer = \"{issuer}\""
        ),
        (Purpose::Token, Some(area)) => format!(
            "NICE runs {issuer}{own}{others}, for the grant \"password\" with an access key: set provider = \"cxone\" and \
             issuer = \"{issuer}\"; for JSON with an access key alone, write \
             https://{area}.nice-incontact.com/authentication/v1/token/access-key"
        ),
    };
    Some(("NICE CXone", help))
}

/// The area of a host of CXone, as in `api-na1.niceincontact.com` and `na1.nice-incontact.com`.
fn area_of(host: &str) -> Option<&str> {
    let label =
        host.strip_suffix(".niceincontact.com").or_else(|| host.strip_suffix(".nice-incontact.com"))?;
    let area = label.strip_prefix("api-").unwrap_or(label);
    let has_number = area.ends_with(|c: char| c.is_ascii_digit());
    (has_number && area.chars().all(|c| c.is_ascii_alphanumeric())).then_some(area)
}

/// The vendor's URL, if the host belongs to Genesys Cloud or is an unfilled placeholder.
fn help_for_genesys(purpose: Purpose, host: &str, path: &str) -> Option<(&'static str, String)> {
    let region = match region_of(host) {
        Some(region) => region,
        None if path == "/api/v2/oauth/token" && (host.contains('{') || host.contains("environment")) => {
            "{region}"
        }
        None => return None,
    };
    let own = format!("/oauth/{}", purpose.segment());
    if path == own && host.strip_prefix("login.") == Some(region) {
        return None;
    }
    let help = format!("Genesys runs https://login.{region}{own}: set provider = \"genesys\" and `region`");
    Some(("Genesys Cloud", help))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, parse};

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    /// Titles and remedies of the warnings.
    fn warnings(lines: &str) -> Vec<String> {
        let text = format!(
            "[server]\nstate_dir = \"s\"\n[credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"SECRET\" }}\n\
             {lines}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        let checked =
            parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x"), ("KEY", KEY)]));
        let checked = checked.unwrap_or_else(|problems| panic!("{problems}"));
        let told = checked.warnings.problems().iter();
        told.map(|problem| format!("{}: {}", problem.title, problem.help.as_deref().unwrap_or_default()))
            .collect()
    }

    fn warnings_of_token_url(url: &str) -> Vec<String> {
        warnings(&format!("token_url = \"{url}\""))
    }

    #[test]
    fn a_url_of_a_tutorial_causes_a_warning_with_the_vendors_url() {
        for (url, instead) in [
            ("https://acme.api.nicecxone.com/oauth2/token", "https://cxone.niceincontact.com/auth/token"),
            ("https://API.nicecxone.com/auth/oauth/token", "https://cxone.niceincontact.com/auth/token"),
            (
                "https://platform.niceincontact.com/oauth2/v1/token/",
                "https://cxone.niceincontact.com/auth/token",
            ),
            ("https://platform.devtest.niceincontact.com/oauth2/v1/token", "provider = \"cxone\""),
            ("https://api.mypurecloud.ie/api/v2/oauth/token", "https://login.mypurecloud.ie/oauth/token"),
            ("https://mypurecloud.com.au/api/v2/oauth/token", "https://login.mypurecloud.com.au/oauth/token"),
            ("https://{environment}/api/v2/oauth/token", "https://login.{region}/oauth/token"),
        ] {
            let told = warnings_of_token_url(url);
            let [told] = told.as_slice() else { panic!("{url}: {told:?}") };
            assert!(told.contains("a token URL of tutorials") && told.contains(instead), "{url}: {told}");
        }
    }

    #[test]
    fn another_url_at_a_host_of_a_vendor_causes_a_warning_with_the_vendors_url() {
        const CXONE: &str = "https://cxone.niceincontact.com/auth/token";
        for (url, vendor, instead) in [
            ("https://api.nicecxone.com", "NICE CXone", CXONE),
            ("https://api.nicecxone.com/oauth/token", "NICE CXone", CXONE),
            ("https://api-na1.niceincontact.com/auth/token", "NICE CXone", CXONE),
            (
                "https://api-na1.niceincontact.com/auth/token",
                "NICE CXone",
                "https://na1.nice-incontact.com/authentication/v1/token/access-key",
            ),
            ("https://au1.nice-incontact.com/oauth/token", "NICE CXone", "https://au1.nice-incontact.com/"),
            ("https://api-c32.nice-incontact.com/InContactAuthorizationServer/Token", "NICE CXone", CXONE),
            ("https://api.incontact.com/InContactAuthorizationServer/Token", "NICE CXone", CXONE),
            ("https://cxone.niceincontact.com/oauth2/token", "NICE CXone", CXONE),
            (
                "https://cxone-gov.niceincontact.com/token",
                "NICE CXone",
                "https://cxone-gov.niceincontact.com/auth/token",
            ),
            (
                "https://api.nicecxone-sov1.eu/auth/token",
                "NICE CXone",
                "issuer = \"https://nicecxone-sov1.eu\"",
            ),
            (
                "https://api.mypurecloud.de/oauth/token",
                "Genesys Cloud",
                "https://login.mypurecloud.de/oauth/token",
            ),
            (
                "https://apps.usw2.pure.cloud/oauth/token",
                "Genesys Cloud",
                "https://login.usw2.pure.cloud/oauth/token",
            ),
            (
                "https://login.mypurecloud.ie/token",
                "Genesys Cloud",
                "https://login.mypurecloud.ie/oauth/token",
            ),
        ] {
            let told = warnings_of_token_url(url);
            let [told] = told.as_slice() else { panic!("{url}: {told:?}") };
            assert!(
                told.starts_with(&format!("`token_url` is no token endpoint of {vendor}: ")),
                "{url}: {told}"
            );
            assert!(told.contains(instead), "{url}: {told}");
        }
    }

    #[test]
    fn a_login_page_at_another_host_of_a_vendor_causes_a_warning() {
        let warnings = |token_url: &str, authorize_url: &str| {
            let urls = format!("token_url = \"{token_url}\"\nauthorize_url = \"{authorize_url}\"\n");
            let mut all =
                warnings(&format!("{urls}grant = \"authorization_code\"\nstate_key = {{ env = \"KEY\" }}"));
            all.retain(|warning| warning.contains("authorize"));
            all
        };
        let genesys = "https://login.mypurecloud.de/oauth/token";
        let told = warnings(genesys, "https://api.mypurecloud.de/oauth/authorize");
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert!(told.starts_with("`authorize_url` is no login page of Genesys Cloud: "), "{told}");
        assert!(told.contains("https://login.mypurecloud.de/oauth/authorize"), "{told}");
        assert_eq!(warnings(genesys, "https://login.mypurecloud.de/oauth/authorize"), [""; 0]);

        let cxone = "https://cxone.niceincontact.com/auth/token";
        let told = warnings(cxone, "https://api-na1.niceincontact.com/auth/authorize");
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert!(told.contains("https://cxone.niceincontact.com/auth/authorize"), "{told}");
        assert_eq!(warnings(cxone, "https://cxone.niceincontact.com/auth/authorize"), [""; 0]);
    }

    #[test]
    fn urls_of_vendors_and_of_others_cause_no_warning() {
        for url in [
            "https://cxone.niceincontact.com/auth/token",
            "https://nicecxone-fed.com/auth/token",
            "https://na1.nice-incontact.com/authentication/v1/token/access-key",
            "https://login.mypurecloud.com/oauth/token",
            "https://gateway.example.com/oauth2/token",
            "https://gateway.example.com/api/v2/oauth/token",
            "https://notmypurecloud.com/api/v2/oauth/token",
            "http://127.0.0.1:8081/auth/oauth/token",
        ] {
            assert_eq!(warnings_of_token_url(url), [""; 0], "{url}");
        }
    }
}
