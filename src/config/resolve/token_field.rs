//! `token_field`, `token_scheme` and `host_header` of a route.

use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::uri::Authority;
use toml::Spanned;

use super::Resolver;
use crate::config::model::fields::is_protected;
use crate::config::model::hosts::is_host;
use crate::config::model::token_field::{TokenField, TokenScheme};
use crate::config::source::key::Key;

impl Resolver<'_> {
    /// The field for the token of a route, which may have no credential.
    pub(super) fn token_field(
        &mut self,
        name: Key<String>,
        scheme: Key<String>,
        has_credential: bool,
    ) -> TokenField {
        if let (Some(key), false) = (name.place().or_else(|| scheme.place()), has_credential) {
            let help = "remove `token_field` and `token_scheme`, or name a credential";
            self.error(key, "the route has no credential, and sends no token", help);
        }
        let name = name.into_usable().and_then(|name| self.token_field_name(&name)).unwrap_or(AUTHORIZATION);
        let scheme = scheme.into_usable().and_then(|scheme| self.token_scheme(&scheme)).unwrap_or_default();
        TokenField { name, scheme }
    }

    fn token_field_name(&mut self, name: &Spanned<String>) -> Option<HeaderName> {
        let field = self.field_name(name)?;
        if field == COOKIE || (is_protected(&field) && field != AUTHORIZATION) {
            let title = format!("`{field}` cannot carry the token");
            let help = "write the field that the API reads the token from, such as \"X-Access-Token\"";
            return self.refuse(name.span(), title, help);
        }
        Some(field)
    }

    fn token_scheme(&mut self, scheme: &Spanned<String>) -> Option<TokenScheme> {
        let text = scheme.get_ref();
        // A token (RFC 9110 §5.6.2), as the name of a field is.
        if text.is_empty() || HeaderName::try_from(text.as_str()).is_ok() {
            return Some(TokenScheme::new(text));
        }
        let help = "write one word, such as \"Bearer\" or \"Token\", or \"\" to send the token alone";
        self.refuse(scheme.span(), "not an authentication scheme", help)
    }

    /// The `Host` of requests to the upstream, if it is not the upstream's own.
    pub(super) fn host_header(&mut self, host: Key<String>) -> Option<Authority> {
        let host = host.into_usable()?;
        let authority: Option<Authority> = host.get_ref().parse().ok();
        let is_plain = |authority: &Authority| {
            let is_without_port = authority.host().len() == authority.as_str().len();
            is_host(authority.host())
                && (is_without_port || authority.port_u16().is_some())
                && !authority.as_str().contains('@')
        };
        let help = "write a name and a port at most, such as \"api.example.com\"";
        authority.filter(is_plain).or_else(|| self.refuse(host.span(), "not a host", help))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, Route, parse};

    fn read(credential: &str, route: &str) -> Result<Route, (String, String)> {
        let text = format!(
            "[credentials.c]\ntoken_url = \"https://login.example.com/token\"\nclient_id = \"i\"\n\
             client_secret = {{ env = \"SECRET\" }}\n[[routes]]\nupstream = \"https://api.example.com\"\n\
             credential = \"c\"\n[[routes]]\npath = \"/x\"\nupstream = \"https://api.example.com\"\n\
             credential = \"{credential}\"\n{route}\n"
        );
        match parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "x")])) {
            Ok(checked) => Ok(checked.config.routes[1].clone()),
            Err(problems) => {
                let [problem] = problems.problems() else { panic!("{problems}") };
                Err((problem.title.clone(), problem.help.clone().unwrap_or_default()))
            }
        }
    }

    #[test]
    fn a_token_has_a_field_and_a_scheme() {
        for (written, name, prefix) in [
            ("", "authorization", "Bearer "),
            ("token_field = \"X-Access-Token\"", "x-access-token", "Bearer "),
            ("token_field = \"X-Access-Token\"\ntoken_scheme = \"\"", "x-access-token", ""),
            ("token_scheme = \"Token\"", "authorization", "Token "),
        ] {
            let field = read("c", written).unwrap().token_field;
            assert_eq!((field.name.as_str(), field.scheme.prefix()), (name, prefix), "{written}");
        }
    }

    #[test]
    fn some_fields_cannot_carry_a_token() {
        for name in
            ["Host", "Cookie", "Content-Length", "Transfer-Encoding", "Connection", "TE", "Via", "CDN-Loop"]
        {
            let (title, help) = read("c", &format!("token_field = \"{name}\"")).unwrap_err();
            assert_eq!(title, format!("`{}` cannot carry the token", name.to_lowercase()));
            assert!(help.contains("X-Access-Token"), "{help}");
        }
        assert_eq!(read("c", "token_field = \"a b\"").unwrap_err().0, "not the name of a header field");
        assert_eq!(read("c", "token_scheme = \"a b\"").unwrap_err().0, "not an authentication scheme");
        let (title, _) = read("none", "token_scheme = \"Token\"").unwrap_err();
        assert_eq!(title, "the route has no credential, and sends no token");
    }

    #[test]
    fn a_route_cannot_change_the_field_of_its_token_in_any_spelling() {
        for headers in [
            "set = { X-Access-Token = \"x\" }",
            "set_if_absent = { x_access_token = \"x\" }",
            "remove = [\"X-Access.Token\"]",
        ] {
            let route = format!("token_field = \"X-Access-Token\"\nheaders = {{ {headers} }}");
            let (title, help) = read("c", &route).unwrap_err();
            assert!(title.contains("carries the token"), "{headers}: {title}");
            assert!(help.contains("token_field"), "{headers}: {help}");
        }
        let forwarded = "token_field = \"X-Forwarded-Access-Token\"";
        read("c", forwarded).unwrap();
        let passed = format!("{forwarded}\nheaders = {{ pass = [\"X-Forwarded-Access-Token\"] }}");
        assert!(read("c", &passed).unwrap_err().0.contains("carries the token"));
    }

    #[test]
    fn host_header_is_a_host_with_a_port_at_most() {
        for host in ["api.example.com", "api.example.com:8443", "[::1]:80"] {
            let route = read("c", &format!("host_header = \"{host}\"")).unwrap();
            assert_eq!(route.host_header.unwrap().as_str(), host);
        }
        for wrong in ["", "https://a", "u@a", "a/b", "a b", "a:", "a:http"] {
            let (title, _) = read("c", &format!("host_header = \"{wrong}\"")).unwrap_err();
            assert_eq!(title, "not a host", "{wrong}");
        }
    }
}
