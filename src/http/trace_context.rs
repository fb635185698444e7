//! The trace that a request belongs to (W3C Trace Context, levels 1 and 2).
//!
//! A caller's trace goes on unchanged. A malformed one counts as absent, and its fields end here.

use std::fmt;

use http::{HeaderMap, HeaderName};

/// The field that names the trace and the caller's span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field with what tracing systems add, which means nothing without [`TRACEPARENT`].
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The trace of a request, and the span of the caller in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that caused the request.
    pub parent_id: u64,
    /// The flags: 1 is "sampled", 2 is "random trace id".
    pub flags: u8,
}

/// The identifier of a trace, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceContext {
    /// The trace of a head; `None` unless the head has exactly one well-formed `traceparent`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let only = given.next()?;
        if given.next().is_some() { None } else { Self::parse(only.as_bytes()) }
    }

    /// Reads `version-traceid-parentid-flags`. A version after 00 may be followed by more after another hyphen.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let version = hexadecimal(&known[..2])?;
        let is_ended = more.is_empty() || (version > 0 && more[0] == b'-');
        let is_separated = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
        if version == 0xff || !is_ended || !is_separated {
            return None;
        }
        let trace_id = hexadecimal(&known[3..35]).filter(|id| *id != 0)?;
        let parent_id = hexadecimal(&known[36..52]).filter(|id| *id != 0)?;
        let flags = hexadecimal(&known[53..])?;
        Some(Self {
            trace_id: TraceId(trace_id),
            parent_id: u64::try_from(parent_id).ok()?,
            flags: u8::try_from(flags).ok()?,
        })
    }
}

/// The number that at most 32 lower-case digits stand for.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_is_read() {
        let trace = TraceContext::parse(GOOD.as_bytes()).unwrap();

        assert_eq!(trace.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((trace.parent_id, trace.flags), (0x00f0_67aa_0ba9_02b7, 1));
    }

    #[test]
    fn a_later_version_may_have_more_members() {
        for good in [
            "00-00000000000000000000000000000001-0000000000000001-ff",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
            "fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        ] {
            assert!(TraceContext::parse(good.as_bytes()).is_some(), "{good}");
        }
    }

    #[test]
    fn anything_else_is_no_trace() {
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn two_fields_are_no_trace() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceContext::of(&headers), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..80)) {
            TraceContext::parse(&text);
        }

        #[test]
        fn whatever_is_read_is_shown_as_it_was(id in 1_u128.., parent in 1_u64.., flags in any::<u8>()) {
            let text = format!("00-{id:032x}-{parent:016x}-{flags:02x}");
            let trace = TraceContext::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(trace, TraceContext { trace_id: TraceId(id), parent_id: parent, flags });
            prop_assert_eq!(trace.trace_id.to_string(), &text[3..35]);
        }
    }
}
