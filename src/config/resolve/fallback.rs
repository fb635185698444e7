//! `grant`, and `fallback`: the grant that replaces a rejected refresh token.

use std::ops::Range;

use super::Resolver;
use crate::config::source::choice::Grant;
use crate::config::source::schema;

/// The grant and the fallback of a credential.
#[derive(Clone, Copy)]
pub(super) struct Grants {
    /// `None` for a refused one.
    pub(super) grant: Option<Grant>,
    pub(super) fallback: Option<Grant>,
    /// Whether neither is refused.
    pub(super) are_known: bool,
}

impl Grants {
    /// Whether one of the two is this grant.
    pub(super) fn have(self, grant: Grant) -> bool {
        self.grant == Some(grant) || self.fallback == Some(grant)
    }

    /// Whether one of the two is this grant, or a refused one could have been meant to be.
    pub(super) fn may_have(self, grant: Grant) -> bool {
        !self.are_known || self.have(grant)
    }
}

impl Resolver<'_> {
    pub(super) fn grants(&mut self, keys: &schema::Credential) -> Grants {
        let grant = keys.grant.known_or(Grant::ClientCredentials);
        let fallback = keys.fallback.read_or(None, |written| match *written.get_ref() {
            Some(fallback) => self.fallback(fallback, written.span(), grant).map(Some),
            None => Some(None),
        });
        let are_known = grant.is_some() && fallback.is_some();
        Grants { grant, fallback: fallback.flatten(), are_known }
    }

    /// The fallback, unless it needs a person, or the grant has no refresh token to replace.
    fn fallback(&mut self, fallback: Grant, place: Range<usize>, grant: Option<Grant>) -> Option<Grant> {
        let has_refresh_token = |grant| matches!(grant, Grant::RefreshToken | Grant::AuthorizationCode);
        let (title, help) = if has_refresh_token(fallback) {
            (
                "this grant cannot be a fallback, because a person must renew it",
                "use \"client_credentials\", \"password\", \"jwt_bearer\" or \"token_exchange\"",
            )
        } else if grant.is_none_or(has_refresh_token) {
            return Some(fallback);
        } else {
            (
                "`fallback` is not used by this grant, which has no refresh token",
                "set grant = \"refresh_token\", or remove `fallback`",
            )
        };
        self.refuse(place, title, help)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::model::identity::Grant;
    use crate::config::{Checked, Diagnostics, Environment, parse};

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn read(lines: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[server]\nstate_dir = \"s\"\n[credentials.a]\ntoken_url = \"https://as.example.com/t\"\n\
             client_id = \"id\"\nclient_secret = {{ env = \"S\" }}\nstate_key = {{ env = \"KEY\" }}\n{lines}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"a\""
        );
        parse(Path::new("/etc/bearerd/proxy.toml"), text, &Environment::from([("S", "s"), ("KEY", KEY)]))
    }

    #[test]
    fn a_fallback_is_read_with_the_keys_of_its_grant() {
        let fallback = |lines: &str| {
            let read = read(&format!("grant = \"refresh_token\"\n{lines}"));
            read.unwrap_or_else(|problems| panic!("{problems}")).config.credentials[0]
                .identity
                .fallback
                .clone()
        };

        assert!(fallback("").is_none() && fallback("fallback = \"\"").is_none());
        assert!(matches!(fallback("fallback = \"client_credentials\""), Some(Grant::ClientCredentials)));
        let password = fallback("fallback = \"password\"\nusername = \"u\"\npassword = { env = \"S\" }");
        assert!(matches!(password, Some(Grant::Password { username, .. }) if username == "u"));
        let exchange = fallback("fallback = \"token_exchange\"\nsubject_token = { env = \"S\" }");
        assert!(matches!(exchange, Some(Grant::TokenExchange { .. })));
    }

    #[test]
    fn an_unusable_fallback_is_refused_with_a_remedy() {
        let refresh = "grant = \"refresh_token\"\n";
        for (lines, title, remedy) in [
            (
                format!("{refresh}fallback = \"refresh_token\""),
                "this grant cannot be a fallback",
                "\"client_credentials\", \"password\"",
            ),
            (
                format!("{refresh}fallback = \"authorization_code\""),
                "this grant cannot be a fallback",
                "\"client_credentials\", \"password\"",
            ),
            (
                "fallback = \"client_credentials\"".to_owned(),
                "`fallback` is not used by this grant",
                "set grant = \"refresh_token\"",
            ),
            (
                format!("{refresh}fallback = \"password\"\nusername = \"u\""),
                "`password` is missing",
                "write password = ",
            ),
            (format!("{refresh}fallback = \"jwt_bearer\""), "`assertion` is missing", "key = { file"),
            (
                format!("{refresh}fallback = \"client_credentials\"\nusername = \"u\""),
                "`username` is not used by this grant",
                "set grant = \"password\"",
            ),
        ] {
            let problems = read(&lines).expect_err(&lines);
            let [problem] = problems.problems() else { panic!("{lines}: {problems}") };
            assert!(problem.title.starts_with(title), "{problems}");
            assert!(problems.to_string().contains(remedy), "{problems}");
        }
        let problems = read(&format!("{refresh}fallback = \"magic\"")).unwrap_err().to_string();
        assert!(problems.contains("client_credentials"), "{problems}");
    }
}
