//! `[credentials.NAME]`: identities and how they get tokens.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::placeholder::placeholders;
use super::route::plain_path;
use super::vendor_endpoint::Purpose;
use super::{Names, Resolver, api_discovery, duration, provider};
use crate::config::model::credential::{Credential, HttpVersion, Quota};
use crate::config::model::endpoint::{Endpoint, Issuer};
use crate::config::model::request::NEVER_LISTED;
use crate::config::source::choice::{Grant, Provider};
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Key;
use crate::config::source::schema::{self, Credentials, Texts};
use crate::config::source::units::RequiredScopes;

const DEFAULT_QUOTA: Quota =
    Quota { requests: const { NonZeroU32::new(10).unwrap() }, per: Duration::from_mins(1) };

const NOT_A_SCOPE: &str = "not a scope (RFC 6749 §3.3)";
const SCOPE_HELP: &str = "write one scope per entry, without spaces, quotes or backslashes";

impl Resolver<'_> {
    /// All names, also of unusable credentials, and the usable credentials. `None` for unknown names.
    pub(super) fn credentials(
        &mut self,
        credentials: Key<Credentials>,
    ) -> (Option<Names>, Vec<Arc<Credential>>) {
        let is_known = !matches!(credentials, Key::Refused);
        let mut names = Names::new();
        let mut usable = Vec::new();
        for (name, credential) in credentials.or_default().0 {
            let place = name.span();
            let name = name.into_inner();
            self.check_name("credential", &name, &place);
            let is_table = credential.is_some();
            let credential = credential.and_then(|keys| self.credential(&name, &place, keys.into_inner()));
            usable.extend(credential.map(Arc::new));
            names.insert(name, is_table.then_some(place));
        }
        (is_known.then_some(names), usable)
    }

    /// Checks the name of what a route's `credential` can name.
    pub(super) fn check_name(&mut self, what: &str, name: &str, place: &Range<usize>) {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let title = if name == "none" {
            "the name `none` is reserved for routes without a credential".to_owned()
        } else if name.is_empty() || name.starts_with('.') || !name.chars().all(is_allowed) {
            format!("the name of a {what} has only letters, digits, `-`, `_` and `.`")
        } else {
            return;
        };
        self.problems.push(Problem::error(place.clone(), title));
    }

    fn credential(
        &mut self,
        name: &str,
        owner: &Range<usize>,
        mut file: schema::Credential,
    ) -> Option<Credential> {
        // Before the provider's defaults, which are derived from the written endpoints.
        self.refuse_own_endpoints(&file);
        let preset_key = preset_key(&file);
        let is_provider_known = self.fill_in(name, owner, &mut file);
        let provider = file.provider.known_or(Provider::Oauth2).unwrap_or(Provider::Oauth2);
        let placeholders = placeholders(&file);
        let issuer = file.issuer.usable().and_then(|issuer| self.issuer(provider, issuer));
        let token_url = self.token_url(owner, &file, issuer.as_ref(), preset_key);
        let audience = default_audience(provider, issuer.as_ref(), token_url.as_ref());
        let login = self.login(owner, &file, issuer);
        let client_certificate = self.client_certificate(&file.client_certificate, &file.client_key);
        let state = self.state(name, owner, &mut file);
        let identity = self.identity(owner, &mut file, audience);
        let parameters = self.token_parameters(&mut file);
        let scopes = self.texts(file.scopes, is_scope, NOT_A_SCOPE, SCOPE_HELP);
        let grant = file.grant.usable().map(|grant| *grant.get_ref());
        let spends_refresh_tokens = matches!(grant, Some(Grant::RefreshToken | Grant::AuthorizationCode));
        let default = Duration::from_secs(if spends_refresh_tokens { 60 } else { 10 });
        let refresh_timeout = file.timeout.usable().map_or(default, |timeout| timeout.get_ref().0);
        let is_http = token_url.as_ref().is_some_and(|endpoint| endpoint.url().scheme() == "http");
        // Last: another problem of such a value says more.
        for place in placeholders {
            self.warn_of_placeholder(place);
        }
        let (roots, ca_file) = self.roots(&file.ca_file, &file.system_roots, is_http);
        // The parts that may be absent come last, so that the others are checked in any case.
        Some(Credential {
            name: name.to_owned(),
            provider: provider.as_str(),
            client_certificate,
            login,
            parameters,
            token_types: self.token_types(file.token_types),
            errors: self.error_codes(file.errors),
            fields: self.answer_fields(file.fields),
            require_scopes: self.required_scopes(file.require_scopes, &scopes),
            scopes,
            expect_jwt: file.expect_jwt.or_default(),
            refresh_margin: duration(file.refresh_margin, 300),
            default_lifetime: self.positive(file.default_lifetime, 300),
            timeout: self.positive(file.timeout, 10),
            refresh_timeout,
            connect_timeout: self.positive(file.connect_timeout, 3),
            quota: self.quota(file.quota),
            api_quota: self.api_quota(file.api_quota, provider),
            retry_after_max: self.positive(file.retry_after_max, 15 * 60),
            roots,
            ca_file,
            proxy: self.proxy(file.proxy, "token_url", is_http),
            http_version: file.http_version.or(HttpVersion::Auto),
            max_rotations: file.max_rotations.or_default(),
            rotation_grace: duration(file.rotation_grace, 0),
            state,
            required: file.required.or(true),
            discovery: api_discovery::issuer(provider, file.issuer.usable()),
            login_stub: self.login_stub(file.login_stub),
            protected: provider::protected(provider),
            set_if_absent: provider::set_if_absent(provider),
            token_url: token_url.filter(|_| is_provider_known)?,
            identity: identity?,
        })
    }

    /// The paths of logins, without a slash at their end.
    fn login_stub(&mut self, paths: Key<Texts>) -> Vec<String> {
        let help = "write a whole path, such as \"/oauth/token\": no `*`, query, `%`, `..` or empty segment";
        let mut usable = Vec::new();
        for path in paths.or_default().into_iter().flatten() {
            match plain_path(path.get_ref()) {
                Some(path) => usable.push(path),
                None => self.error(path.span(), "not the path of a token endpoint", help),
            }
        }
        usable
    }

    /// The token endpoint: configured, of a preset to which this key leads, or else discovered from the issuer.
    fn token_url(
        &mut self,
        owner: &Range<usize>,
        file: &schema::Credential,
        issuer: Option<&Issuer>,
        preset_key: Option<&'static str>,
    ) -> Option<Endpoint> {
        if file.token_url.is_absent() && !file.issuer.is_absent() {
            // An unusable issuer has been reported.
            return issuer.cloned().map(Endpoint::OfIssuer);
        }
        let help = "write the authorization server's token endpoint, such as \
                    \"https://login.example.com/oauth/token\", or the `issuer` of a server that publishes it";
        let text = self.required(owner, "token_url", &file.token_url, help)?;
        let url = self.endpoint(text)?;
        if let Some(key) = preset_key {
            return Some(Endpoint::OfPreset { url, key });
        }
        self.compare_with_vendor(Purpose::Token, text, &url);
        Some(Endpoint::Written(url))
    }

    fn required_scopes(&mut self, required: Key<RequiredScopes>, requested: &[String]) -> Vec<String> {
        match required.or(RequiredScopes::AsRequested(false)) {
            RequiredScopes::AsRequested(false) => Vec::new(),
            RequiredScopes::AsRequested(true) => {
                requested.iter().filter(|scope| !NEVER_LISTED.contains(&scope.as_str())).cloned().collect()
            }
            RequiredScopes::Listed(scopes) => {
                for scope in scopes.iter().flatten().filter(|scope| !is_scope(scope.get_ref())) {
                    self.error(scope.span(), NOT_A_SCOPE, SCOPE_HELP);
                }
                scopes.into_iter().flatten().map(Spanned::into_inner).collect()
            }
        }
    }

    pub(super) fn quota(&mut self, rate: Key<schema::Rate>) -> Quota {
        const EXAMPLE: &str = "such as { requests = 10, per = \"60s\" }";
        let Some(rate) = rate.into_usable() else { return DEFAULT_QUOTA };
        let place = rate.span();
        let schema::Rate { requests, per } = rate.into_inner();
        for (key, is_absent) in [("requests", requests.is_absent()), ("per", per.is_absent())] {
            if is_absent {
                self.error(place.clone(), format!("`quota` lacks `{key}`"), EXAMPLE);
            }
        }
        let mut quota = DEFAULT_QUOTA;
        if let Some(requests) = requests.usable() {
            match NonZeroU32::new(*requests.get_ref()) {
                Some(requests) => quota.requests = requests,
                None => self.error(requests.span(), "`requests` must be at least 1", EXAMPLE),
            }
        }
        if let Some(per) = per.usable() {
            quota.per = per.get_ref().0;
            // The rate limiter counts whole nanoseconds for each request.
            let least = if requests.usable().is_some() { quota.requests.get() } else { 1 };
            if quota.per.as_nanos() < u128::from(least) {
                self.error(per.span(), "`per` is too short for so many requests", EXAMPLE);
            }
        }
        quota
    }
}

/// The key from which a preset fills in `token_url`, if any preset does.
const fn preset_key(file: &schema::Credential) -> Option<&'static str> {
    match (&file.token_url, &file.region) {
        (Key::Absent, Key::Absent) => Some("issuer"),
        (Key::Absent, _) => Some("region"),
        _ => None,
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
