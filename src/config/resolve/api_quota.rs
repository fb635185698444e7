//! `api_quota` of a credential: what the API allows one token.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Resolver, provider};
use crate::config::model::credential::ApiQuota;
use crate::config::source::choice::Provider;
use crate::config::source::key::Key;
use crate::config::source::schema;

/// The shortest interval: permits are given out and counted in milliseconds.
const MIN_PER: Duration = Duration::from_millis(100);
/// The longest interval.
const MAX_PER: Duration = Duration::from_hours(24);
/// The longest wait for a turn: callers give up, and each waiting request occupies a connection.
const MAX_WAIT: Duration = Duration::from_mins(5);
const DEFAULT_WAIT: Duration = Duration::from_secs(2);

impl Resolver<'_> {
    /// The quota as written; what is not written is that of the provider.
    pub(super) fn api_quota(
        &mut self,
        written: Key<Option<schema::ApiQuota>>,
        provider: Provider,
    ) -> Option<ApiQuota> {
        const EXAMPLE: &str = "such as { requests = 300, per = \"60s\" }; api_quota = \"\" is none";
        let preset = provider::api_quota(provider);
        let Some(written) = written.into_usable() else { return preset };
        let place = written.span();
        let schema::ApiQuota { requests, per, learn, wait } = written.into_inner()?;
        for (key, is_absent) in [("requests", requests.is_absent()), ("per", per.is_absent())] {
            if is_absent && preset.is_none() {
                self.error(place.clone(), format!("`api_quota` lacks `{key}`"), EXAMPLE);
            }
        }
        let quota = preset.unwrap_or(ApiQuota {
            requests: NonZeroU32::MIN,
            per: Duration::from_mins(1),
            learn: true,
            wait: DEFAULT_WAIT,
        });
        let mut requests_in_force = quota.requests;
        if let Some(requests) = requests.usable() {
            match NonZeroU32::new(*requests.get_ref()) {
                Some(requests) => requests_in_force = requests,
                None => self.error(requests.span(), "`requests` must be at least 1", EXAMPLE),
            }
        }
        if let Some(per) = per.usable().filter(|per| !(MIN_PER..=MAX_PER).contains(&per.get_ref().0)) {
            self.error(per.span(), "`per` must be from 100ms to 24h", EXAMPLE);
        }
        if let Some(wait) = wait.usable().filter(|wait| wait.get_ref().0 > MAX_WAIT) {
            let help =
                "write how long a request may wait for its turn, such as \"2s\"; \"0s\" refuses it at once";
            self.error(wait.span(), "`wait` must be at most 5m", help);
        }
        Some(ApiQuota {
            requests: requests_in_force,
            per: per.into_usable().map_or(quota.per, |per| per.into_inner().0),
            learn: learn.or(quota.learn),
            wait: wait.into_usable().map_or(quota.wait, |wait| wait.into_inner().0),
        })
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
}
