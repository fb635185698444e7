//! The successful response to a token request (RFC 6749 §5.1), read member by member.
//!
//! No bytes that a server can send make the reader panic, and no error quotes the response.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::exchange::Body;
use super::members::{MAX_DEPTH, Member, depth, members_at, without_mark};
use crate::clock::wall_clock;
use crate::config::{AnswerFields, MemberPath};
use crate::http::server_time;
use crate::token::error::Malformed;

/// The longest lifetime of a token, a year; a longer one is shortened to this.
pub const MAX_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// The members that state the lifetime of a refresh token: Keycloak's, that of Microsoft, GitHub and others, and Intuit's.
const REFRESH_LIFETIMES: [&str; 3] =
    ["refresh_expires_in", "refresh_token_expires_in", "x_refresh_token_expires_in"];
/// A refresh token with a longer lifetime counts as one that never ends.
const MAX_REFRESH_LIFETIME: Duration = Duration::from_hours(50 * 365 * 24);

/// A successful response (RFC 6749 §5.1), before its token is checked against the credential's requirements.
#[derive(Clone)]
pub struct TokenResponse {
    /// The access token.
    pub access_token: Zeroizing<String>,
    /// The member `expires_in`; `None` if it is missing.
    pub lifetime: Option<Duration>,
    /// Whether the lifetime was longer than [`MAX_LIFETIME`] and was shortened.
    pub lifetime_was_cut: bool,
    /// Whether the Content-Type is a JSON media type.
    pub is_labelled_json: bool,
    /// The granted scopes; `None` means as requested.
    pub scopes: Option<Vec<String>>,
    /// The server's clock, by the field `Date`.
    pub server_time: Option<SystemTime>,
    /// The new refresh token; `None` keeps the old one (RFC 6749 §6).
    pub refresh_token: Option<SecretString>,
    /// The ID token of a login (OpenID Connect Core 1.0 §3.1.3.3).
    pub id_token: Option<SecretString>,
    /// The lifetime of the refresh token in use from now on; zero where the server says that it never ends, and `None`
    /// where the server does not say.
    pub refresh_lifetime: Option<Duration>,
    /// Why the access token is unusable. A response with a flaw is an error unless it has a refresh token,
    /// which must not be lost.
    pub flaw: Option<Malformed>,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse")
            .field("lifetime", &self.lifetime)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// The members that a response is expected to have.
#[derive(Clone, Copy, Debug)]
pub(in crate::token) struct Expected<'a> {
    /// The places of the members.
    pub fields: &'a AnswerFields,
    /// The accepted values of `token_type`, compared without regard to case.
    pub token_types: &'a [String],
}

/// Reads a successful response. If the response was cut after its JSON object, its refresh token is kept, but
/// not its access token.
pub(super) fn read(
    headers: &HeaderMap,
    body: &Body,
    expected: Expected<'_>,
) -> Result<TokenResponse, Malformed> {
    let response = read_object(headers, &body.bytes, expected);
    if body.is_complete {
        return response;
    }
    let response = response.map_err(|_| Malformed::Incomplete)?;
    if response.refresh_token.is_none() {
        return Err(Malformed::Incomplete);
    }
    Ok(TokenResponse { access_token: Zeroizing::default(), flaw: Some(Malformed::Incomplete), ..response })
}

