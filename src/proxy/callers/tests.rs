//! Tests of which caller a request is of.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};

use super::*;
use crate::config::KeyHash;
use crate::proxy::peer::Networks;

const KEY: &str = "kR9-vT2_0123456789abcdefghijklmnopqrstuvwxyz";
const OTHER_KEY: &str = "zZ9-vT2_0123456789abcdefghijklmnopqrstuvwxyz";

fn caller(name: &str, networks: &[&str], certificates: &[&str], keys: &[&str]) -> Caller {
    Caller {
        name: name.to_owned(),
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        certificates: certificates.iter().map(|name| (*name).to_owned()).collect(),
        keys: keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect(),
        weight: 1,
        quota: None,
    }
}

/// Callers by every means; two of them have networks within each other.
fn callers() -> Callers {
    Callers::new(&[
        caller("batch", &["10.0.0.0/8", "2001:db8::/32"], &[], &[]),
        caller("billing", &["10.1.0.0/16"], &["CN=billing"], &[]),
        caller("crm", &[], &["CN=crm", "DNS:crm.internal"], &[KEY]),
        caller("desk", &["10.1.2.3/32"], &[], &[OTHER_KEY, "short-key"]),
    ])
    .unwrap()
}

fn with_other() -> Callers {
    Callers::new(&[caller("billing", &["10.1.0.0/16"], &[], &[KEY]), caller(OTHER, &[], &[], &[])]).unwrap()
}

fn fields(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("any-user:{key}")))
}

/// What is known of a request: fields, names in the certificate, the peer's address, and that of the client behind a proxy.
type Shown<'s> = (&'s [(&'s str, &'s str)], &'s [&'s str], Option<&'s str>, Option<&'s str>);

/// The name of the caller, and whether it is proven.
fn named(
    callers: &Callers,
    (fields_shown, names, peer, forwarded): Shown<'_>,
) -> Result<(String, bool), Unidentified> {
    let peer = peer.map_or(Peer::UNIX, |ip| Networks::default().judge(format!("{ip}:1").parse().unwrap()));
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let connection = callers.of_connection(&names, &peer);
    let forwarded = forwarded.map(|address| address.parse().unwrap());
    let identified = callers.identify(&fields(fields_shown), None, connection, forwarded)?;
    Ok((callers.name(identified.caller).to_owned(), identified.is_proven))
}

#[test]
fn a_key_counts_before_a_certificate_and_that_before_an_address() {
    let callers = callers();
    let (key, basic) = ([("x-api-key", KEY)], basic(KEY));
    let password = [("authorization", basic.as_str())];
    let unknown = [("x-api-key", "a key that no caller has")];
    for (shown, expected) in [
        ((&key[..], &["CN=billing"][..], Some("10.1.2.3"), None), Ok(("crm", true))),
        ((&password, &[], None, None), Ok(("crm", true))),
        ((&unknown, &["CN=other", "CN=billing"], Some("10.9.0.1"), None), Ok(("billing", true))),
        ((&[], &["DNS:crm.internal"], Some("10.9.0.1"), None), Ok(("crm", true))),
        ((&[], &[], Some("10.9.0.1"), None), Ok(("batch", true))),
        ((&[], &[], Some("192.0.2.1"), None), Err(Unidentified::Unknown)),
        ((&[], &[], None, None), Err(Unidentified::Unknown)),
        ((&unknown, &[], None, None), Err(Unidentified::Unknown)),
    ] {
        let expected = expected.map(|(name, is_proven)| (name.to_owned(), is_proven));
        assert_eq!(named(&callers, shown), expected, "{shown:?}");
    }
}

#[test]
fn of_networks_within_each_other_the_longest_prefix_counts() {
    let callers = callers();
    for (address, name) in [
        ("10.1.2.3", Some("desk")),
        ("10.1.2.4", Some("billing")),
        ("10.2.2.3", Some("batch")),
        ("[2001:db8::1]", Some("batch")),
        ("[::ffff:10.1.2.3]", Some("desk")),
        ("[2001:db9::1]", None),
        ("11.1.2.3", None),
    ] {
        let found = named(&callers, (&[], &[], Some(address), None)).ok().map(|(name, _)| name);
        assert_eq!(found.as_deref(), name, "{address}");
    }
}

