//! Reads a response's fields about the limit of the API.
//!
//! Genesys Cloud sends `inin-ratelimit-count`, `-allowed` and `-reset`. `RateLimit` and `RateLimit-Policy` are those of
//! draft-ietf-httpapi-ratelimit-headers, in its later form (`"name";r=50;t=30`) and its earlier ones (`limit=100, remaining=50,
//! reset=30`, and `RateLimit-Limit` with its kin). `X-RateLimit-Limit`, `-Remaining` and `-Reset` have no specification: a
//! reset is in seconds, or a time in seconds or milliseconds since 1970. A field that is not legible says nothing.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::ledger::Report;
use crate::http::retry_after;

/// A longer time until a reset is a mistake, or another unit than seconds.
const MAX_RESET: u64 = 24 * 60 * 60;
/// Smaller numbers are seconds until a reset, larger ones a time since 1970: in seconds, or from the second on in milliseconds.
const FIRST_TIME: u64 = 1_000_000_000;
const FIRST_MILLISECOND_TIME: u64 = 1_000_000_000_000;

/// The fields of one family, as far as they are legible.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    limit: Seen,
    remaining: Seen,
    /// Of Genesys: the requests so far.
    count: Seen,
    reset: Seen,
}

/// A number that a field names.
#[derive(Clone, Copy, Debug, Default)]
enum Seen {
    #[default]
    Absent,
    /// More than one value, or no number.
    Illegible,
    Number(u64),
}

impl Seen {
    const fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Absent | Self::Illegible => None,
        }
    }

    fn take(&mut self, value: &HeaderValue) {
        *self = match (*self, number(value.as_bytes())) {
            (Self::Absent, Some(number)) => Self::Number(number),
            _ => Self::Illegible,
        };
    }
}

/// The response's report about the limit, if it has one. `per` is the interval of the configured limit; `now` is asked where a
/// field names a time.
pub fn report(
    status: StatusCode,
    headers: &HeaderMap,
    per: Duration,
    now: impl Fn() -> SystemTime,
) -> Option<Report> {
    let mut report = Report::default();
    let (mut genesys, mut draft, mut informal) = (Fields::default(), Fields::default(), Fields::default());
    for (name, value) in headers {
        let name = name.as_str();
        // Most names end here.
        if !matches!(name.as_bytes(), [b'r', b'a', ..] | [b'x', b'-', b'r', ..] | [b'i', b'n', b'i', ..]) {
            continue;
        }
        match name {
            "inin-ratelimit-count" => genesys.count.take(value),
            "inin-ratelimit-allowed" => genesys.limit.take(value),
            "inin-ratelimit-reset" => genesys.reset.take(value),
            "ratelimit-limit" => draft.limit.take(value),
            "ratelimit-remaining" => draft.remaining.take(value),
            "ratelimit-reset" => draft.reset.take(value),
            "x-ratelimit-limit" | "x-rate-limit-limit" => informal.limit.take(value),
            "x-ratelimit-remaining" | "x-rate-limit-remaining" => informal.remaining.take(value),
            "x-ratelimit-reset" | "x-rate-limit-reset" => informal.reset.take(value),
            "ratelimit" => report.merge_left(structured_left(value)),
            "ratelimit-policy" => report.allowed = structured_limit(value, per).or(report.allowed),
            _ => {}
        }
    }
    if let (Some(count), Some(limit)) =
        (genesys.count.number(), genesys.limit.number().filter(|limit| *limit > 0))
    {
        report.allowed = Some(small(limit));
        report.merge_left(left(Some(limit.saturating_sub(count)), genesys.reset, &now));
    }
    for fields in [draft, informal] {
        report.merge_left(left(fields.remaining.number(), fields.reset, &now));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        report.pause = retry_after(headers).filter(|pause| !pause.is_zero());
        if report.pause.is_none() {
            let resets = [genesys.reset, draft.reset, informal.reset];
            let reset = resets.into_iter().find_map(|reset| until_reset(reset, &now));
            report.merge_left(reset.map(|reset| (0, reset)));
        }
    }
    (report != Report::default()).then_some(report)
}

impl Report {
    /// Takes what is left by another field, if that is less.
    fn merge_left(&mut self, other: Option<(u32, Duration)>) {
        self.left = match (self.left, other) {
            (Some(own), Some(other)) => Some(if other.0 < own.0 { other } else { own }),
            (own, other) => own.or(other),
        };
    }
}

