//! Times, spans and shares as people read them, on the page and in `bearerd status`.

use std::time::Duration;

use super::status::Time;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A span with one or two units, such as `54 min` or `2 h 5 min`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..172_800 => match seconds % HOUR / MINUTE {
            0 => format!("{} h", seconds / HOUR),
            minutes => format!("{} h {minutes} min", seconds / HOUR),
        },
        _ => format!("{} days", seconds / DAY),
    }
}

/// A time before or after `now`, such as `in 54 min` or `3 s ago`.
pub fn relative(time: Time, now: Time) -> String {
    if time > now {
        format!("in {}", span(now.until(time)))
    } else {
        format!("{} ago", span(time.until(now)))
    }
}

/// A time that is to come, such as `in 54 min`; `now` once it has passed.
pub fn ahead(time: Time, now: Time) -> String {
    if time > now { format!("in {}", span(now.until(time))) } else { "now".to_owned() }
}

/// How long something that began at `since` has been under way, such as `under way for 3 s`.
pub fn under_way_for(since: Time, now: Time) -> String {
    format!("under way for {}", span(since.until(now)))
}

/// Milliseconds with as many digits as they deserve.
pub fn milliseconds(milliseconds: f64) -> String {
    match milliseconds {
        ..10.0 => format!("{milliseconds:.1} ms"),
        10.0..10_000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", milliseconds / 1e3),
    }
}

/// A number with a noun, such as `1 request` or `2 requests`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_the_units_that_matter() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (172_799, "47 h 59 min"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn milliseconds_are_short() {
        assert_eq!(milliseconds(2.34), "2.3 ms");
        assert_eq!(milliseconds(123.4), "123 ms");
        assert_eq!(milliseconds(12_340.0), "12.3 s");
    }
}
