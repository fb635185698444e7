//! The shipped `proxy.toml`, which documents every key: the descriptions, defaults and order of the keys.
//!
//! A comment describes the keys below it. In it, a line that begins with the names of some of them and a colon, or a
//! sentence that begins with one name and a colon, describes these alone.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The text of the file.
pub const TEXT: &str = include_str!("../../../proxy.toml");

/// The beginnings of lines of keys without a default, which show an example.
pub const EXAMPLES: [&str; 13] = [
    "#key = ",
    "#host = ",
    "#host_header = ",
    "#allow = ",
    "#ca_file = ",
    "#client_certificate = ",
    "#client_key = ",
    "#server_name = ",
    "#proxy = ",
    "#token = ",
    "#tls = ",
    // Of a route: without the key, the limit is the server's.
    "#body_timeout = \"60s\"",
    "#body_rate = \"0\"",
];

/// Keys whose line in an example shows the default.
const DEFAULTS_IN_EXAMPLES: [&str; 6] = [
    "callers.quota",
    "callers.weight",
    "credentials.max_rotations",
    "credentials.state_key_previous",
    "credentials.redirect_uri",
    "credentials.subject_token_type",
];

/// Descriptions of keys that the file describes only together with others.
const DESCRIPTIONS: [(&str, &str); 61] = [
    ("server", "The listeners, and the requirements on callers."),
    ("server.tls", "TLS for callers, on all addresses but unix sockets."),
    ("server.tls.certificate", "PEM file with the certificate and its intermediates."),
    ("server.tls.private_key", "PEM file with the private key of the certificate."),
    (
        "server.tls.client_ca",
        "PEM file with the certificate authorities of client certificates; if set, callers must present a certificate.",
    ),
    ("server.limits", "Bounds on what callers may use."),
    ("health", "The address of health checks and metrics alone."),
    ("admin", "The admin address: health checks and the operator's API."),
    ("admin.tls.certificate", "PEM file with the certificate and its intermediates."),
    ("admin.tls.private_key", "PEM file with the private key of the certificate."),
    (
        "admin.tls.client_ca",
        "PEM file with the certificate authorities of client certificates; if set, clients must present a certificate.",
    ),
    (
        "callers",
        "The applications that call, by name, and what identifies each. Once there is a caller, requests of none get \
         `caller_unknown`, unless there is [callers.other].",
    ),
    (
        "callers.networks",
        "Networks of the application; of networks within each other, the smallest counts. Behind `server.trusted_proxies`, \
         the address that the proxy names counts, for the log, metrics and budgets alone.",
    ),
    ("callers.quota.requests", "The most requests in any interval of `per`."),
    ("callers.quota.per", "The interval, from 100ms to 24h."),
    ("callers.quota.wait", "Longest wait of a request for its turn, at most 5m; 2s by default."),
    ("shared", "The store through which replicas share tokens: Redis or Valkey."),
    ("credentials", "Identities by name, and how they get tokens."),
    ("pools", "Several credentials of one API, used as one, by a name that routes use as `credential`."),
    ("routes", "Which requests go to which API, with which credential."),
    ("audit", "The audit trail: every event as one JSON object per line."),
    ("webhooks", "Receivers of events."),
    ("log", "The log, which goes to standard error."),
    ("tracing", "Traces of requests and token requests, for OpenTelemetry."),
    ("credentials.client_id", "The id of the OAuth client, as the provider shows it."),
    ("credentials.client_secret", "The secret of the OAuth client."),
    (
        "credentials.issuer",
        "The issuer of a server that publishes its endpoints (RFC 8414, OpenID Connect Discovery), exactly as the server \
         writes it; for provider = \"cxone\" the issuer of CXone.",
    ),
    (
        "credentials.region",
        "For provider = \"genesys\": the domain of the login and API hosts, or the region of AWS.",
    ),
    ("credentials.username", "The user name of grant = \"password\"; for CXone, the id of the access key."),
    (
        "credentials.password",
        "The password of grant = \"password\"; for CXone, the secret of the access key.",
    ),
    ("credentials.refresh_token", "The first refresh token of grant = \"refresh_token\"."),
    ("credentials.subject_token", "The token that grant = \"token_exchange\" gives in return (RFC 8693)."),
    ("credentials.subject_token_type", "The type of `subject_token` (RFC 8693 §3)."),
    (
        "credentials.client_certificate",
        "PEM file with the certificate that the client presents to the token endpoint.",
    ),
    ("credentials.client_key", "PEM file with the private key of `client_certificate`."),
    (
        "credentials.assertion",
        "The JWT of \"private_key_jwt\" and \"jwt_bearer\": signed by bearerd with `key`, or read from `file`, which \
         another process keeps fresh.",
    ),
    ("credentials.assertion.key", "The private key: PEM (PKCS#8, PKCS#1 or SEC1)."),
    ("credentials.assertion.kid", "The id of the key; without the key, none is sent."),
    ("credentials.assertion.alg", "The algorithm of the signature."),
    ("credentials.assertion.aud", "The audience; without the key, the issuer or the token URL."),
    (
        "credentials.assertion.sub",
        "The subject of the grant's JWT; without the key, the client id; an empty text is none.",
    ),
    ("credentials.assertion.claims", "Additional claims."),
    (
        "credentials.assertion.lifetime",
        "The time from a token request to `exp`, at most 55 minutes; 270 s by default.",
    ),
    (
        "credentials.assertion.x5t",
        "Whether the header has the SHA-256 thumbprint of the certificate beside the private key in `key`.",
    ),
    ("credentials.assertion.file", "The path of an assertion that another process keeps fresh."),
    ("credentials.fields", "The places of the members of a token response, each a name or a path with dots."),
    ("credentials.quota", "Quota of token requests: a burst of `requests`, refilled over `per`."),
    ("credentials.quota.requests", "The number of token requests."),
    ("credentials.quota.per", "The time over which the quota is refilled."),
    ("credentials.api_quota.requests", "The most requests in any interval of `per`."),
    ("credentials.api_quota.per", "The interval, from 100ms to 24h."),
    (
        "credentials.api_quota.learn",
        "Whether what the API says about its limit lowers the budget; true by default.",
    ),
    ("credentials.api_quota.wait", "Longest wait of a request for its turn, at most 5m; 2s by default."),
    ("routes.retry_429.attempts", "Most retries of a request; 0 passes the 429 on."),
    ("routes.retry_429.max_wait", "Longest total wait of a request."),
    ("routes.retry_429.methods", "The methods to retry."),
    ("routes.breaker.failures", "Least number of failures within `window`."),
    ("routes.breaker.percent", "Least share of failures among the responses, in percent."),
    ("routes.breaker.window", "The time over which failures are counted."),
    ("routes.breaker.open", "The first pause; each further one doubles."),
    ("routes.breaker.open_max", "The longest pause."),
];