#[test]
fn what_a_trusted_proxy_says_names_a_caller_and_proves_none() {
    let callers = callers();
    let behind = |forwarded| named(&callers, (&[], &[], Some("10.1.2.3"), Some(forwarded)));

    assert_eq!(behind("10.9.0.1"), Ok(("batch".to_owned(), false)));
    // The proxy's own address counts where no network has the client's.
    assert_eq!(behind("192.0.2.1"), Ok(("desk".to_owned(), true)));
}

#[test]
fn whoever_no_other_caller_is_is_other_and_is_not_proven() {
    let callers = with_other();
    assert_eq!(named(&callers, (&[], &[], Some("192.0.2.1"), None)), Ok((OTHER.to_owned(), false)));
    assert_eq!(named(&callers, (&[], &[], None, None)), Ok((OTHER.to_owned(), false)));
    assert_eq!(callers.find(OTHER).map(CallerIndex::get), Some(1));
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let callers = callers();
    let shown = |fields: &[(&str, &str)]| named(&callers, (fields, &[], None, None));
    let (own, other) = (basic(KEY), basic(OTHER_KEY));

    assert_eq!(shown(&[("x-api-key", KEY), ("x-api-key", KEY)]), Err(Unidentified::SeveralKeys));
    assert_eq!(shown(&[("x-api-key", KEY), ("authorization", &other)]), Err(Unidentified::TwoCallers));
    assert_eq!(shown(&[("authorization", &own), ("authorization", &other)]), Err(Unidentified::TwoCallers));
    let crm = Ok(("crm".to_owned(), true));
    assert_eq!(shown(&[("x-api-key", KEY), ("authorization", &own)]), crm);
    assert_eq!(shown(&[("x-api-key", "nobody's"), ("authorization", &own)]), crm);
    assert_eq!(shown(&[("x-api-key", KEY), ("authorization", "Bearer theirs")]), crm);
}

#[test]
fn a_key_of_fewer_than_16_bytes_is_never_accepted() {
    assert_eq!(
        named(&callers(), (&[("x-api-key", "short-key")], &[], None, None)),
        Err(Unidentified::Unknown)
    );
}

#[test]
fn a_key_in_a_query_is_found_in_every_form() {
    let callers = callers();
    let refused = |query: &str| {
        let found =
            callers.identify(&fields(&[("x-api-key", KEY)]), Some(query), OfConnection::default(), None);
        found == Err(Unidentified::KeyInQuery)
    };
    let escaped = KEY.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    for query in [
        format!("api_key={KEY}"),
        format!("a=1&key={KEY}&b=2"),
        format!("a;{KEY}"),
        KEY.to_owned(),
        format!("key={}", KEY.replace('_', "%5F")),
        escaped,
    ] {
        assert!(refused(&query), "{query}");
    }
    for query in ["", "a=1", &format!("key={KEY}x"), &format!("key={}", &KEY[1..]), &"a&".repeat(30_000)] {
        assert!(!refused(query), "{query}");
    }
}

#[test]
fn the_field_of_a_key_is_removed_in_every_spelling_where_there_are_keys() {
    let sent =
        [("x-api-key", KEY), ("x_api_key", KEY), ("x.api-key", KEY), ("x-api-keys", "1"), ("accept", "*/*")];
    let left = |callers: &Callers| {
        let mut headers = fields(&sent);
        callers.remove_key(&mut headers, true);
        let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    };

    assert_eq!(left(&callers()), ["accept", "x-api-keys"]);
    let without_keys = Callers::new(&[caller("batch", &["10.0.0.0/8"], &[], &[])]).unwrap();
    assert_eq!(left(&without_keys).len(), sent.len());
    assert!(Callers::new(&[]).is_none());
}
