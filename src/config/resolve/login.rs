//! The issuer of a credential, and the authorization by a person.

use std::ops::Range;

use toml::Spanned;
use url::Url;

use super::Resolver;
use super::vendor_endpoint::Purpose;
use crate::config::model::endpoint::{Endpoint, Issuer};
use crate::config::model::login::{Login, RedirectUri};
use crate::config::source::choice::{Grant, Provider};
use crate::config::source::key::Key;
use crate::config::source::schema;

/// The address that `bearerd login` listens on by default.
const DEFAULT_REDIRECT_URI: &str = "http://127.0.0.1:8400/callback";

impl Resolver<'_> {
    /// The issuer: unchanged, or for a known platform without a slash at the end.
    pub(super) fn issuer(&mut self, provider: Provider, issuer: &Spanned<String>) -> Option<Issuer> {
        if provider != Provider::Oauth2 {
            let identifier = issuer.get_ref().trim_end_matches('/');
            return Url::parse(identifier).ok().map(|url| Issuer::new(identifier, url));
        }
        let url = self.endpoint(issuer)?;
        if url.query().is_some() {
            let help = "write the issuer as in the server's metadata, or write `token_url`";
            return self.refuse(issuer.span(), "an issuer has no query (RFC 8414 §2)", help);
        }
        if url.path().contains("/.well-known/") {
            return self.refuse(
                issuer.span(),
                "this is the URL of an issuer's metadata, not the issuer",
                "remove the part from `/.well-known/` on: the daemon derives the URL of the metadata",
            );
        }
        Some(Issuer::new(issuer.get_ref(), url))
    }

    /// The settings for a person's login, if the grant needs one.
    pub(super) fn login(
        &mut self,
        owner: &Range<usize>,
        keys: &schema::Credential,
        issuer: Option<Issuer>,
    ) -> Option<Login> {
        if keys.grant.known_or(Grant::ClientCredentials) != Some(Grant::AuthorizationCode) {
            return None;
        }
        let authorize_url = if keys.authorize_url.is_absent() && !keys.issuer.is_absent() {
            // An unusable issuer has been reported.
            issuer.clone().map(Endpoint::OfIssuer)
        } else {
            let help = "write the page where a person logs in, such as \
                        \"https://login.example.com/oauth/authorize\", or the `issuer` of a server that publishes it";
            let text = self.required(owner, "authorize_url", &keys.authorize_url, help);
            text.and_then(|text| {
                let url = self.endpoint(text)?;
                self.compare_with_vendor(Purpose::Login, text, &url);
                Some(Endpoint::Written(url))
            })
        };
        let default = Key::Written(Spanned::new(owner.clone(), DEFAULT_REDIRECT_URI.to_owned()));
        let text = if keys.redirect_uri.is_absent() { &default } else { &keys.redirect_uri };
        let redirect_uri = text.usable().and_then(|text| {
            let url = self.endpoint(text)?;
            let redirect_uri = RedirectUri::new(text.get_ref(), url);
            self.refuse_own_redirect_uri(&redirect_uri, text.span());
            Some(redirect_uri)
        });
        Some(Login { authorize_url: authorize_url?, redirect_uri: redirect_uri?, issuer })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::model::identity::{ClientAuth, Grant};
    use crate::config::{Checked, Credential, Diagnostics, Environment, parse};

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const CODE: &str = "grant = \"authorization_code\"\n";
    const ISSUER: &str = "issuer = \"https://as.example.com/x/\"\n";
    const URL: &str = "token_url = \"https://as.example.com/t\"\n";
    const AUTHORIZE: &str = "authorize_url = \"https://as.example.com/a?x=1\"\n";

    fn read(lines: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[server]\nstate_dir = \"s\"\n[credentials.c]\nclient_id = \"i\"\n\
             client_secret = {{ env = \"SECRET\" }}\nstate_key = {{ env = \"KEY\" }}\n{lines}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x"), ("KEY", KEY)]))
    }

    fn credential(lines: &str) -> Credential {
        let checked = read(lines).unwrap_or_else(|problems| panic!("{problems}"));
        Credential::clone(&checked.config.credentials[0])
    }

    /// The title and the remedy of the only problem.
    fn problem(lines: &str) -> (String, String) {
        let problems = read(lines).expect_err(lines);
        let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
        (problem.title.clone(), problem.help.clone().unwrap_or_default())
    }

    #[test]
    fn an_issuer_replaces_the_urls_that_are_not_written() {
        let found = credential(&format!("{ISSUER}{CODE}"));
        assert_eq!(found.token_url.issuer().unwrap().as_str(), "https://as.example.com/x/");
        let login = found.login.unwrap();
        assert_eq!(login.authorize_url, found.token_url);
        assert_eq!(login.issuer.unwrap().as_str(), "https://as.example.com/x/");
        assert_eq!(login.redirect_uri.as_str(), "http://127.0.0.1:8400/callback");
        assert!(matches!(found.identity.grant, Grant::RefreshToken(None)));

        let written = credential(&format!("{ISSUER}{URL}{AUTHORIZE}{CODE}"));
        assert_eq!(written.token_url.as_str(), "https://as.example.com/t");
        assert_eq!(written.login.unwrap().authorize_url.as_str(), "https://as.example.com/a?x=1");
        assert!(credential(ISSUER).login.is_none());
    }

    #[test]
    fn a_clients_assertion_is_for_the_issuer_where_one_is_written() {
        let audience = |lines: &str| match credential(lines).identity.client_auth {
            ClientAuth::SecretJwt { audience, .. } => audience,
            other => panic!("{other:?}"),
        };
        let auth = "client_auth = \"client_secret_jwt\"\n";
        assert_eq!(audience(&format!("{ISSUER}{auth}")), "https://as.example.com/x/");
        assert_eq!(audience(&format!("{ISSUER}{URL}{auth}")), "https://as.example.com/x/");
        assert_eq!(audience(&format!("{URL}{auth}")), "https://as.example.com/t");
        assert_eq!(audience(&format!("{ISSUER}{auth}assertion = {{ aud = \"a\" }}")), "a");
    }

    #[test]
    fn a_known_platform_has_its_login_page() {
        let genesys = credential(&format!("provider = \"genesys\"\nregion = \"mypurecloud.de\"\n{CODE}"));
        assert_eq!(
            genesys.login.unwrap().authorize_url.as_str(),
            "https://login.mypurecloud.de/oauth/authorize"
        );
        let cxone = credential(&format!(
            "provider = \"cxone\"\nissuer = \"https://cxone.niceincontact.com/\"\n{CODE}"
        ));
        assert_eq!(cxone.token_url.as_str(), "https://cxone.niceincontact.com/auth/token");
        assert_eq!(
            cxone.login.unwrap().authorize_url.issuer().unwrap().as_str(),
            "https://cxone.niceincontact.com"
        );
    }

    #[test]
    fn a_missing_or_wrong_key_is_reported_once_with_a_remedy() {
        for (lines, title, remedy) in [
            (format!("{URL}{CODE}"), "`authorize_url` is missing", "the `issuer` of a server"),
            (CODE.replace("code\"", "code\"\nprovider = \"genesys\""), "`region` is missing", "mypurecloud"),
            ("issuer = \"https://as.example.com/?x\"".to_owned(), "an issuer has no query", "token_url"),
            ("issuer = \"http://as.example.com/\"".to_owned(), "plain http:// would show", "https://"),
            ("issuer = \"as.example.com\"".to_owned(), "not a URL", "write a whole URL"),
            (
                "issuer = \"https://as.example.com/.well-known/openid-configuration\"".to_owned(),
                "this is the URL of an issuer's metadata",
                "remove the part",
            ),
            (format!("{URL}{AUTHORIZE}"), "`authorize_url` is not used by this grant", "authorization_code"),
            (
                format!("{URL}redirect_uri = \"http://127.0.0.1/\""),
                "`redirect_uri` is not used by this grant",
                "authorization_code",
            ),
            (
                format!("{ISSUER}{CODE}redirect_uri = \"http://gateway.internal/callback\""),
                "plain http:// would show",
                "https://",
            ),
            (
                format!("{ISSUER}{CODE}refresh_token = {{ env = \"SECRET\" }}"),
                "`refresh_token` is not used by this grant",
                "grant = \"refresh_token\"",
            ),
        ] {
            let (found, help) = problem(&lines);
            assert!(found.starts_with(title), "{lines}: {found}");
            assert!(help.contains(remedy), "{lines}: {help}");
        }
    }

    #[test]
    fn a_login_needs_a_state_file() {
        let text = format!(
            "[credentials.c]\nclient_id = \"i\"\nclient_auth = \"none\"\n{ISSUER}{CODE}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        let problems = parse(Path::new("proxy.toml"), text, &Environment::from([("A", "")])).unwrap_err();
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert_eq!(problem.title, "this grant needs a `state_file`");
    }
}