fn read_object(headers: &HeaderMap, body: &[u8], expected: Expected<'_>) -> Result<TokenResponse, Malformed> {
    let fields = expected.fields;
    let body = without_mark(body);
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Malformed::Empty);
    }
    if depth(body) > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let [access_token, expires_in, refresh_token, scope] =
        [&fields.access_token, &fields.expires_in, &fields.refresh_token, &fields.scope]
            .map(MemberPath::as_str);
    let [end, other_end, third_end] = REFRESH_LIFETIMES;
    let paths = [
        access_token,
        expires_in,
        "expires_on",
        "expires_at",
        "token_type",
        scope,
        refresh_token,
        "id_token",
        end,
        other_end,
        third_end,
    ];
    let [
        access_token,
        expires_in,
        end_as_number,
        end_as_date,
        token_type,
        scope,
        refresh_token,
        id_token,
        ends @ ..,
    ] = members_at(paths, body)
        .map_err(|error| Malformed::NotJson { line: error.line(), column: error.column() })?;
    let server_time = server_time(headers);
    let (refresh_token, its_flaw) = match refresh_token.text("refresh_token") {
        Ok(token) => (token.filter(|token| !token.is_empty()).map(SecretString::from), None),
        Err(flaw) => (None, Some(flaw)),
    };
    let usable = || {
        its_flaw.map_or(Ok(()), Err)?;
        let access_token =
            access_token.text("access_token")?.map(Zeroizing::new).ok_or(Malformed::NoToken)?;
        let kind = token_type.text("token_type")?;
        if kind
            .is_some_and(|kind| !expected.token_types.iter().any(|known| known.eq_ignore_ascii_case(&kind)))
        {
            return Err(Malformed::TokenType);
        }
        let lifetime = match expires_in.value("expires_in")? {
            Some(json) => lifetime(json)?,
            None => left_until([&end_as_number, &end_as_date], server_time.unwrap_or_else(wall_clock))?,
        };
        Ok((access_token, lifetime, scope.words("scope")?))
    };
    let ((access_token, (lifetime, lifetime_was_cut), scopes), flaw) = match usable() {
        Ok(usable) => (usable, None),
        Err(flaw) if refresh_token.is_none() => return Err(flaw),
        Err(flaw) => ((Zeroizing::default(), (None, false), None), Some(flaw)),
    };
    let refresh_lifetime = ends.iter().find_map(refresh_lifetime);
    let is_labelled_json = headers.get(CONTENT_TYPE).is_some_and(is_json);
    Ok(TokenResponse {
        access_token,
        lifetime,
        lifetime_was_cut,
        is_labelled_json,
        scopes,
        server_time,
        refresh_token,
        id_token: id_token.text("id_token").ok().flatten().map(SecretString::from),
        refresh_lifetime,
        flaw,
    })
}

/// The lifetime of a refresh token. A value that is no number of seconds is ignored.
fn refresh_lifetime(member: &Member<'_>) -> Option<Duration> {
    let seconds = seconds(member.value("refresh_expires_in").ok()??).ok()?;
    let lifetime = Duration::try_from_secs_f64(seconds.floor()).unwrap_or(Duration::MAX);
    // A token of a human lifetime never ends for the daemon.
    Some(if lifetime < MAX_REFRESH_LIFETIME { lifetime } else { Duration::ZERO })
}

/// Whether a media type is `application/json` (RFC 6749 §5.1), or another one with the suffix of JSON (RFC 6839 §3.1).
fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads `expires_in` from its raw JSON: a number, or a string that holds a number. The second value is
/// whether the lifetime was shortened.
///
/// The function takes raw JSON, because servers send numbers that no number type holds.
fn lifetime(json: &str) -> Result<(Option<Duration>, bool), Malformed> {
    let seconds = seconds(json)?;
    if seconds < 1.0 {
        return Ok((Some(Duration::ZERO), false));
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(lifetime) if lifetime <= MAX_LIFETIME => Ok((Some(lifetime), false)),
        _ => Ok((Some(MAX_LIFETIME), true)),
    }
}

/// Reads the lifetime from the moment of the token's end, as the first of these members that holds one: a number of seconds
/// since 1970, or of milliseconds if the number is too large for that, or a date by RFC 3339. Other values are ignored.
///
/// # Errors
///
/// [`Malformed::Ended`] if the moment has passed.
fn left_until(members: [&Member<'_>; 2], now: SystemTime) -> Result<(Option<Duration>, bool), Malformed> {
    let Some(end) = members.into_iter().find_map(|member| moment(member.value("expires_at").ok()??)) else {
        return Ok((None, false));
    };
    match end.duration_since(now) {
        Ok(left) if left.as_secs() > 0 => Ok((Some(left.min(MAX_LIFETIME)), left > MAX_LIFETIME)),
        _ => Err(Malformed::Ended),
    }
}

fn moment(json: &str) -> Option<SystemTime> {
    /// In 2001. A smaller number is no moment.
    const MIN_SECONDS: f64 = 1e9;
    /// In the year 5138 as seconds, and in 1973 as milliseconds.
    const MIN_MILLISECONDS: f64 = 1e11;
    let Ok(number) = seconds(json) else {
        let date: Timestamp = serde_json::from_str::<String>(json).ok()?.trim().parse().ok()?;
        return Some(date.into());
    };
    let seconds = if number < MIN_MILLISECONDS { number } else { number / 1000.0 };
    let since_1970 = Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds >= MIN_SECONDS)?;
    UNIX_EPOCH.checked_add(since_1970)
}

