//! `breaker`, `connections`, `connection_age`, `idle_timeout` and `retry_429` of a route.

use std::time::Duration;

use http::Method;
use toml::Spanned;

use super::Resolver;
use crate::config::model::protection::{Breaker, Protection, Retry429};
use crate::config::source::reader::Key;
use crate::config::source::{schema, units};

/// Longest wait for retries: callers give up, and each waiting request occupies a connection.
const MAX_RETRY_WAIT: Duration = Duration::from_mins(5);
const MAX_RETRY_ATTEMPTS: u32 = 10;
/// The methods that are retried by default (RFC 9110 §9.2.2).
const IDEMPOTENT: [Method; 5] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];

const DEFAULT_BREAKER: Breaker = Breaker {
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
            idle_timeout: self.positive(route.idle_timeout.take(), 30),
            breaker: self.breaker(route.breaker.take()),
        }
    }

    pub(super) fn retry_429(&mut self, written: Key<schema::Retry429>) -> Retry429 {
        let place = written.as_ref().map_or(0..0, Spanned::span);
        let schema::Retry429 { attempts, max_wait, methods } = super::or_default(written);
        let retry = Retry429 {
            attempts: attempts.map_or(0, Spanned::into_inner),
            max_wait: super::duration(max_wait, 10),
            methods: self.retried_methods(methods),
        };
        if retry.attempts > MAX_RETRY_ATTEMPTS {
            let help = "the caller receives the 429 of the last attempt";
            self.error(place.clone(), "`attempts` must be at most 10", help);
        }
        if retry.max_wait.is_zero() || retry.max_wait > MAX_RETRY_WAIT {
            let help = "write the total wait of a request, such as \"10s\"; attempts = 0 disables retries";
            self.error(place, "`max_wait` must be longer than zero and at most 5m", help);
        }
        retry
    }

    fn retried_methods(&mut self, written: Key<schema::Texts>) -> Vec<Method> {
        let Some(written) = written else { return IDEMPOTENT.to_vec() };
        let mut methods = Vec::new();
        for text in written.into_inner() {
            let is_word = text.get_ref().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            match Method::from_bytes(text.get_ref().as_bytes()) {
                Ok(Method::TRACE | Method::CONNECT) | Err(_) => {}
                Ok(method) if is_word => {
                    methods.push(method);
                    continue;
                }
                Ok(_) => {}
            }
            let help = "write methods in capitals, such as \"GET\"; \"POST\" may be added, because an API that answers 429 \
                        has not processed the request";
            self.error(text.span(), "not a method that can be retried", help);
        }
        methods
    }

    fn breaker(&mut self, written: Key<Option<schema::Breaker>>) -> Option<Breaker> {
        let Some(written) = written else { return Some(DEFAULT_BREAKER) };
        let place = written.span();
        let schema::Breaker { failures, percent, window, open, open_max } = written.into_inner()?;
        let or = |written: Key<units::Duration>, default| written.map_or(default, |one| one.into_inner().0);
        let open = or(open, DEFAULT_BREAKER.open);
        let breaker = Breaker {
            failures: failures.map_or(DEFAULT_BREAKER.failures, Spanned::into_inner),
            percent: percent.map_or(DEFAULT_BREAKER.percent, Spanned::into_inner),
            window: or(window, DEFAULT_BREAKER.window),
            open,
            open_max: or(open_max, DEFAULT_BREAKER.open_max.max(open)),
        };
        if breaker.failures == 0 || !(1..=100).contains(&breaker.percent) {
            self.error(
                place.clone(),
                "`failures` must be at least 1, and `percent` from 1 to 100",
                "the breaker opens when both are reached; breaker = \"off\" disables the breaker",
            );
        }
        if breaker.window.is_zero() || open.is_zero() || breaker.open_max < open {
            self.error(
                place,
                "`window` and `open` must be longer than zero, and `open_max` no shorter than `open`",
                "write durations such as \"5s\"; pauses begin with `open` and double up to `open_max`",
            );
        }
        Some(breaker)
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

        let Protection { connections, connection_age, idle_timeout, breaker } = route.protection;
        assert_eq!((connections, connection_age), (256, Duration::from_hours(1)));
        assert_eq!((idle_timeout, route.retry_stale), (Duration::from_secs(30), true));
        assert_eq!(breaker, Some(DEFAULT_BREAKER));
        assert_eq!(
            route.retry_429,
            Retry429 { methods: IDEMPOTENT.to_vec(), attempts: 0, max_wait: Duration::from_secs(10) }
        );
    }

    #[test]
    fn each_key_of_a_breaker_has_a_default_and_a_breaker_can_be_off() {
        assert_eq!(read("breaker = \"off\"").unwrap().protection.breaker, None);
        let breaker = read("breaker = { failures = 3, open = \"2m\" }").unwrap().protection.breaker;
        let two_minutes = Duration::from_mins(2);
        assert_eq!(
            breaker,
            Some(Breaker { failures: 3, open: two_minutes, open_max: two_minutes, ..DEFAULT_BREAKER })
        );
        let retry = read("retry_429 = { attempts = 3 }").unwrap().retry_429;
        assert_eq!(
            retry,
            Retry429 { methods: IDEMPOTENT.to_vec(), attempts: 3, max_wait: Duration::from_secs(10) }
        );
        let retry = read("retry_429 = { methods = [\"GET\", \"POST\"] }").unwrap().retry_429;
        assert_eq!(retry.methods, [Method::GET, Method::POST]);
        for wrong in ["get", "TRACE", "CONNECT", "A B", ""] {
            let (title, _) = read(&format!("retry_429 = {{ methods = [\"{wrong}\"] }}")).unwrap_err();
            assert_eq!(title, "not a method that can be retried", "{wrong}");
        }
    }

    #[test]
    fn wrong_settings_are_refused_with_a_remedy() {
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
            ("retry_429 = { attempts = 11 }", "at most 10", "the last attempt"),
            ("retry_429 = { attempts = 3, max_wait = \"0s\" }", "longer than zero", "total wait"),
            ("retry_429 = { attempts = 3, max_wait = \"6m\" }", "at most 5m", "total wait"),
            ("retry_429 = 3", "must be a table such as { attempts = 3, max_wait = \"10s\" }", ""),
            ("connections = 0", "must be at least 1", ""),
            ("connection_age = \"0s\"", "longer than zero", ""),
            ("idle_timeout = \"0s\"", "longer than zero", ""),
        ] {
            let (said, helped) = read(route).err().unwrap_or_else(|| panic!("was accepted: {route}"));
            assert!(said.contains(title) && helped.contains(help), "{route}: {said} / {helped}");
        }
    }
}
