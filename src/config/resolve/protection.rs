//! `breaker`, `connections`, `connection_age`, `idle_timeout` and `retry_429` of a route.

use std::time::Duration;

use http::Method;
use toml::Spanned;

use super::Resolver;
use crate::config::model::protection::{Breaker, Protection, Retry429};
use crate::config::source::key::Key;
use crate::config::source::reader::Table;
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
        let schema::Retry429 { attempts, max_wait, methods } = schema::Retry429::of(written);
        if let Some(many) = attempts.usable().filter(|attempts| *attempts.get_ref() > MAX_RETRY_ATTEMPTS) {
            let help = "the caller receives the 429 of the last attempt";
            self.error(many.span(), "`attempts` must be at most 10", help);
        }
        let is_wrong = |wait: &Duration| wait.is_zero() || *wait > MAX_RETRY_WAIT;
        if let Some(wrong) = max_wait.usable().filter(|wait| is_wrong(&wait.get_ref().0)) {
            let help = "write the total wait of a request, such as \"10s\"; attempts = 0 disables retries";
            self.error(wrong.span(), "`max_wait` must be longer than zero and at most 5m", help);
        }
        Retry429 {
            attempts: attempts.or(0),
            max_wait: super::duration(max_wait, 10),
            methods: self.retried_methods(methods),
        }
    }

    fn retried_methods(&mut self, written: Key<schema::Texts>) -> Vec<Method> {
        let Some(written) = written.into_usable() else { return IDEMPOTENT.to_vec() };
        let mut methods = Vec::new();
        for text in written.into_inner().into_iter().flatten() {
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
        let Some(written) = written.into_usable() else { return Some(DEFAULT_BREAKER) };
        let schema::Breaker { failures, percent, window, open, open_max } = written.into_inner()?;
        let few = failures.usable().filter(|failures| *failures.get_ref() == 0).map(Spanned::span);
        let odd =
            percent.usable().filter(|percent| !(1..=100).contains(percent.get_ref())).map(Spanned::span);
        for place in few.into_iter().chain(odd) {
            self.error(
                place,
                "`failures` must be at least 1, and `percent` from 1 to 100",
                "the breaker opens when both are reached; breaker = \"off\" disables the breaker",
            );
        }
        let is_zero = |time: &&Spanned<units::Duration>| time.get_ref().0.is_zero();
        let zeros = [window.usable(), open.usable()].into_iter().flatten().filter(is_zero).map(Spanned::span);
        let first = open.known_or(units::Duration(DEFAULT_BREAKER.open));
        let shorter = open_max.usable().filter(|most| first.is_some_and(|first| most.get_ref().0 < first.0));
        for place in zeros.chain(shorter.map(Spanned::span)) {
            self.error(
                place,
                "`window` and `open` must be longer than zero, and `open_max` no shorter than `open`",
                "write durations such as \"5s\"; pauses begin with `open` and double up to `open_max`",
            );
        }
        let or = |written: Key<units::Duration>, default| written.or(units::Duration(default)).0;
        let open = or(open, DEFAULT_BREAKER.open);
        Some(Breaker {
            failures: failures.or(DEFAULT_BREAKER.failures),
            percent: percent.or(DEFAULT_BREAKER.percent),
            window: or(window, DEFAULT_BREAKER.window),
            open,
            open_max: or(open_max, DEFAULT_BREAKER.open_max.max(open)),
        })
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