/// Reads a number of seconds from its raw JSON: a number, or a string that holds a number.
fn seconds(json: &str) -> Result<f64, Malformed> {
    let text = match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(json).map_err(|_| Malformed::Lifetime)?,
        _ => json.to_owned(),
    };
    let text = text.trim();
    let looks_like_a_number = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if !looks_like_a_number {
        return Err(Malformed::Lifetime);
    }
    text.parse().map_err(|_| Malformed::Lifetime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lifetime_of_a_refresh_token_is_read_from_each_known_member() {
        let lifetime = |members: &str| {
            let body = format!("{{\"access_token\":\"a\",\"refresh_token\":\"r\",{members}}}");
            let body = Body { bytes: body.into_bytes().into(), is_complete: true };
            let expected = Expected { fields: &AnswerFields::default(), token_types: &["Bearer".to_owned()] };
            let response = read(&HeaderMap::new(), &body, expected).unwrap();
            response.refresh_lifetime.map(|lifetime| lifetime.as_secs())
        };
        for (members, expected) in [
            ("\"refresh_expires_in\":1800", Some(1800)),
            ("\"refresh_expires_in\":\"1800\"", Some(1800)),
            ("\"refresh_expires_in\":1800.9", Some(1800)),
            ("\"refresh_token_expires_in\":15897600", Some(15_897_600)),
            ("\"x_refresh_token_expires_in\":8726400", Some(8_726_400)),
            // 0 is never, and so is a lifetime of centuries.
            ("\"refresh_expires_in\":0", Some(0)),
            ("\"refresh_expires_in\":1e300", Some(0)),
            // Anything else is as if it were not there, and costs no token.
            ("\"refresh_expires_in\":null", None),
            ("\"refresh_expires_in\":-1", None),
            ("\"refresh_expires_in\":\"soon\"", None),
            ("\"refresh_expires_in\":{}", None),
            ("\"refresh_expires_in\":1,\"refresh_expires_in\":2", None),
            ("\"refresh_expires_in\":\"x\",\"refresh_token_expires_in\":7", Some(7)),
        ] {
            assert_eq!(lifetime(members), expected, "{members}");
        }
    }

    /// The response to this body at noon of 2026-11-29 by the server's clock.
    fn at_noon(body: &str) -> Result<TokenResponse, Malformed> {
        let body = Body { bytes: body.as_bytes().to_owned().into(), is_complete: true };
        let expected = Expected { fields: &AnswerFields::default(), token_types: &["Bearer".to_owned()] };
        let date = HeaderValue::from_static("Sun, 29 Nov 2026 12:00:00 GMT");
        read(&HeaderMap::from_iter([(http::header::DATE, date)]), &body, expected)
    }

    #[test]
    fn without_expires_in_the_moment_of_the_end_counts() {
        let lifetime = |members: &str| {
            let response = at_noon(&format!("{{\"access_token\":\"a\",{members}}}"));
            response.map(|response| response.lifetime.map(|lifetime| lifetime.as_secs()))
        };
        for (members, expected) in [
            ("\"expires_on\":\"1795957200\"", Ok(Some(3600))),
            ("\"expires_on\":1795957200", Ok(Some(3600))),
            ("\"expires_at\":1795957200.5", Ok(Some(3600))),
            ("\"expires_at\":1795957200000", Ok(Some(3600))),
            ("\"expires_at\":\"2026-11-29T13:00:00Z\"", Ok(Some(3600))),
            ("\"expires_at\":\"2026-11-29T14:00:00+01:00\"", Ok(Some(3600))),
            ("\"expires_in\":60,\"expires_on\":1795957200", Ok(Some(60))),
            ("\"expires_on\":null,\"expires_at\":1795957200", Ok(Some(3600))),
            // A token past its end is no token.
            ("\"expires_on\":\"1700000000\"", Err(Malformed::Ended)),
            ("\"expires_at\":\"2020-01-01T00:00:00Z\"", Err(Malformed::Ended)),
            // What is no moment is as if it were not there.
            ("\"expires_at\":3600", Ok(None)),
            ("\"expires_at\":\"tomorrow\"", Ok(None)),
            ("\"expires_on\":{}", Ok(None)),
        ] {
            assert_eq!(lifetime(members), expected, "{members}");
        }
    }

    #[test]
    fn a_byte_order_mark_costs_no_token() {
        let response = at_noon("\u{feff}{\"access_token\":\"a\",\"refresh_token\":\"r\"}").unwrap();

        assert!(*response.access_token == *"a" && response.refresh_token.is_some());
    }

    proptest! {
        #[test]
        fn no_lifetime_makes_it_panic_or_is_longer_than_a_year(text in "[-+.eE0-9\"a-z ]{0,30}") {
            if let Ok((Some(lifetime), _)) = lifetime(&text) {
                prop_assert!(lifetime <= MAX_LIFETIME);
            }
        }
    }
}
