//! The task in paused time: tokens from a real refresher, documents from a script.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use secrecy::SecretString;
use url::Url;

use super::*;
use crate::config::{Credential, Identity, fixture};
use crate::token::endpoint::HeldToken;
use crate::token::endpoint::response::TokenResponse;
use crate::token::error::TokenError;
use crate::token::{DurableState, Refresher, TokenEndpoint};

/// Issues tokens of an hour that name the tenant of the moment.
#[derive(Clone, Debug, Default)]
struct Tokens {
    tenant: Arc<Mutex<Option<&'static str>>>,
    issued: Arc<AtomicUsize>,
    takes: Duration,
}

impl TokenEndpoint for Tokens {
    async fn request(
        &self,
        _: &Credential,
        _: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        tokio::time::sleep(self.takes).await;
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let claims = match *self.tenant.lock().unwrap() {
            Some(tenant) => format!("{{\"tenantId\":\"{tenant}\",\"jti\":{number}}}"),
            None => format!("{{\"jti\":{number}}}"),
        };
        Ok(TokenResponse {
            access_token: format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)).into(),
            lifetime: Some(Duration::from_hours(1)),
            lifetime_was_cut: false,
            is_labelled_json: true,
            scopes: None,
            server_time: None,
            refresh_token: None,
            id_token: None,
            refresh_lifetime: None,
            flaw: None,
        })
    }
}

/// The issuer's response to one request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Name(&'static str),
    Fail,
    Throttle(Duration),
    Panic,
}

#[derive(Clone, Debug)]
struct Script {
    act: Arc<Mutex<Act>>,
    takes: Duration,
    clock: Clock,
    asked: Arc<Mutex<Vec<(Moment, String)>>>,
    under_way: Arc<AtomicUsize>,
}

impl Documents for Script {
    async fn find(&self, tenant: &str) -> Result<DiscoveredApi, DiscoveryError> {
        self.asked.lock().unwrap().push((self.clock.now(), tenant.to_owned()));
        assert_eq!(self.under_way.fetch_add(1, Ordering::Relaxed), 0, "two at once");
        tokio::time::sleep(self.takes).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let act = *self.act.lock().unwrap();
        match act {
            Act::Name(host) => Ok(found(host)),
            Act::Fail => Err(DiscoveryError::Status(500)),
            Act::Throttle(wait) => Err(DiscoveryError::Throttled { status: 429, wait }),
            Act::Panic => panic!("told to"),
        }
    }
}

fn found(host: &str) -> DiscoveredApi {
    let issuer = Url::parse("https://cxone.niceincontact.com").unwrap();
    crate::token::api_discovery::address::accept(&format!("https://{host}.niceincontact.com"), &issuer)
        .unwrap()
}

struct World {
    clock: Clock,
    tokens: Tokens,
    token: TokenSource,
    script: Script,
    source: DiscoverySource,
    /// The published addresses, in order.
    led: Arc<Mutex<Vec<DiscoveredApi>>>,
}

impl World {
    fn start(act: Act, tenant: Option<&'static str>) -> Self {
        Self::start_with(act, tenant, Duration::from_millis(50))
    }