/// The requests left until the reset; nothing where either is unknown, or the reset is now.
fn left(remaining: Option<u64>, reset: Seen, now: &impl Fn() -> SystemTime) -> Option<(u32, Duration)> {
    Some((small(remaining?), until_reset(reset, now)?))
}

fn until_reset(reset: Seen, now: &impl Fn() -> SystemTime) -> Option<Duration> {
    let number = reset.number()?;
    let until = if number < FIRST_TIME {
        Duration::from_secs(number)
    } else {
        let since = if number < FIRST_MILLISECOND_TIME {
            Duration::from_secs(number)
        } else {
            Duration::from_millis(number)
        };
        SystemTime::UNIX_EPOCH.checked_add(since)?.duration_since(now()).ok()?
    };
    (!until.is_zero() && until.as_secs() <= MAX_RESET).then_some(until)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A whole number: digits only.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// The members of a list (RFC 9651 §3.1) with the numbers among their parameters. A quoted name has no `,` or `;` in practice; where
/// it has, the member is not legible and says nothing.
fn members(value: &HeaderValue) -> impl Iterator<Item = (&[u8], impl Fn(&str) -> Option<u64>)> {
    value.as_bytes().split(|byte| *byte == b',').map(|member| {
        let (name, parameters) = match member.iter().position(|byte| *byte == b';') {
            Some(end) => member.split_at(end),
            None => (member, &member[..0]),
        };
        let parameter = move |key: &str| {
            let mut all = parameters.split(|byte| *byte == b';').filter_map(|parameter| {
                let value = parameter.trim_ascii().strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
                number(value)
            });
            all.next()
        };
        (name.trim_ascii(), parameter)
    })
}

/// `"name";r=50;t=30`, the member with the least left; or `limit=100, remaining=50, reset=30`.
fn structured_left(value: &HeaderValue) -> Option<(u32, Duration)> {
    let until = |seconds| Some(Duration::from_secs(seconds)).filter(|_| (1..=MAX_RESET).contains(&seconds));
    let later =
        members(value).filter_map(|(_, parameter)| Some((small(parameter("r")?), until(parameter("t")?)?)));
    if let Some(least) = later.min_by_key(|(left, _)| *left) {
        return Some(least);
    }
    let earlier = |key: &[u8]| {
        let value = members(value).find_map(|(name, _)| name.strip_prefix(key)?.strip_prefix(b"="))?;
        number(value)
    };
    Some((small(earlier(b"remaining")?), until(earlier(b"reset")?)?))
}

/// `"name";q=100;w=60`: the limit of the policy whose window is `per`.
fn structured_limit(value: &HeaderValue, per: Duration) -> Option<u32> {
    let is_own = |window: u64| Duration::from_secs(window) == per;
    let limits = members(value).filter_map(|(name, parameter)| {
        let limit = parameter("q").or_else(|| number(name))?;
        parameter("w").filter(|window| is_own(*window)).map(|_| small(limit))
    });
    limits.filter(|limit| *limit > 0).min()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn read(status: u16, fields: &[(&str, &str)]) -> Option<Report> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        report(StatusCode::from_u16(status).unwrap(), &headers, MINUTE, now)
    }

    fn left(fields: &[(&str, &str)]) -> Option<(u32, u64)> {
        read(200, fields)?.left.map(|(left, until)| (left, until.as_secs()))
    }

    #[test]
    fn a_response_without_fields_of_a_limit_says_nothing() {
        assert_eq!(read(200, &[("content-type", "text/plain"), ("range", "x"), ("x-request-id", "1")]), None);
        assert_eq!(read(429, &[]), None);
    }

    #[test]
    fn genesys_says_how_many_requests_it_counted_and_allows() {
        let fields = [
            ("inin-ratelimit-count", "120"),
            ("inin-ratelimit-allowed", "300"),
            ("inin-ratelimit-reset", "21"),
        ];
        let report = read(200, &fields).unwrap();
        assert_eq!((report.allowed, report.left), (Some(300), Some((180, Duration::from_secs(21)))));
        assert_eq!(left(&[fields[0], fields[1]]), None, "without a reset nobody knows for how long");
        let over = [("inin-ratelimit-count", "310"), fields[1], fields[2]];
        assert_eq!(left(&over), Some((0, 21)));
    }

    #[test]
    fn the_drafts_forms_are_read() {
        for fields in [
            &[("ratelimit", "\"default\";r=50;t=30")][..],
            &[("ratelimit", "\"burst\";r=90;t=1, \"minute\"; t=30 ;r=50")],
            &[("ratelimit", "limit=100, remaining=50, reset=30")],
            &[("ratelimit-limit", "100"), ("ratelimit-remaining", "50"), ("ratelimit-reset", "30")],
        ] {
            assert_eq!(left(fields), Some((50, 30)), "{fields:?}");
        }
        let policy = |value| read(200, &[("ratelimit-policy", value)]).and_then(|report| report.allowed);
        assert_eq!(
            policy("\"burst\";q=10;w=1,\"minute\";q=100;w=60"),
            Some(100),
            "that of the configured interval"
        );
        assert_eq!(policy("100;w=60"), Some(100));
        assert_eq!(policy("\"day\";q=10;w=86400"), None);
    }

    #[test]
    fn a_reset_is_in_seconds_or_a_time_since_1970() {
        for reset in ["30".to_owned(), (NOW + 30).to_string(), ((NOW + 30) * 1000).to_string()] {
            let fields = [("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", reset.as_str())];
            assert_eq!(left(&fields), Some((7, 30)), "{reset}");
            let fields = [("x-rate-limit-remaining", "7"), ("x-rate-limit-reset", reset.as_str())];
            assert_eq!(left(&fields), Some((7, 30)), "{reset}");
        }
    }

    #[test]
    fn nonsense_is_as_if_it_were_not_there() {
        let year = (365 * 24 * 60 * 60).to_string();
        for wrong in [
            "-1",
            "-30",
            "",
            "soon",
            "1.5",
            "1e3",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "2026-11-30",
            "7, 8",
            &year,
            "0",
            "99999999999999999999",
            "1000000001",
        ] {
            assert_eq!(
                left(&[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", wrong)]),
                None,
                "{wrong:?}"
            );
            let genesys = [
                ("inin-ratelimit-count", "1"),
                ("inin-ratelimit-allowed", "300"),
                ("inin-ratelimit-reset", wrong),
            ];
            assert_eq!(left(&genesys), None, "{wrong:?}");
        }
        for wrong in ["-1", "", "many", "7, 8", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(
                left(&[("x-ratelimit-remaining", wrong), ("x-ratelimit-reset", "30")]),
                None,
                "{wrong:?}"
            );
        }
        let twice =
            [("x-ratelimit-remaining", "7"), ("x-ratelimit-remaining", "8"), ("x-ratelimit-reset", "30")];
        assert_eq!(left(&twice), None);
        for wrong in [
            "\"a\";r=-1;t=30",
            "\"a\";r=1",
            "\"a\";t=30",
            "\"a;b\";c",
            "r=1;t=30",
            ";;,,=",
            "\"a\";r=1;t=99999999",
        ] {
            assert_eq!(left(&[("ratelimit", wrong)]), None, "{wrong:?}");
        }
        let none =
            [("inin-ratelimit-count", "0"), ("inin-ratelimit-allowed", "0"), ("inin-ratelimit-reset", "30")];
        assert_eq!(read(200, &none), None, "an API that allows nothing would not have answered");
    }

    #[test]
    fn a_429_asks_for_a_pause() {
        let pause = |fields: &[(&str, &str)]| read(429, fields).and_then(|report| report.pause);
        assert_eq!(pause(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(pause(&[("retry-after", "-7")]), None);
        assert_eq!(pause(&[("retry-after", "7"), ("retry-after", "8")]), None);
        assert_eq!(read(200, &[("retry-after", "7")]), None);
        let reset = read(429, &[("x-ratelimit-reset", "30")]).unwrap();
        assert_eq!(reset.left, Some((0, Duration::from_secs(30))), "without Retry-After, the reset");
    }

    proptest! {
        #[test]
        fn no_text_is_misread(name in 0..11_usize, value in "[ -~]{0,40}", status in prop_oneof![Just(200_u16), Just(429)]) {
            let names = [
                "inin-ratelimit-count", "inin-ratelimit-allowed", "inin-ratelimit-reset", "ratelimit", "ratelimit-policy",
                "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "x-ratelimit-remaining", "x-ratelimit-reset",
                "retry-after",
            ];
            if let Some(report) = read(status, &[(names[name], &value)]) {
                prop_assert!(report.left.is_none_or(|(_, until)| until.as_secs() <= MAX_RESET));
            }
        }
    }
}
