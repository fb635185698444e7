//! `[credentials.NAME]`: identities and how they get tokens.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::route::plain_path;
use super::{Resolver, api_discovery, duration, provider};
use crate::config::model::credential::{Credential, Quota};
use crate::config::model::endpoint::{Endpoint, Issuer};
use crate::config::model::http_version::HttpVersion;
use crate::config::model::request::NEVER_LISTED;
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;
use crate::config::source::schema::Provider;
use crate::config::source::schema::Texts;
use crate::config::source::units::RequiredScopes;

impl Resolver<'_> {
    /// All names that were written, for routes to refer to, and the credentials that are good.
    pub(super) fn credentials(
        &mut self,
        credentials: BTreeMap<Spanned<String>, Spanned<schema::Credential>>,
    ) -> (BTreeMap<String, Range<usize>>, Vec<Arc<Credential>>) {
        let mut names = BTreeMap::new();
        let mut good = Vec::new();
        for (name, credential) in credentials {
            let place = name.span();
            let name = name.into_inner();
            self.check_name(&name, &place);
            good.extend(self.credential(&name, &place, credential.into_inner()).map(Arc::new));
            names.insert(name, place);
        }
        (names, good)
    }

    fn check_name(&mut self, name: &str, place: &Range<usize>) {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name == "none" {
            let title = "`none` is how a route says that it has no credential";
            self.problems.push(Problem::error(place.clone(), title));
        } else if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            let title = "a credential's name has letters, digits, `-`, `_` and `.` only";
            self.problems.push(Problem::error(place.clone(), title));
        }
    }

    fn credential(
        &mut self,
        name: &str,
        place: &Range<usize>,
        mut file: schema::Credential,
    ) -> Option<Credential> {
        self.fill_in(name, place, &mut file);
        let provider = file.provider.as_ref().map_or(Provider::Oauth2, |provider| *provider.get_ref());
        let path = |key: &str| format!("credentials.{name}.{key}");
        let issuer = self.issuer(&file);
        let token_url = if file.token_url.is_none() && file.issuer.is_some() && issuer.is_none() {
            // It is no issuer, and reported.
            None
        } else {
            self.token_url(&path("token_url"), place, file.token_url.as_ref(), issuer.as_ref())
        };
        let audience = default_audience(&file, issuer.as_ref(), token_url.as_ref());
        let login = self.login(name, place, &file, issuer);
        let client_certificate =
            self.client_certificate(file.client_certificate.as_ref(), file.client_key.as_ref());
        let state = self.state(name, place, &mut file);
        let identity = self.identity(name, place, &mut file, audience);
        let parameters = self.token_parameters(&mut file);
        let fields = self.answer_fields(file.fields);
        let scopes = self.scopes(file.scopes);
        let require_scopes = self.required_scopes(file.require_scopes, &scopes);
        let quota = self.quota(file.quota);
        let default_lifetime = self.positive(file.default_lifetime, 300);
        let timeout = self.positive(file.timeout, 10);
        let connect_timeout = self.positive(file.connect_timeout, 3);
        let retry_after_max = self.positive(file.retry_after_max, 15 * 60);
        let url = token_url.as_ref().map(Endpoint::url);
        let is_http = url.is_some_and(|url| url.scheme() == "http");
        let roots = self.roots(file.ca_file, is_http);
        let proxy = self.proxy(file.proxy, "token_url", is_http);
        let login_stub = self.login_stub(file.login_stub);
        let discovery = api_discovery::issuer(file.provider.as_ref(), file.issuer.as_ref());
        Some(Credential {
            name: name.to_owned(),
            token_url: token_url?,
            identity: identity?,
            client_certificate,
            login,
            parameters,
            fields,
            scopes,
            require_scopes,
            expect_jwt: file.expect_jwt.is_some_and(Spanned::into_inner),
            refresh_margin: duration(file.refresh_margin, 300),
            default_lifetime,
            timeout,
            connect_timeout,
            quota,
            retry_after_max,
            roots,
            proxy,
            http_version: file.http_version.map_or(HttpVersion::Auto, Spanned::into_inner),
            max_rotations: file.max_rotations.map_or(0, Spanned::into_inner),
            state,
            required: file.required.is_none_or(Spanned::into_inner),
            discovery,
            login_stub,
            protected: provider::protected(provider),
            set_if_absent: provider::set_if_absent(provider),
        })
    }

    /// The token endpoint: as written, or else wherever the issuer says.
    fn token_url(
        &mut self,
        path: &str,
        place: &Range<usize>,
        text: Option<&Spanned<String>>,
        issuer: Option<&Issuer>,
    ) -> Option<Endpoint> {
        match (text, issuer) {
            (Some(text), _) => {
                let url = self.endpoint(text)?;
                self.warn_of_tutorial(text, &url);
                Some(Endpoint::Written(url))
            }
            (None, Some(issuer)) => Some(Endpoint::OfIssuer(issuer.clone())),
            (None, None) => {
                self.missing(path, place, "the authorization server's token endpoint, such as \"https://login.example.com/oauth/token\"; a server that tells it by itself has `issuer` instead");
                None
            }
        }
    }

    fn login_stub(&mut self, paths: Key<Texts>) -> Vec<String> {
        let paths = paths.map(Spanned::into_inner).unwrap_or_default();
        for path in paths.iter().filter(|path| plain_path(path.get_ref()).is_none()) {
            self.problems.push(Problem::error(path.span(), "not the path of a token endpoint").help(
                "a whole path, such as \"/oauth/token\": no `*`, no query, no `%`, no `..`, no empty segment",
            ));
        }
        paths.into_iter().map(Spanned::into_inner).collect()
    }

    fn scopes(&mut self, scopes: Key<Texts>) -> Vec<String> {
        let scopes = scopes.map(Spanned::into_inner).unwrap_or_default();
        for scope in scopes.iter().filter(|scope| !is_scope(scope.get_ref())) {
            self.problems.push(
                Problem::error(scope.span(), "not a scope (RFC 6749 §3.3)")
                    .help("one scope an entry, without spaces, quotes or backslashes"),
            );
        }
        scopes.into_iter().map(Spanned::into_inner).collect()
    }

    fn required_scopes(&mut self, required: Key<RequiredScopes>, asked: &[String]) -> Vec<String> {
        let Some(required) = required else {
            return Vec::new();
        };
        let place = required.span();
        match required.into_inner() {
            RequiredScopes::AsRequested(false) => Vec::new(),
            RequiredScopes::AsRequested(true) => {
                asked.iter().filter(|scope| !NEVER_LISTED.contains(&scope.as_str())).cloned().collect()
            }
            RequiredScopes::Listed(scopes) => {
                if scopes.iter().any(|scope| !is_scope(scope)) {
                    self.problems.push(Problem::error(place, "holds what is not a scope (RFC 6749 §3.3)"));
                }
                scopes
            }
        }
    }

    fn quota(&mut self, rate: Key<schema::Rate>) -> Quota {
        let default = Quota {
            requests: const { std::num::NonZeroU32::new(10).unwrap() },
            per: std::time::Duration::from_mins(1),
        };
        let Some(rate) = rate else { return default };
        let (Some(requests), Some(per)) = (&rate.get_ref().requests, &rate.get_ref().per) else {
            let missing = if rate.get_ref().per.is_none() { "per" } else { "requests" };
            self.problems.push(
                Problem::error(rate.span(), format!("`quota` lacks `{missing}`"))
                    .help("write both, such as { requests = 10, per = \"60s\" }"),
            );
            return default;
        };
        let per = per.get_ref().0;
        let requests = std::num::NonZeroU32::new(*requests.get_ref());
        if requests.is_none() {
            self.problems.push(
                Problem::error(rate.span(), "`requests` must be at least 1")
                    .help("such as { requests = 10, per = \"60s\" }"),
            );
        }
        let quota = Quota { requests: requests.unwrap_or(default.requests), per };
        // governor counts whole nanoseconds for each request.
        if quota.per.as_nanos() < u128::from(quota.requests.get()) {
            self.problems.push(
                Problem::error(rate.span(), "`per` is too short for so many requests")
                    .help("such as { requests = 10, per = \"60s\" }"),
            );
        }
        quota
    }
}

/// Whom the client's assertions are for, unless it is written: the issuer (RFC 7523 §3 lets it be either), if the
/// server is known by it.
fn default_audience(
    keys: &schema::Credential,
    issuer: Option<&Issuer>,
    token_url: Option<&Endpoint>,
) -> Option<String> {
    let is_platform = keys.provider.as_ref().is_some_and(|one| *one.get_ref() != Provider::Oauth2);
    let issuer = issuer.filter(|_| !is_platform).map(|issuer| issuer.as_str().to_owned());
    issuer.or_else(|| token_url.map(|endpoint| endpoint.as_str().to_owned()))
}

/// RFC 6749 §3.3: printable ASCII without space, `"` and `\`.
fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}
