//! The identifier of a request (`X-Request-Id`), which the caller, the API and the log share.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Builder;
use uuid::fmt::Hyphenated;

use crate::clock::wall_clock;

/// The field that carries the identifier.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest identifier of a caller that is kept, in bytes.
const MAX_BYTES: usize = 128;

/// The identifier of a request: visible ASCII.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's identifier if the head has exactly one, of at most 128 visible ASCII characters; else a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut given = headers.get_all(X_REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(only), None) if is_kept(only.as_bytes()) => Self(only.clone()),
            _ => Self::random(),
        }
    }

    /// A new identifier: a UUID of version 7 (RFC 9562 §5.7), which sorts by time.
    ///
    /// # Panics
    ///
    /// Never: a UUID is visible ASCII.
    pub fn random() -> Self {
        let since_epoch = wall_clock().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let mut random = [0; 10];
        random[..8].copy_from_slice(&fastrand::u64(..).to_ne_bytes());
        random[8..].copy_from_slice(&fastrand::u16(..).to_ne_bytes());
        let id = Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid();
        let mut text = [0; Hyphenated::LENGTH];
        id.as_hyphenated().encode_lower(&mut text);
        // An owner makes the copies in heads cheap: `Bytes` of a vector allocates at its first copy.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        Self(value.expect("a UUID is visible ASCII"))
    }

    /// The value of the field.
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_kept(value: &[u8]) -> bool {
    (1..=MAX_BYTES).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use uuid::{Uuid, Variant, Version};

    use super::*;

    fn of(values: &[&[u8]]) -> String {
        let name_and_value = |value: &&[u8]| (X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&values.iter().map(name_and_value).collect()).as_str().to_owned()
    }

    fn is_new(id: &str) -> bool {
        let uuid = Uuid::parse_str(id).ok();
        id.len() == 36
            && uuid.is_some_and(|uuid| {
                uuid.get_version() == Some(Version::SortRand) && uuid.get_variant() == Variant::RFC4122
            })
    }

    #[test]
    fn a_callers_identifier_of_visible_ascii_is_kept() {
        let longest = "x".repeat(128);
        for kept in ["a", "0192-ab_c/d+e=", "{\"a\":\"\\b\"}", &longest] {
            assert_eq!(of(&[kept.as_bytes()]), kept);
        }
    }

    #[test]
    fn any_other_identifier_is_replaced_by_a_uuid_of_version_7() {
        let too_long = [b'x'; 129];
        for replaced in [&b""[..], b"a b", b"a\tb", b"\xe2\x80\xa8", b"a\xff", &too_long] {
            assert!(is_new(&of(&[replaced])), "{replaced:?}");
        }
        assert!(is_new(&of(&[])));
        assert!(is_new(&of(&[b"a", b"a"])), "two fields");
    }

    #[test]
    fn new_identifiers_differ_and_begin_with_the_time() {
        let before = wall_clock().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ids: HashSet<String> = (0..10_000).map(|_| of(&[])).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            let (seconds, _) = Uuid::parse_str(&id).unwrap().get_timestamp().unwrap().to_unix();
            assert!((before..before + 60).contains(&seconds), "{id}");
        }
    }

    proptest! {
        #[test]
        fn no_value_of_a_caller_leads_to_other_characters(
            value in prop::collection::vec(32_u8..=255, 0..200),
        ) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let id = of(&[value.as_bytes()]);
            prop_assert!(id.bytes().all(|byte| byte.is_ascii_graphic()) && (1..=128).contains(&id.len()));
        }
    }
}