/// A key of the file.
#[derive(Debug)]
pub(in crate::config) struct ShippedKey {
    /// The path without the name of a caller or a credential, such as `credentials.client_id`.
    pub(in crate::config) path: String,
    /// The comment about the key.
    pub(in crate::config) comment: Vec<String>,
    /// The value as it is written.
    pub(in crate::config) value: String,
    /// Whether the value is the default.
    pub(in crate::config) is_default: bool,
}

/// The keys in the order of the file. A key of several credentials is that of the first.
pub(in crate::config) fn keys() -> Vec<ShippedKey> {
    let mut keys: Vec<ShippedKey> = Vec::new();
    let mut section = String::new();
    let mut comment: Vec<String> = Vec::new();
    let (mut is_example, mut follows_key) = (false, false);
    for line in TEXT.lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if let Some(header) = bare.strip_prefix('[') {
            let path = header.trim_matches(['[', ']']);
            let named = ["callers", "credentials", "pools"]
                .into_iter()
                .find(|section| path.strip_prefix(section).is_some_and(|name| name.starts_with('.')));
            named.unwrap_or(path).clone_into(&mut section);
            is_example = line.starts_with('#');
            // The comment above an example describes its keys.
            if !is_example {
                comment.clear();
            }
            follows_key = false;
        } else if let Some((key, value)) = key_and_value(bare) {
            let path = format!("{section}.{key}");
            if keys.iter().all(|known| known.path != path) {
                let is_commented_out = line.starts_with('#');
                let shows_example = is_example || EXAMPLES.iter().any(|example| line.starts_with(example));
                let is_default =
                    (is_commented_out && !shows_example) || DEFAULTS_IN_EXAMPLES.contains(&path.as_str());
                keys.push(ShippedKey { path, comment: comment.clone(), value: value.to_owned(), is_default });
            }
            follows_key = true;
        } else if let Some(text) = line.strip_prefix("# ") {
            if follows_key {
                comment.clear();
                follows_key = false;
            }
            comment.push(text.to_owned());
        } else {
            comment.clear();
            (is_example, follows_key) = (false, false);
        }
    }
    keys
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let is_key = key.starts_with(|c: char| c.is_ascii_lowercase()) && key.bytes().all(is_of_key);
    is_key.then_some((key, value))
}

const fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// What the file says of a key, as one paragraph.
pub(in crate::config) fn description(path: &str, keys: &[ShippedKey]) -> Option<String> {
    if let Some((_, text)) = DESCRIPTIONS.iter().find(|(own, _)| *own == path) {
        return Some((*text).to_owned());
    }
    let (table, name) = path.rsplit_once('.')?;
    if let Some(shipped) = keys.iter().find(|key| key.path == path) {
        let known: BTreeSet<&str> = keys.iter().filter_map(|key| key.path.rsplit('.').next()).collect();
        return Some(part_about(name, &shipped.comment, &known));
    }
    // A key of an inline table.
    let of_table = description(table, keys)?;
    Some(sentence_about(name, &of_table).unwrap_or(of_table))
}

/// The item of a comment about this key; without one, the text before the first item.
fn part_about(name: &str, comment: &[String], known: &BTreeSet<&str>) -> String {
    let mut parts: Vec<(Vec<&str>, String)> = vec![(Vec::new(), String::new())];
    for line in comment {
        match item(line, known) {
            Some((names, text)) => parts.push((names, capitalized(text))),
            None => {
                if let Some((_, part)) = parts.last_mut() {
                    let blank = if part.is_empty() { "" } else { " " };
                    let _ = write!(part, "{blank}{line}");
                }
            }
        }
    }
    let own = parts.iter().find(|(names, _)| names.contains(&name));
    let (_, text) = own.unwrap_or(&parts[0]);
    sentence_about(name, text).unwrap_or_else(|| text.clone())
}

/// The names before the colon of a line that begins an item, and the rest of the line.
fn item<'l>(line: &'l str, known: &BTreeSet<&str>) -> Option<(Vec<&'l str>, &'l str)> {
    let (names, rest) = line.split_once(": ")?;
    let names: Vec<&str> = names.split(", ").collect();
    names.iter().all(|name| known.contains(name)).then_some((names, rest))
}

/// The sentence that begins with the name of a key and a colon, without these.
fn sentence_about(name: &str, text: &str) -> Option<String> {
    [format!("`{name}`: "), format!("{name}: ")].iter().find_map(|beginning| {
        let starts = |at: usize| at == 0 || text[..at].ends_with(". ");
        let (at, _) = text.match_indices(beginning).find(|(at, _)| starts(*at))?;
        let rest = &text[at + beginning.len()..];
        let end = rest.find(". ").map_or(rest.len(), |end| end + 1);
        Some(capitalized(&rest[..end]))
    })
}

fn capitalized(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}
