//! `[credentials.NAME]`: identities and how they get tokens.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::placeholder::placeholders;
use super::route::plain_path;
use super::{Owner, Resolver, api_discovery, duration, or_default, provider};
use crate::config::model::credential::{Credential, HttpVersion, Quota};
use crate::config::model::endpoint::{Endpoint, Issuer};
use crate::config::model::request::NEVER_LISTED;
use crate::config::source::choice::{Grant, Provider};
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema::{self, Texts};
use crate::config::source::units::RequiredScopes;

const DEFAULT_QUOTA: Quota =
    Quota { requests: const { NonZeroU32::new(10).unwrap() }, per: Duration::from_mins(1) };

impl Resolver<'_> {
    /// All names with their places, also of unusable credentials, and the usable credentials.
    pub(super) fn credentials(
        &mut self,
        credentials: BTreeMap<Spanned<String>, Spanned<schema::Credential>>,
    ) -> (BTreeMap<String, Range<usize>>, Vec<Arc<Credential>>) {
        let mut names = BTreeMap::new();
        let mut usable = Vec::new();
        for (name, credential) in credentials {
            let place = name.span();
            let name = name.into_inner();
            self.check_name(&name, &place);
            let owner = Owner { path: format!("credentials.{name}"), place: place.clone() };
            usable.extend(self.credential(&name, &owner, credential.into_inner()).map(Arc::new));
            names.insert(name, place);
        }
        (names, usable)
    }

    fn check_name(&mut self, name: &str, place: &Range<usize>) {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let title = if name == "none" {
            "the name `none` is reserved for routes without a credential"
        } else if name.is_empty() || name.starts_with('.') || !name.chars().all(is_allowed) {
            "the name of a credential has only letters, digits, `-`, `_` and `.`"
        } else {
            return;
        };
        self.problems.push(Problem::error(place.clone(), title));
    }

    fn credential(&mut self, name: &str, owner: &Owner, mut file: schema::Credential) -> Option<Credential> {
        let provider = file.provider.as_ref().map_or(Provider::Oauth2, |provider| *provider.get_ref());
        // Before the provider's defaults, which are derived from the written endpoints.
        self.refuse_own_endpoints(&file);
        self.fill_in(owner, provider, &mut file);
        let placeholders = placeholders(&file);
        let issuer = self.issuer(provider, file.issuer.as_ref());
        let token_url = if file.token_url.is_none() && file.issuer.is_some() && issuer.is_none() {
            // The issuer has been reported.
            None
        } else {
            self.token_url(owner, file.token_url.as_ref(), issuer.as_ref())
        };
        let audience = default_audience(provider, issuer.as_ref(), token_url.as_ref());
        let login = self.login(owner, &file, issuer);
        let client_certificate =
            self.client_certificate(file.client_certificate.as_ref(), file.client_key.as_ref());
        let state = self.state(name, owner, &mut file);
        let identity = self.identity(owner, &mut file, audience);
        let parameters = self.token_parameters(&mut file);
        let help = "write one scope per entry, without spaces, quotes or backslashes";
        let scopes = self.texts(file.scopes, is_scope, "not a scope (RFC 6749 §3.3)", help);
        let grant = file.grant.as_ref().map(|grant| *grant.get_ref());
        let spends_refresh_tokens = matches!(grant, Some(Grant::RefreshToken | Grant::AuthorizationCode));
        let refresh_timeout = duration(file.timeout.clone(), if spends_refresh_tokens { 60 } else { 10 });
        let is_http = token_url.as_ref().is_some_and(|endpoint| endpoint.url().scheme() == "http");
        // Last: another problem of such a value says more.
        for place in placeholders {
            self.warn_of_placeholder(place);
        }
        let (roots, ca_file) = self.roots(file.ca_file, file.system_roots, is_http);
        // The parts that may be absent come last, so that the others are checked in any case.
        Some(Credential {
            name: name.to_owned(),
            client_certificate,
            login,
            parameters,
            token_types: self.token_types(file.token_types),
            errors: self.error_codes(file.errors),
            fields: self.answer_fields(file.fields),
            require_scopes: self.required_scopes(file.require_scopes, &scopes),
            scopes,
            expect_jwt: or_default(file.expect_jwt),
            refresh_margin: duration(file.refresh_margin, 300),
            default_lifetime: self.positive(file.default_lifetime, 300),
            timeout: self.positive(file.timeout, 10),
            refresh_timeout,
            connect_timeout: self.positive(file.connect_timeout, 3),
            quota: self.quota(file.quota),
            retry_after_max: self.positive(file.retry_after_max, 15 * 60),
            roots,
            ca_file,
            proxy: self.proxy(file.proxy, "token_url", is_http),
            http_version: file.http_version.map_or(HttpVersion::Auto, Spanned::into_inner),
            max_rotations: or_default(file.max_rotations),
            state,
            required: file.required.is_none_or(Spanned::into_inner),
            discovery: api_discovery::issuer(provider, file.issuer.as_ref()),
            login_stub: self.login_stub(file.login_stub),
            protected: provider::protected(provider),
            set_if_absent: provider::set_if_absent(provider),
            token_url: token_url?,
            identity: identity?,
        })
    }

    /// The paths of logins, without a slash at their end.
    fn login_stub(&mut self, paths: Key<Texts>) -> Vec<String> {
        let help = "write a whole path, such as \"/oauth/token\": no `*`, query, `%`, `..` or empty segment";
        let mut usable = Vec::new();
        for path in or_default(paths) {
            match plain_path(path.get_ref()) {
                Some(path) => usable.push(path),
                None => self.error(path.span(), "not the path of a token endpoint", help),
            }
        }
        usable
    }

    /// The token endpoint: configured, or else discovered from the issuer.
    fn token_url(
        &mut self,
        owner: &Owner,
        text: Option<&Spanned<String>>,
        issuer: Option<&Issuer>,
    ) -> Option<Endpoint> {
        if let (None, Some(issuer)) = (text, issuer) {
            return Some(Endpoint::OfIssuer(issuer.clone()));
        }
        let help = "write the authorization server's token endpoint, such as \
                    \"https://login.example.com/oauth/token\", or the `issuer` of a server that publishes it";
        let text = self.required(owner, "token_url", text, help)?;
        let url = self.endpoint(text)?;
        self.warn_of_tutorial(text, &url);
        Some(Endpoint::Written(url))
    }

    fn required_scopes(&mut self, required: Key<RequiredScopes>, requested: &[String]) -> Vec<String> {
        let Some(required) = required else { return Vec::new() };
        let place = required.span();
        match required.into_inner() {
            RequiredScopes::AsRequested(false) => Vec::new(),
            RequiredScopes::AsRequested(true) => {
                requested.iter().filter(|scope| !NEVER_LISTED.contains(&scope.as_str())).cloned().collect()
            }
            RequiredScopes::Listed(scopes) => {
                if scopes.iter().any(|scope| !is_scope(scope)) {
                    let title = "an entry is not a scope (RFC 6749 §3.3)";
                    self.problems.push(Problem::error(place, title));
                }
                scopes
            }
        }
    }

    fn quota(&mut self, rate: Key<schema::Rate>) -> Quota {
        const EXAMPLE: &str = "such as { requests = 10, per = \"60s\" }";
        let Some(rate) = rate else { return DEFAULT_QUOTA };
        let place = rate.span();
        let schema::Rate { requests, per } = rate.into_inner();
        let (requests, per) = match (requests, per) {
            (Some(requests), Some(per)) => (NonZeroU32::new(*requests.get_ref()), per.into_inner().0),
            (requests, _) => {
                let missing = if requests.is_none() { "requests" } else { "per" };
                self.error(place, format!("`quota` lacks `{missing}`"), EXAMPLE);
                return DEFAULT_QUOTA;
            }
        };
        if requests.is_none() {
            self.error(place.clone(), "`requests` must be at least 1", EXAMPLE);
        }
        let quota = Quota { requests: requests.unwrap_or(DEFAULT_QUOTA.requests), per };
        // The rate limiter counts whole nanoseconds for each request.
        if quota.per.as_nanos() < u128::from(quota.requests.get()) {
            self.error(place, "`per` is too short for so many requests", EXAMPLE);
        }
        quota
    }
}

/// The default audience of the client's assertions: the issuer (RFC 7523 §3), or else the token endpoint.
///
/// The known platforms have an issuer but expect the token endpoint.
fn default_audience(
    provider: Provider,
    issuer: Option<&Issuer>,
    token_url: Option<&Endpoint>,
) -> Option<String> {
    let issuer = issuer.filter(|_| provider == Provider::Oauth2).map(|issuer| issuer.as_str().to_owned());
    issuer.or_else(|| token_url.map(|endpoint| endpoint.as_str().to_owned()))
}

/// RFC 6749 §3.3: printable ASCII without space, `"` and `\`.
fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}
