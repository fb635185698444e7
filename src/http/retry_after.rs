//! The `Retry-After` field (RFC 9110 §10.2.3): read as seconds or a date, written as seconds.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

use crate::clock;

/// How long a response asks to wait, counted from its arrival and not bounded; `None` without a legible `Retry-After`.
///
/// A date is compared with the response's own `Date`, as the server's clock may be wrong; zero if the date has passed.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let value = values.next()?.to_str().ok()?.trim();
    if values.next().is_some() {
        return None;
    }
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let server_now = server_time(headers).unwrap_or_else(clock::wall_clock);
    Some(date.duration_since(server_now).unwrap_or(Duration::ZERO))
}

/// A wait in the whole seconds of `Retry-After`: rounded up, so that a client that obeys does not come too early, and at
/// least one.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The server's clock, by the field `Date` (RFC 9110 §6.6.1).
pub fn server_time(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parsed(fields: &[(&str, &str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        retry_after(&headers)
    }

    #[test]
    fn seconds_are_seconds() {
        assert_eq!(parsed(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(parsed(&[("retry-after", " 0 ")]), Some(Duration::ZERO));
        assert_eq!(
            parsed(&[("retry-after", "99999999999999")]),
            Some(Duration::from_secs(99_999_999_999_999))
        );
        assert_eq!(parsed(&[("retry-after", &"9".repeat(400))]), Some(Duration::MAX));
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds_and_at_least_one() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (7_000, 7), (7_001, 8)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis}");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_date_in_retry_after_counts_from_the_servers_clock() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for form in
            ["Sun, 06 Nov 1994 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT", "Sun Nov  6 08:50:37 1994"]
        {
            assert_eq!(parsed(&[date, ("retry-after", form)]), Some(Duration::from_mins(1)), "{form}");
        }
        assert_eq!(parsed(&[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(Duration::ZERO));
    }

    #[test]
    fn without_the_servers_clock_a_date_counts_from_ours() {
        let soon = httpdate::fmt_http_date(clock::wall_clock() + Duration::from_secs(30));

        let wait = parsed(&[("retry-after", &soon)]).unwrap();

        assert!(wait <= Duration::from_secs(30) && wait >= Duration::from_secs(28), "{wait:?}");
    }

    #[test]
    fn an_illegible_retry_after_counts_as_missing() {
        for wrong in ["", "-1", "1e9", "1.5", "soon", "120, 30", "0x10", "+5"] {
            assert_eq!(parsed(&[("retry-after", wrong)]), None, "{wrong:?}");
        }
        assert_eq!(parsed(&[("retry-after", "1"), ("retry-after", "2")]), None);
        assert_eq!(parsed(&[]), None);
    }
}
