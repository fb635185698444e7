//! Names that other products give to the keys of `proxy.toml`.

use std::borrow::Cow;

use super::nearest::nearest_key;

/// Names of other products, each with the keys that can be meant. The first key that a section has is meant there.
const SYNONYMS: &[(&[&str], &[&str])] = &[
    (&["token_endpoint", "token_uri", "token_endpoint_url", "access_token_url", "oauth_url"], &["token_url"]),
    (
        &["authorization_endpoint", "authorization_url", "auth_url", "auth_uri", "authorize_uri"],
        &["authorize_url"],
    ),
    (&["issuer_url", "issuer_uri", "authority", "oidc_issuer", "discovery_url", "well_known"], &["issuer"]),
    (&["redirect_url", "callback_url", "callback", "redirect"], &["redirect_uri"]),
    (&["client", "consumer_key", "app_id", "application_id", "clientid"], &["client_id"]),
    (&["secret", "consumer_secret", "app_secret", "api_secret", "clientsecret"], &["client_secret", "token"]),
    (&["user", "login", "user_name"], &["username"]),
    (&["pass", "passwd", "pwd"], &["password"]),
    (&["token_endpoint_auth_method", "auth_method", "auth_style", "client_authentication"], &["client_auth"]),
    (&["flow"], &["grant"]),
    (&["environment", "domain"], &["region", "host", "hosts"]),
    (&["aud"], &["aud", "audience"]),
    (&["audience", "audiences"], &["audience", "aud"]),
    (&["subject"], &["sub", "subject_token"]),
    (&["algorithm", "signing_algorithm"], &["alg"]),
    (&["key_id"], &["kid"]),
    (&["key"], &["key", "private_key", "client_key", "state_key", "key_hash"]),
    (&["keys", "api_keys", "hash", "key_hashes", "api_key_hash"], &["key_hash"]),
    (&["members", "credential"], &["credentials"]),
    (&["cidr", "cidrs", "ip", "ips", "subnets", "source_ips"], &["networks"]),
    (&["private_key"], &["private_key", "key", "client_key", "assertion"]),
    (&["tls_key", "ssl_key", "ssl_certificate_key", "key_file", "keyfile"], &["private_key", "client_key"]),
    (
        &["cert", "certfile", "cert_file", "tls_cert", "ssl_cert", "ssl_certificate", "certificate_file"],
        &["certificate", "client_certificate"],
    ),
    (&["certificate"], &["certificate", "client_certificate"]),
    (&["client_cert"], &["client_certificate"]),
    (
        &["ca", "cacert", "ca_cert", "ca_bundle", "ca_certs", "cafile", "root_ca", "trusted_ca"],
        &["ca_file", "client_ca"],
    ),
    (
        &["ssl_client_certificate", "client_ca_file", "client_cas", "mtls", "client_auth_ca"],
        &["client_ca", "ca_file"],
    ),
    (&["ssl", "https"], &["tls"]),
    (
        &["port", "ports", "bind", "bind_address", "address", "addr", "listener", "listen_address"],
        &["listen"],
    ),
    (&["interface", "listen_on", "http_port", "server_port"], &["listen"]),
    (&["threads", "num_workers", "worker_processes", "concurrency"], &["workers"]),
    (&["allowed_hosts", "server_name", "server_names", "virtual_hosts", "hostnames"], &["hosts", "host"]),
    (&["allowed_origins", "cors", "cors_origins"], &["origins"]),
    (&["allowed_ips", "whitelist", "allowlist", "allowed_networks", "allow_list"], &["allow_from", "allow"]),
    (&["trusted_proxy", "set_real_ip_from"], &["trusted_proxies"]),
    (&["shutdown_timeout", "graceful_timeout", "grace_period", "drain_timeout"], &["drain"]),
    (&["data_dir", "cache_dir", "storage", "state_path"], &["state_dir", "state_file"]),
    (&["encryption_key", "cookie_secret"], &["state_key"]),
    (&["backend", "target", "url", "uri", "proxy_pass", "destination", "dest"], &["upstream", "token_url"]),
    (
        &["upstreams", "upstream_url", "target_url", "base_url", "backend_url", "service", "forward_to"],
        &["upstream", "token_url"],
    ),
    (&["prefix", "path_prefix", "location", "route", "pattern", "match"], &["path"]),
    (&["rewrite", "strip_path", "strip"], &["strip_prefix"]),
    (&["auth", "provider", "oauth", "credentials"], &["credential"]),
    (&["add_header", "add_headers", "set_headers", "request_headers", "header"], &["headers"]),
    (&["add", "replace", "override"], &["set"]),
    (&["default", "add_if_absent"], &["set_if_absent"]),
    (&["delete", "drop", "strip_headers"], &["remove"]),
    (&["websocket", "websockets", "upgrades"], &["upgrade"]),
    (&["circuit_breaker"], &["breaker"]),
    (&["max_connections", "connection_limit", "pool_size", "maxconn"], &["connections"]),
    (&["retry", "retries", "max_retries", "max_attempts"], &["attempts", "retry_429"]),
    (&["scope"], &["scopes"]),
    (&["ttl", "lifetime", "expires_in", "token_lifetime", "token_ttl"], &["default_lifetime"]),
    (&["leeway", "skew", "clock_skew", "refresh_before", "early_refresh", "margin"], &["refresh_margin"]),
    (&["rate_limit", "ratelimit", "rate"], &["quota"]),
    (&["interval", "period"], &["per", "window"]),
    (&["limit", "burst"], &["requests"]),
    (&["params", "extra_params", "endpoint_params", "additional_parameters"], &["extra"]),
    (&["timeout_seconds", "request_timeout", "proxy_read_timeout"], &["timeout"]),
    (&["keepalive_timeout", "keep_alive"], &["idle_timeout"]),
    (&["client_max_body_size", "max_body_size", "max_body"], &["body_bytes"]),
    (&["http_proxy", "https_proxy", "proxy_url"], &["proxy"]),
    (&["log_level", "loglevel", "verbosity"], &["level"]),
    (&["log_format"], &["format"]),
    (&["access_log"], &["access"]),
    (&["admin_token", "api_key", "bearer_token"], &["token", "key_hash"]),
    (&["auto_reload", "hot_reload", "reload"], &["watch"]),
];

