//! `breaker`, `connections`, `connection_age` and `retry_429` of a route.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::Resolver;
use crate::config::model::protection::{Breaker, Protection, Retry429};
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::{schema, units};

/// A caller has given up by then, and its connection is ours to keep meanwhile.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
const MOST_ATTEMPTS: u32 = 10;

const BREAKER: Breaker = Breaker {
    failures: 10,
    percent: 50,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    open_max: Duration::from_mins(1),
};

impl Resolver<'_> {
    pub(super) fn protection(&mut self, route: &mut schema::Route) -> Protection {
        let connections = self.at_least_one(route.connections.take(), 256);
        Protection {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            connection_age: self.positive(route.connection_age.take(), 60 * 60),
            breaker: self.breaker(route.breaker.take()),
        }
    }

    pub(super) fn retry_429(&mut self, written: Key<schema::Retry429>) -> Retry429 {
        let place = written.as_ref().map_or(0..0, Spanned::span);
        let schema::Retry429 { attempts, max_wait } = written.map(Spanned::into_inner).unwrap_or_default();
        let retry = Retry429 {
            attempts: attempts.map_or(0, Spanned::into_inner),
            max_wait: max_wait.map_or(Duration::from_secs(10), |wait| wait.into_inner().0),
        };
        if retry.attempts > MOST_ATTEMPTS {
            self.refuse(&place, "`attempts` must be at most 10", "the 429 of the last one is passed on");
        }
        if retry.max_wait.is_zero() || retry.max_wait > LONGEST_WAIT {
            let help = "write how long a request may wait in all, such as \"10s\"; attempts = 0 waits never";
            self.refuse(&place, "`max_wait` must be longer than zero and at most 5m", help);
        }
        retry
    }

    fn breaker(&mut self, written: Key<schema::Breaker>) -> Option<Breaker> {
        let Some(written) = written else { return Some(BREAKER) };
        let place = written.span();
        let limits = match written.into_inner() {
            schema::Breaker::Off => return None,
            schema::Breaker::On(limits) => limits,
        };
        let schema::BreakerLimits { failures, percent, window, open, open_max } = limits;
        let or = |written: Key<units::Duration>, default| {
            written.map_or(default, |written| written.into_inner().0)
        };
        let open = or(open, BREAKER.open);
        let breaker = Breaker {
            failures: failures.map_or(BREAKER.failures, Spanned::into_inner),
            percent: percent.map_or(BREAKER.percent, Spanned::into_inner),
            window: or(window, BREAKER.window),
            open,
            open_max: or(open_max, BREAKER.open_max.max(open)),
        };
        if breaker.failures == 0 || !(1..=100).contains(&breaker.percent) {
            let help = "it opens at so many failures that are so many of a hundred answers; breaker = \"off\" has none";
            self.refuse(&place, "`failures` must be at least 1, and `percent` from 1 to 100", help);
        }
        if breaker.window.is_zero() || open.is_zero() || breaker.open_max < open {
            let help = "write durations such as \"5s\"; pauses begin with `open` and double to `open_max`";
            self.refuse(
                &place,
                "`window` and `open` must be longer than zero, and `open_max` no shorter than `open`",
                help,
            );
        }
        Some(breaker)
    }

    fn refuse(&mut self, place: &Range<usize>, title: &str, help: &str) {
        self.problems.push(Problem::error(place.clone(), title).help(help));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, Route, parse};

    fn read(route: &str) -> Result<Route, (String, String)> {
        let text =
            format!("[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n{route}\n");
        match parse(Path::new("proxy.toml"), text, &Environment::from([])) {
            Ok(checked) => Ok(checked.config.routes[0].clone()),
            Err(problems) => {
                let [problem] = problems.problems() else { panic!("{problems}") };
                Err((problem.title.clone(), problem.help.clone().unwrap_or_default()))
            }
        }
    }

    #[test]
    fn an_upstream_is_protected_by_default_and_a_429_is_passed_on() {
        let route = read("").unwrap();

        let Protection { connections, connection_age, breaker } = route.protection;
        assert_eq!((connections, connection_age), (256, Duration::from_hours(1)));
        assert_eq!(breaker, Some(BREAKER));
        assert_eq!(route.retry_429, Retry429 { attempts: 0, max_wait: Duration::from_secs(10) });
    }

    #[test]
    fn each_setting_can_be_written_alone_and_a_breaker_can_be_off() {
        assert_eq!(read("breaker = \"off\"").unwrap().protection.breaker, None);
        let breaker = read("breaker = { failures = 3, open = \"2m\" }").unwrap().protection.breaker;
        let two_minutes = Duration::from_mins(2);
        assert_eq!(
            breaker,
            Some(Breaker { failures: 3, open: two_minutes, open_max: two_minutes, ..BREAKER })
        );
        let retry = read("retry_429 = { attempts = 3 }").unwrap().retry_429;
        assert_eq!(retry, Retry429 { attempts: 3, max_wait: Duration::from_secs(10) });
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (route, title, help) in [
            ("breaker = \"on\"", "`routes[0].breaker` must be a table such as", ""),
            ("breaker = 5", "`routes[0].breaker` must be a table such as", ""),
            (
                "breaker = { failures = 5, errors = 1 }",
                "unknown key `errors` in `routes[0].breaker`",
                "failures, percent",
            ),
            ("breaker = { failures = 0 }", "`failures` must be at least 1", "\"off\""),
            ("breaker = { percent = 0 }", "from 1 to 100", "\"off\""),
            ("breaker = { percent = 101 }", "from 1 to 100", "\"off\""),
            ("breaker = { window = \"0s\" }", "longer than zero", "double"),
            ("breaker = { open = \"0s\" }", "longer than zero", "double"),
            ("breaker = { open = \"10s\", open_max = \"5s\" }", "no shorter than `open`", "double"),
            ("retry_429 = { attempts = 11 }", "at most 10", "passed on"),
            ("retry_429 = { attempts = 3, max_wait = \"0s\" }", "longer than zero", "in all"),
            ("retry_429 = { attempts = 3, max_wait = \"6m\" }", "at most 5m", "in all"),
            ("retry_429 = 3", "must be a table such as { attempts = 3, max_wait = \"10s\" }", ""),
            ("connections = 0", "must be at least 1", ""),
            ("connection_age = \"0s\"", "longer than zero", ""),
        ] {
            let (said, helped) = read(route).err().unwrap_or_else(|| panic!("was accepted: {route}"));
            assert!(said.contains(title) && helped.contains(help), "{route}: {said} / {helped}");
        }
    }
}
