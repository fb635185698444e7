//! Warnings of token URLs that appear in tutorials but are not run by the vendor.
//!
//! The URLs are not refused: a gateway of one's own may answer at them.

use toml::Spanned;
use url::Url;

use super::Resolver;
use super::region::region_of;

const CXONE_HELP: &str = "NICE runs https://cxone.niceincontact.com/auth/token (and others for governments), for the \
                          grant \"password\" with an access key: set provider = \"cxone\" and `issuer`";

impl Resolver<'_> {
    /// Warns of a token URL of a tutorial, and names the vendor's own.
    pub(super) fn warn_of_tutorial(&mut self, text: &Spanned<String>, url: &Url) {
        let host = url.host_str().unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        let (vendor, help) = if is_of_cxone_tutorial(host, path) {
            ("NICE CXone", CXONE_HELP.to_owned())
        } else if path == "/api/v2/oauth/token"
            && let Some(help) = genesys_help(host)
        {
            ("Genesys Cloud", help)
        } else {
            return;
        };
        self.warning(text.span(), format!("a token URL of tutorials, which {vendor} does not run"), help);
    }
}

fn is_of_cxone_tutorial(host: &str, path: &str) -> bool {
    match path {
        "/oauth2/token" => host.ends_with(".api.nicecxone.com"),
        "/auth/oauth/token" => host == "api.nicecxone.com",
        "/oauth2/v1/token" => {
            matches!(host, "platform.niceincontact.com" | "platform.devtest.niceincontact.com")
        }
        _ => false,
    }
}

/// The vendor's URL, if the host belongs to Genesys Cloud or is an unfilled placeholder.
fn genesys_help(host: &str) -> Option<String> {
    let region = match region_of(host) {
        Some(region) => region,
        None if host.contains('{') || host.contains("environment") => "{region}",
        None => return None,
    };
    Some(format!("Genesys runs https://login.{region}/oauth/token: set provider = \"genesys\" and `region`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, parse};

    /// Titles and remedies of the warnings.
    fn warnings(token_url: &str) -> Vec<String> {
        let text = format!(
            "[credentials.c]\ntoken_url = \"{token_url}\"\nclient_id = \"i\"\nclient_secret = {{ env = \"SECRET\" }}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        let checked = parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x")]));
        let checked = checked.unwrap_or_else(|problems| panic!("{problems}"));
        let told = checked.warnings.problems().iter();
        told.map(|problem| format!("{}: {}", problem.title, problem.help.as_deref().unwrap_or_default()))
            .collect()
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
            let told = warnings(url);
            let [told] = told.as_slice() else { panic!("{url}: {told:?}") };
            assert!(told.contains("a token URL of tutorials") && told.contains(instead), "{url}: {told}");
        }
    }

    #[test]
    fn urls_of_vendors_and_of_others_cause_no_warning() {
        for url in [
            "https://cxone.niceincontact.com/auth/token",
            "https://login.mypurecloud.com/oauth/token",
            "https://gateway.example.com/oauth2/token",
            "https://gateway.example.com/api/v2/oauth/token",
            "https://notmypurecloud.com/api/v2/oauth/token",
            "http://127.0.0.1:8081/auth/oauth/token",
        ] {
            assert_eq!(warnings(url), [""; 0], "{url}");
        }
    }
}
