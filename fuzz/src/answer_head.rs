//! Any head of an upstream's answer: what callers are shown of it, its trailers, and what it says of token and time.

use std::time::Duration;

use bearerd::config::Retry429;
use bearerd::config::model::fields::is_hop_by_hop;
use bearerd::proxy::message::challenge::is_insufficient_scope;
use bearerd::proxy::message::headers::for_caller;
use bearerd::proxy::message::trailers;
use bearerd::proxy::message::via::Via;
use bearerd::proxy::service::retry::RetryBudget;
use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, SET_COOKIE, TE, TRANSFER_ENCODING, VIA, WWW_AUTHENTICATE,
};
use http::{Method, Response, StatusCode, Version};

const MAX_WAIT: Duration = Duration::from_mins(1);

fn head(bytes: &[u8]) -> Option<Response<()>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut fields);
    if !parsed.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let mut response = Response::builder().status(parsed.code?);
    for field in parsed.headers.iter() {
        response = response.header(field.name, field.value);
    }
    response.body(()).ok()
}

/// Whether a field is one that `Connection` names.
fn is_named(headers: &HeaderMap, name: &HeaderName) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(name.as_str()))
}

fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h HeaderValue> {
    headers.get_all(name).iter().collect()
}

pub fn run(input: &[u8]) {
    let Some(response) = head(input) else { return };
    let before = response.headers();

    // What is the connection's own ends here; all else is passed on as it is.
    let mut after = before.clone();
    for_caller(&mut after, Version::HTTP_11, &Via::new("bearerd-1"));
    for name in before.keys().filter(|name| *name != VIA) {
        let is_framing = name == CONTENT_LENGTH || name == HOST;
        let ends = is_hop_by_hop(name) || name == ALT_SVC || is_named(before, name) && !is_framing;
        let expected = if ends { Vec::new() } else { values(before, name) };
        assert_eq!(values(&after, name), expected, "{name}");
    }
    assert_eq!(after.get_all(VIA).iter().next_back().unwrap(), "1.1 bearerd-1");

    // No trailer says what a head alone may say.
    let announced = trailers::announced(before);
    let passed = trailers::filtered(before.clone()).unwrap_or_default();
    for never in [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE, TRANSFER_ENCODING] {
        assert!(!passed.contains_key(&never));
    }
    for name in announced.iter().flat_map(|names| names.to_str().expect("names are text").split(", ")) {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        assert_eq!(
            trailers::filtered(HeaderMap::from_iter([(name, HeaderValue::from_static("x"))])).unwrap().len(),
            1
        );
    }
    assert!(!trailers::are_accepted(before) || before.contains_key(TE));

    // A challenge more hides none, and none is read out of nothing.
    let says_so =
        |value: &HeaderValue| value.as_bytes().windows(18).any(|part| part == b"insufficient_scope");
    let is_said = before.get_all(WWW_AUTHENTICATE).iter().any(says_so);
    assert!(!is_insufficient_scope(before) || is_said);
    let mut more = before.clone();
    more.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"insufficient_scope\""));
    assert!(is_insufficient_scope(&more));

    // A 429 is waited out for as long as the route gives, whatever it asks for.
    let mut too_many = response;
    *too_many.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let mut retries = RetryBudget::new(
        &Retry429 { attempts: 10, max_wait: MAX_WAIT, methods: vec![Method::GET] },
        &Method::GET,
    );
    let mut waited = Duration::ZERO;
    for _ in 0..10 {
        let Some(wait) = retries.wait(&too_many) else { break };
        waited += wait;
    }
    assert!(waited <= MAX_WAIT);
    let asked: Option<u64> = match values(too_many.headers(), &RETRY_AFTER).as_slice() {
        [only] => {
            only.to_str().ok().filter(|text| !text.contains('+')).and_then(|text| text.trim().parse().ok())
        }
        _ => None,
    };
    assert!(waited.is_zero() || asked.is_none_or(|asked| waited.as_secs() >= asked));
}