    fn start_with(act: Act, tenant: Option<&'static str>, takes: Duration) -> Self {
        let clock = Clock::tokio();
        let tenant = Arc::new(Mutex::new(tenant));
        let tokens = Tokens { tenant, takes: Duration::from_millis(100), ..Tokens::default() };
        let credential =
            Arc::clone(&fixture::config("", "quota = { requests = 1000, per = \"1s\" }", "s").credentials[0]);
        let (refresher, token) =
            Refresher::new(credential, tokens.clone(), DurableState::in_memory(clock), clock);
        let script = Script {
            act: Arc::new(Mutex::new(act)),
            takes,
            clock,
            asked: Arc::default(),
            under_way: Arc::default(),
        };
        let (mut discovery, source) = Discovery::new(token.clone(), script.clone(), clock);
        let led = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&led);
        discovery.publish_to(Box::new(move |found| {
            noted.lock().unwrap().push(found.clone());
            Ok(())
        }));
        spawn(refresher.run(std::future::pending()));
        spawn(discovery.run());
        Self { clock, tokens, token, script, source, led }
    }

    fn act(&self, act: Act) {
        *self.script.act.lock().unwrap() = act;
    }

    fn asked(&self) -> Vec<(Moment, String)> {
        self.script.asked.lock().unwrap().clone()
    }

    fn led(&self) -> Vec<DiscoveredApi> {
        self.led.lock().unwrap().clone()
    }

    /// Has a token of this tenant issued now.
    async fn issue(&self, tenant: Option<&'static str>) {
        *self.tokens.tenant.lock().unwrap() = tenant;
        self.token.demand(self.token.generation());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_wait_for_the_first_address_and_cause_one_lookup() {
    let world = World::start(Act::Name("api-na1"), Some("t1"));
    let began = world.clock.now();

    let waited = join_all((0..1000).map(|_| world.source.wait(10 * SECOND))).await;

    assert!(waited.iter().all(Result::is_ok));
    // 100 ms for the token, 50 for the document, and the timer's own millisecond each.
    assert!(began.until(world.clock.now()) < Duration::from_millis(160));
    assert_eq!(world.led(), [found("api-na1")]);
    let asked: Vec<String> = world.asked().into_iter().map(|(_, tenant)| tenant).collect();
    assert_eq!(asked, ["t1"]);
    assert_eq!(world.tokens.issued.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_known_address_is_looked_up_every_hour_whatever_the_tokens_do() {
    let world = World::start(Act::Name("api-na1"), Some("t1"));
    tokio::time::sleep(Duration::from_hours(24)).await;

    let count = world.asked().len();
    assert!((25..=27).contains(&count), "{count}");
    assert_eq!(world.led(), [found("api-na1")], "published once");
    assert!(world.tokens.issued.load(Ordering::Relaxed) >= 24);
}

#[tokio::test(start_paused = true)]
async fn only_another_tenants_address_is_looked_up_at_once() {
    let world = World::start(Act::Name("api-na1"), Some("t1"));
    world.source.wait(10 * SECOND).await.unwrap();

    world.issue(Some("t1")).await;
    assert_eq!(world.asked().len(), 1);

    world.act(Act::Name("api-eu1"));
    world.issue(Some("t2")).await;
    assert_eq!(world.asked().last().unwrap().1, "t2");
    assert_eq!(world.led(), [found("api-na1"), found("api-eu1")]);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_from_a_second_to_a_minute_and_recover_by_themselves() {
    let world = World::start(Act::Fail, Some("t1"));
    tokio::time::sleep(Duration::from_mins(10)).await;

    let asked = world.asked();
    let gaps: Vec<f64> = asked.windows(2).map(|pair| pair[0].0.until(pair[1].0).as_secs_f64()).collect();
    for (gap, step) in gaps.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
        // The attempt itself takes 50 ms.
        assert!((step * 0.9..=step + 0.1).contains(gap), "{gaps:?}");
    }
    assert_eq!(world.source.failure().as_deref(), Some(&DiscoveryError::Status(500)));
    assert!(!world.source.has_found());

    world.act(Act::Name("api-na1"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(world.source.has_found() && world.source.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_issuers_retry_after_is_obeyed_whatever_the_tokens_do() {
    let world = World::start(Act::Throttle(Duration::from_mins(5)), Some("t1"));
    tokio::time::sleep(SECOND).await;
    world.issue(Some("t2")).await;
    world.act(Act::Name("api-na1"));
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!(world.asked().len(), 1);

    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.asked().len(), 2);
    assert!(world.source.has_found());
}

#[tokio::test(start_paused = true)]
async fn a_failure_or_a_panic_keeps_the_last_good_address() {
    for act in [Act::Fail, Act::Panic] {
        let world = World::start(Act::Name("api-na1"), Some("t1"));
        world.source.wait(10 * SECOND).await.unwrap();

        world.act(act);
        tokio::time::sleep(Duration::from_hours(2)).await;

        assert!(world.source.has_found());
        assert!(world.source.failure().is_some());
        assert!(world.source.wait(Duration::ZERO).await.is_ok());
        assert_eq!(world.led(), [found("api-na1")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_served_in_time_fails_at_once() {
    let world = World::start(Act::Fail, Some("t1"));
    // After the seventh failure the next attempt is almost a minute away.
    tokio::time::sleep(Duration::from_secs(70)).await;
    let began = world.clock.now();

    let undiscovered = world.source.wait(5 * SECOND).await.unwrap_err();

    assert_eq!(began.until(world.clock.now()), Duration::ZERO);
    assert!(undiscovered.retry_after > 5 * SECOND && undiscovered.retry_after <= 60 * SECOND);
    assert_eq!(undiscovered.failure.as_deref(), Some(&DiscoveryError::Status(500)));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_delays_a_request_no_longer_than_its_limit() {
    let world = World::start_with(Act::Name("api-na1"), Some("t1"), Duration::from_hours(1));
    tokio::time::sleep(SECOND).await;
    let began = world.clock.now();

    let undiscovered = world.source.wait(5 * SECOND).await.unwrap_err();

    assert!(began.until(world.clock.now()) >= 5 * SECOND);
    assert!(began.until(world.clock.now()) < 6 * SECOND);
    assert_eq!(undiscovered.retry_after, SECOND);
    assert!(undiscovered.failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_tenant_causes_no_lookup() {
    let world = World::start(Act::Name("api-na1"), None);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(world.asked().is_empty());
    assert_eq!(world.source.failure().as_deref(), Some(&DiscoveryError::NoTenant));

    world.issue(Some("")).await;
    assert!(world.asked().is_empty());

    world.issue(Some("t1")).await;
    assert_eq!(world.asked().len(), 1);
    assert!(world.source.has_found());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_published_is_a_failure() {
    let clock = Clock::tokio();
    let credential = Arc::clone(&fixture::config("", "", "s").credentials[0]);
    let tokens = Tokens { tenant: Arc::new(Mutex::new(Some("t1"))), ..Tokens::default() };
    let (refresher, token) = Refresher::new(credential, tokens, DurableState::in_memory(clock), clock);
    let script = Script {
        act: Arc::new(Mutex::new(Act::Name("api-na1"))),
        takes: Duration::ZERO,
        clock,
        asked: Arc::default(),
        under_way: Arc::default(),
    };
    let (mut discovery, source) = Discovery::new(token, script, clock);
    discovery.publish_to(Box::new(|_| Err(AddressRefusal::NotPlain)));
    spawn(refresher.run(std::future::pending()));
    spawn(discovery.run());

    let undiscovered = source.wait(5 * SECOND).await.unwrap_err();

    assert_eq!(undiscovered.failure.as_deref(), Some(&DiscoveryError::Refused(AddressRefusal::NotPlain)));
    assert!(!source.has_found());
}
