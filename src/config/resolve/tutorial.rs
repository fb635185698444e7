//! Token URLs that stand in tutorials and that no vendor runs.
//!
//! They are warned of and not refused: a gateway of one's own may well answer there.

use toml::Spanned;
use url::Url;

use super::Resolver;
use super::provider::GENESYS_REGIONS;
use crate::config::source::diagnostics::Problem;

/// What NICE runs instead.
const CXONE: &str = "it runs https://cxone.niceincontact.com/auth/token (and others for governments), for the grant \
                     \"password\" with an access key: set provider = \"cxone\" and `issuer`";

impl Resolver<'_> {
    /// Says what the vendor runs, where a token URL is one of a tutorial.
    pub(super) fn warn_of_tutorial(&mut self, text: &Spanned<String>, url: &Url) {
        let host = url.host_str().unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        let told = if is_cxones(host, path) {
            Some(("NICE CXone", CXONE.to_owned()))
        } else if path == "/api/v2/oauth/token" {
            genesys(host).map(|instead| ("Genesys Cloud", instead))
        } else {
            None
        };
        if let Some((vendor, instead)) = told {
            let title = format!("a token URL of tutorials, which {vendor} does not run");
            self.problems.push(Problem::warning(text.span(), title).help(instead));
        }
    }
}

fn is_cxones(host: &str, path: &str) -> bool {
    match path {
        "/oauth2/token" => host.ends_with(".api.nicecxone.com"),
        "/auth/oauth/token" => host == "api.nicecxone.com",
        "/oauth2/v1/token" => {
            matches!(host, "platform.niceincontact.com" | "platform.devtest.niceincontact.com")
        }
        _ => false,
    }
}

/// What Genesys runs instead, if the host is one of its own or was never filled in.
fn genesys(host: &str) -> Option<String> {
    let is_within = |region: &&str| host == *region || host.ends_with(&format!(".{region}"));
    let region = match GENESYS_REGIONS.into_iter().find(is_within) {
        Some(region) => region,
        None if host.contains('{') || host.contains("environment") => "{region}",
        None => return None,
    };
    Some(format!("it runs https://login.{region}/oauth/token: set provider = \"genesys\" and `region`"))
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
    fn a_url_of_a_tutorial_is_warned_of_with_what_the_vendor_runs() {
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
    fn what_the_vendors_run_and_what_others_have_is_not() {
        for url in [
            "https://cxone.niceincontact.com/auth/token",
            "https://login.mypurecloud.com/oauth/token",
            "https://gateway.example.com/oauth2/token",
            "https://gateway.example.com/api/v2/oauth/token",
            "https://notmypurecloud.com/api/v2/oauth/token",
            "http://127.0.0.1:8080/auth/oauth/token",
        ] {
            assert_eq!(warnings(url), [""; 0], "{url}");
        }
    }
}
