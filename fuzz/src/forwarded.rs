//! Any `X-Forwarded-For` and `Forwarded`: nobody calls in another's name past a proxy that is trusted.

use std::net::IpAddr;

use bearerd::config::Forwarded;
use bearerd::proxy::message::forwarded::{ForwardedFields, client_address};
use bearerd::proxy::peer::{Networks, Peer};
use http::Request;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn peer(address: &str, trusted: &[IpNet]) -> Peer {
    let networks = Networks { trusted_proxies: trusted.to_vec(), ..Networks::default() };
    networks.judge(address.parse().expect("an address"))
}

pub fn run(input: &[u8]) {
    // A field each line: of the one name, or with a `=` before it of the other.
    let mut said = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(16) {
        let (name, value) = line.strip_prefix(b"=").map_or((X_FORWARDED_FOR, line), |rest| (FORWARDED, rest));
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        said.append(name, value);
    }
    let trusted: Vec<IpNet> =
        ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network")).into();
    let (proxy, stranger) = (peer("10.0.0.1:1", &trusted), peer("192.0.2.9:1", &trusted));

    assert_eq!(client_address(&stranger, &said, &trusted), None);
    let found = client_address(&proxy, &said, &trusted);
    assert_eq!(found.map(|address| address.to_canonical()), found);
    let alone = |name: HeaderName| {
        let mut headers = said.clone();
        headers.remove(name);
        client_address(&proxy, &headers, &trusted)
    };
    if said.contains_key(X_FORWARDED_FOR) && said.contains_key(FORWARDED) {
        let (by_list, by_rfc) = (alone(FORWARDED), alone(X_FORWARDED_FOR));
        assert_eq!(found, by_list.filter(|_| by_list == by_rfc));
    }

    // The proxy adds who has called it, as a field of its own or to the last there is; that counts, or nothing does.
    let caller: IpAddr = "198.51.100.7".parse().expect("an address");
    for (name, entry) in [(X_FORWARDED_FOR, "198.51.100.7"), (FORWARDED, "for=198.51.100.7;proto=https")] {
        let other = if name == FORWARDED { X_FORWARDED_FOR } else { FORWARDED };
        let mut one = said.clone();
        one.remove(other);
        let mut more = one.clone();
        more.append(&name, HeaderValue::from_static(entry));
        assert_eq!(client_address(&proxy, &more, &trusted), Some(caller));
        let joined: Vec<&[u8]> =
            one.get_all(&name).iter().map(HeaderValue::as_bytes).chain([entry.as_bytes()]).collect();
        let joined = HeaderValue::from_bytes(&joined.join(&b", "[..])).expect("all of it was good");
        let named = client_address(&proxy, &HeaderMap::from_iter([(name, joined)]), &trusted);
        assert!(named.is_none_or(|address| address == caller), "{named:?}");
    }

    // What an upstream is told is ours.
    let head = Request::get("/x").header("host", "gw.test:8080").body(()).expect("a request").into_parts().0;
    for how in [Forwarded::XForwarded, Forwarded::Forwarded] {
        let mut told = said.clone();
        ForwardedFields::of(how, &head, found, true).expect("one is told").write(&mut told);
        let by_them = match how {
            Forwarded::Forwarded => {
                told.remove(X_FORWARDED_FOR);
                FORWARDED
            }
            _ => {
                told.remove(FORWARDED);
                X_FORWARDED_FOR
            }
        };
        assert!(told.get_all(by_them).iter().count() <= 1);
        let far = found.filter(|address| !trusted.iter().any(|network| network.contains(address)));
        if far.is_some() {
            assert_eq!(client_address(&proxy, &told, &trusted), far);
        }
    }
}
