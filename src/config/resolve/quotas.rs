//! `api_quota` of a credential, what the API allows one token, and `quota` of a caller.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Resolver, provider};
use crate::config::model::caller::CallerQuota;
use crate::config::model::credential::ApiQuota;
use crate::config::source::choice::Provider;
use crate::config::source::key::Key;
use crate::config::source::{schema, units};

/// The shortest interval: permits are given out and counted in milliseconds.
const MIN_PER: Duration = Duration::from_millis(100);
/// The longest interval.
const MAX_PER: Duration = Duration::from_hours(24);
/// The longest wait for a turn: callers give up, and each waiting request occupies a connection.
const MAX_WAIT: Duration = Duration::from_mins(5);
const DEFAULT_WAIT: Duration = Duration::from_secs(2);

const API_EXAMPLE: &str = "such as { requests = 300, per = \"60s\" }; api_quota = \"\" is none";
const CALLER_EXAMPLE: &str = "such as { requests = 600, per = \"60s\" }; quota = \"\" is none";

impl Resolver<'_> {
    /// The quota as written; what is not written is that of the provider.
    pub(super) fn api_quota(
        &mut self,
        written: Key<Option<schema::ApiQuota>>,
        provider: Provider,
    ) -> Option<ApiQuota> {
        let preset = provider::api_quota(provider);
        let Some(written) = written.into_usable() else { return preset };
        let place = written.span();
        let schema::ApiQuota { requests, per, learn, wait } = written.into_inner()?;
        for (key, is_absent) in [("requests", requests.is_absent()), ("per", per.is_absent())] {
            if is_absent && preset.is_none() {
                self.error(place.clone(), format!("`api_quota` lacks `{key}`"), API_EXAMPLE);
            }
        }
        let quota = preset.unwrap_or(ApiQuota {
            requests: NonZeroU32::MIN,
            per: Duration::from_mins(1),
            learn: true,
            wait: DEFAULT_WAIT,
        });
        Some(ApiQuota {
            requests: self.most_requests(&requests, API_EXAMPLE).unwrap_or(quota.requests),
            per: self.interval(per, API_EXAMPLE).unwrap_or(quota.per),
            learn: learn.or(quota.learn),
            wait: self.wait_for_turn(wait).unwrap_or(quota.wait),
        })
    }

    /// The bound on the requests of a caller.
    pub(super) fn caller_quota(&mut self, written: Key<Option<schema::CallerQuota>>) -> Option<CallerQuota> {
        let written = written.into_usable()?;
        let place = written.span();
        let schema::CallerQuota { requests, per, wait } = written.into_inner()?;
        for (key, is_absent) in [("requests", requests.is_absent()), ("per", per.is_absent())] {
            if is_absent {
                self.error(place.clone(), format!("`quota` lacks `{key}`"), CALLER_EXAMPLE);
            }
        }
        let requests = self.most_requests(&requests, CALLER_EXAMPLE);
        let per = self.interval(per, CALLER_EXAMPLE);
        let wait = self.wait_for_turn(wait).unwrap_or(DEFAULT_WAIT);
        Some(CallerQuota { requests: requests?, per: per?, wait })
    }

    /// The requests of a quota, if they are written and usable.
    fn most_requests(&mut self, requests: &Key<u32>, example: &str) -> Option<NonZeroU32> {
        let requests = requests.usable()?;
        let number = NonZeroU32::new(*requests.get_ref());
        if number.is_none() {
            self.error(requests.span(), "`requests` must be at least 1", example);
        }
        number
    }

    /// The interval of a quota, if it is written and usable.
    fn interval(&mut self, per: Key<units::Duration>, example: &str) -> Option<Duration> {
        let per = per.into_usable()?;
        let (place, per) = (per.span(), per.into_inner().0);
        if !(MIN_PER..=MAX_PER).contains(&per) {
            return self.refuse(place, "`per` must be from 100ms to 24h", example);
        }
        Some(per)
    }

    /// How long a request may wait, if that is written and usable.
    fn wait_for_turn(&mut self, wait: Key<units::Duration>) -> Option<Duration> {
        const HELP: &str =
            "write how long a request may wait for its turn, such as \"2s\"; \"0s\" refuses it at once";
        let wait = wait.into_usable()?;
        let (place, wait) = (wait.span(), wait.into_inner().0);
        if wait > MAX_WAIT {
            return self.refuse(place, "`wait` must be at most 5m", HELP);
        }
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    const OAUTH2: &str = "token_url = \"https://as.example.com/token\"";
    const GENESYS: &str = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";

    /// The quota, or the title of the only problem.
    fn read(lines: &str) -> Result<Option<ApiQuota>, String> {
        let text = format!(
            "[credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"S\" }}\n{lines}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        match parse(Path::new("proxy.toml"), text, &Environment::from([("S", "x")])) {
            Ok(checked) => Ok(checked.config.credentials[0].api_quota),
            Err(problems) => {
                let [problem] = problems.problems() else { panic!("{problems}") };
                Err(problem.title.clone())
            }
        }
    }

    fn quota(requests: u32, per: u64, learn: bool, wait: u64) -> ApiQuota {
        let requests = NonZeroU32::new(requests).unwrap();
        let (per, wait) = (Duration::from_secs(per), Duration::from_secs(wait));
        ApiQuota { requests, per, learn, wait }
    }

    #[test]
    fn only_the_preset_of_genesys_brings_a_quota() {
        assert_eq!(read(OAUTH2), Ok(None));
        assert_eq!(read(GENESYS), Ok(Some(quota(300, 60, true, 2))));
        assert_eq!(read(&format!("{GENESYS}\napi_quota = \"\"")), Ok(None));
        assert_eq!(
            read(&format!("{GENESYS}\napi_quota = {{ wait = \"5s\" }}")),
            Ok(Some(quota(300, 60, true, 5)))
        );
        let own = "[credentials.c.api_quota]\nrequests = 10\nper = \"1s\"\nlearn = false\nwait = \"0s\"";
        assert_eq!(read(&format!("{OAUTH2}\n{own}")), Ok(Some(quota(10, 1, false, 0))));
    }

    #[test]
    fn a_quota_that_cannot_be_meant_is_an_error() {
        for (written, title) in [
            ("{ per = \"60s\" }", "`api_quota` lacks `requests`"),
            ("{ requests = 300 }", "`api_quota` lacks `per`"),
            ("{ requests = 0, per = \"60s\" }", "`requests` must be at least 1"),
            ("{ requests = 1, per = \"0s\" }", "`per` must be from 100ms to 24h"),
            ("{ requests = 1, per = \"25h\" }", "`per` must be from 100ms to 24h"),
            ("{ requests = 1, per = \"60s\", wait = \"6m\" }", "`wait` must be at most 5m"),
            (
                "\"off\"",
                "`credentials.c.api_quota` must be a table such as { requests = 300, per = \"60s\" }, or \"\"",
            ),
        ] {
            assert_eq!(read(&format!("{OAUTH2}\napi_quota = {written}")), Err(title.to_owned()));
        }
    }
    /// The quota of a caller, or the title of the only problem.
    fn read_caller(quota: &str) -> Result<Option<CallerQuota>, String> {
        let text = format!(
            "[callers.billing]\nnetworks = [\"10.0.0.0/8\"]\n{quota}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n"
        );
        match parse(Path::new("proxy.toml"), text, &Environment::from([])) {
            Ok(checked) => Ok(checked.config.callers[0].quota),
            Err(problems) => {
                let [problem] = problems.problems() else { panic!("{problems}") };
                Err(problem.title.clone())
            }
        }
    }

    #[test]
    fn a_caller_has_a_quota_only_where_one_is_written() {
        let quota = |requests, per, wait| {
            let requests = NonZeroU32::new(requests).unwrap();
            let (per, wait) = (Duration::from_secs(per), Duration::from_secs(wait));
            Ok(Some(CallerQuota { requests, per, wait }))
        };
        assert_eq!(read_caller(""), Ok(None));
        assert_eq!(read_caller("quota = \"\""), Ok(None));
        assert_eq!(read_caller("quota = { requests = 600, per = \"60s\" }"), quota(600, 60, 2));
        assert_eq!(read_caller("quota = { requests = 1, per = \"1s\", wait = \"0s\" }"), quota(1, 1, 0));
        let table = "[callers.billing.quota]\nrequests = 5\nper = \"24h\"\nwait = \"5m\"";
        assert_eq!(read_caller(table), quota(5, 24 * 60 * 60, 300));
    }

    #[test]
    fn a_quota_of_a_caller_that_cannot_be_meant_is_an_error() {
        for (written, title) in [
            ("{ per = \"60s\" }", "`quota` lacks `requests`"),
            ("{ requests = 600 }", "`quota` lacks `per`"),
            ("{ requests = 0, per = \"60s\" }", "`requests` must be at least 1"),
            ("{ requests = 1, per = \"99ms\" }", "`per` must be from 100ms to 24h"),
            ("{ requests = 1, per = \"1441m\" }", "`per` must be from 100ms to 24h"),
            ("{ requests = 1, per = \"60s\", wait = \"301s\" }", "`wait` must be at most 5m"),
            (
                "{ requests = 1, per = \"60s\", learn = true }",
                "unknown key `learn` in `callers.billing.quota`",
            ),
            (
                "\"off\"",
                "`callers.billing.quota` must be a table such as { requests = 600, per = \"60s\" }, or \"\"",
            ),
        ] {
            assert_eq!(read_caller(&format!("quota = {written}")), Err(title.to_owned()));
        }
        assert!(read_caller("quota = 600").is_err());
        assert!(read_caller("quota = { requests = -1, per = \"60s\" }").is_err());
        assert!(read_caller("quota = { requests = 4294967296, per = \"60s\" }").is_err());
        assert!(read_caller("quota = { requests = 1, per = 60 }").is_err());
    }
}