/// The key of a section that an unknown key probably stands for: the same words in another style (`clientId`,
/// `client-id`), another product's name for it, or the nearest spelling.
pub(in crate::config) fn meant_key(known: &[&'static str], written: &str) -> Option<&'static str> {
    let name = snake_case(written);
    let is_same = |key: &&&str| **key == name || key.replace('_', "") == name;
    let same = known.iter().find(is_same).copied();
    same.or_else(|| synonym(known, &name)).or_else(|| nearest_key(known, &name))
}

/// The key among these that other products call so.
pub(in crate::config) fn synonym(known: &[&'static str], written: &str) -> Option<&'static str> {
    let name = snake_case(written);
    let keys = SYNONYMS.iter().find(|(names, _)| names.contains(&name.as_ref())).map(|(_, keys)| *keys)?;
    keys.iter().find_map(|key| known.iter().find(|known| *known == key).copied())
}

/// `clientId`, `ClientID`, `client-id` and `client.id` as `client_id`.
fn snake_case(written: &str) -> Cow<'_, str> {
    if written.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return written.into();
    }
    let mut name = String::with_capacity(written.len() + 4);
    let mut is_after_lower = false;
    for character in written.chars() {
        if is_after_lower && character.is_ascii_uppercase() {
            name.push('_');
        }
        is_after_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
        name.push(if matches!(character, '-' | '.' | ' ') { '_' } else { character.to_ascii_lowercase() });
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::section::Section;

    #[test]
    fn a_name_of_another_product_leads_to_the_key_of_the_section() {
        for (section, written, key) in [
            (Section::Credential, "token_endpoint", "token_url"),
            (Section::Credential, "tokenEndpoint", "token_url"),
            (Section::Credential, "url", "token_url"),
            (Section::Route, "url", "upstream"),
            (Section::Route, "proxy_pass", "upstream"),
            (Section::Route, "backend", "upstream"),
            (Section::Route, "target", "upstream"),
            (Section::Route, "strip-path", "strip_prefix"),
            (Section::Credential, "client-id", "client_id"),
            (Section::Credential, "clientId", "client_id"),
            (Section::Credential, "clientID", "client_id"),
            (Section::Credential, "clientid", "client_id"),
            (Section::Credential, "scope", "scopes"),
            (Section::Credential, "secret", "client_secret"),
            (Section::Admin, "secret", "token"),
            (Section::Credential, "ttl", "default_lifetime"),
            (Section::Credential, "issuer_url", "issuer"),
            (Section::Credential, "issuerUrl", "issuer"),
            (Section::Credential, "aud", "audience"),
            (Section::Credential, "flow", "grant"),
            (Section::Server, "port", "listen"),
            (Section::Server, "bind", "listen"),
            (Section::Admin, "address", "listen"),
            (Section::Tls, "tls_cert", "certificate"),
            (Section::Tls, "cert", "certificate"),
            (Section::Tls, "ssl_certificate", "certificate"),
            (Section::Tls, "ssl_certificate_key", "private_key"),
            (Section::Tls, "key", "private_key"),
            (Section::Log, "log_level", "level"),
            (Section::Limits, "client_max_body_size", "body_bytes"),
            (Section::Limits, "replayBody", "replay_body"),
            (Section::Limits, "replay_bdoy", "replay_body"),
        ] {
            assert_eq!(meant_key(section.keys(), written), Some(key), "{written} in {section:?}");
        }
        assert_eq!(meant_key(Section::Log.keys(), "proxy_pass"), None);
    }

    #[test]
    fn each_synonym_leads_to_a_key_and_stands_once() {
        let inline = ["attempts", "alg", "kid", "sub", "aud", "key", "per", "window", "requests"];
        let fields = ["set", "set_if_absent", "remove"];
        let mut names: Vec<&str> = Vec::new();
        for (written, keys) in SYNONYMS {
            for key in *keys {
                let is_known = Section::ALL.into_iter().any(|section| section.keys().contains(key));
                assert!(is_known || inline.contains(key) || fields.contains(key), "{key}");
            }
            names.extend(*written);
        }
        let written = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), written, "a name stands twice");
    }
}
