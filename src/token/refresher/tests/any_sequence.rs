//! The whole loop over any sequence of answers, waits, demands and restarts, on a real disk and in paused time.

use std::path::Path;

use super::state::KEY;
use super::*;

/// Tokens that live so long are replaced by nobody but who rejects them.
const LONG: u64 = 10 * YEAR;
const PER: Duration = Duration::from_mins(1);
const REQUESTS: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// The next answer, where there would be a new token of an hour.
    Answer(Act),
    /// So many milliseconds pass.
    Wait(u64),
    /// The current token is rejected.
    Demand,
    /// A request waits for a token so many milliseconds at the most.
    Waiter(u64),
    /// And one for another than the current one.
    Replacer(u64),
    /// The daemon is stopped in whatever it does, and started.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => answers().prop_map(Step::Answer),
        4 => (0u64..90_000).prop_map(Step::Wait),
        1 => (0u64..2_000_000).prop_map(Step::Wait),
        3 => Just(Step::Demand),
        2 => (0u64..20_000).prop_map(Step::Waiter),
        2 => (0u64..20_000).prop_map(Step::Replacer),
        3 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..40)
}

fn answers() -> impl Strategy<Value = Act> {
    let lifetime = prop_oneof![1u64..120, 120u64..7200];
    prop_oneof![
        2 => lifetime.prop_map(|seconds| Act::Token("same", seconds)),
        1 => Just(Act::Token("short", 1)),
        2 => Just(Act::Fail(transient())),
        1 => Just(Act::Panic),
        1 => (0u64..2000).prop_map(|seconds| Act::Fail(throttled(seconds))),
        2 => Just(Act::Fail(rejected())),
        1 => Just(Act::Fail(invalid_grant())),
    ]
}

/// Notes when it was asked, and before when it should not have been again.
#[derive(Clone, Debug)]
struct Server {
    clock: Clock,
    takes: Duration,
    lifetime: u64,
    script: Arc<Mutex<VecDeque<Act>>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    asked: Vec<Moment>,
    not_before: Moment,
    /// The end of the latest token. A latch ends with it.
    token_ends: Moment,
    failures: u32,
    rejections: u32,
    too_early: Option<String>,
}

impl Server {
    fn new(clock: Clock, takes: u64, lifetime: u64) -> Self {
        let takes = Duration::from_millis(takes);
        Self { clock, takes, lifetime, script: Arc::default(), seen: Arc::default() }
    }

    fn asked(&self) -> Vec<Moment> {
        self.seen.lock().unwrap().asked.clone()
    }

    /// The least that an answer must keep the next request back.
    fn note(&self, act: Option<&Act>, sent: Moment) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let (Some(Act::Fail(_) | Act::Panic), Some(act)) = (act, act) else {
            let seconds = if let Some(Act::Token(_, seconds)) = act { *seconds } else { self.lifetime };
            *seen = Seen {
                token_ends: sent + Duration::from_secs(seconds),
                asked: std::mem::take(&mut seen.asked),
                too_early: seen.too_early.take(),
                ..Seen::default()
            };
            return;
        };
        seen.failures += 1;
        let backoff = Duration::from_secs(1 << seen.failures.min(7)).min(Duration::from_mins(2)) / 4;
        let least = match act {
            Act::Fail(TokenError::Throttled { retry_after: Some(asked), .. }) => {
                (*asked).min(Duration::from_mins(15)).max(backoff)
            }
            Act::Fail(TokenError::Rejected { .. }) => {
                seen.rejections += 1;
                let latch = Duration::from_secs(15 << seen.rejections.min(5)).min(Duration::from_mins(5));
                if seen.token_ends > now { latch.min(now.until(seen.token_ends)) } else { latch }
            }
            _ => backoff,
        };
        seen.not_before = now + least.min(Duration::from_mins(15));
    }
}

impl TokenEndpoint for Server {
    async fn request(
        &self,
        _: &Credential,
        _: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let (number, sent) = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.now();
            if now < seen.not_before && seen.too_early.is_none() {
                seen.too_early =
                    Some(format!("{:?} too early, request {}", now.until(seen.not_before), seen.asked.len()));
            }
            seen.asked.push(now);
            (seen.asked.len(), now)
        };
        tokio::time::sleep(self.takes).await;
        let act = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.note(act.as_ref(), sent);
        match act {
            Some(Act::Fail(error)) => Err(error),
            Some(Act::Panic) => panic!("told to"),
            Some(Act::Token(token, seconds)) => Ok(grant(token, seconds)),
            _ => Ok(grant(&format!("token-{number}"), self.lifetime)),
        }
    }
}

/// A daemon that can be started again.
struct Daemon {
    credential: Arc<Credential>,
    server: Server,
    source: TokenSource,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Daemon {
    fn start(credential: Arc<Credential>, server: Server) -> Self {
        let mut tasks = tokio::task::JoinSet::new();
        let (source, stop) = Self::spawn(&credential, &server, &mut tasks);
        Self { credential, server, source, stop, tasks }
    }

    fn spawn(
        credential: &Arc<Credential>,
        server: &Server,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> (TokenSource, Option<tokio::sync::oneshot::Sender<()>>) {
        let durable = DurableState::open(credential, server.clock).unwrap();
        let (refresher, source) =
            Refresher::new(Arc::clone(credential), server.clone(), durable, server.clock);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        tasks.spawn(refresher.run(async move {
            let _ = stopped.await;
        }));
        (source, Some(stop))
    }

    async fn restart(&mut self) {
        drop(self.stop.take());
        self.tasks.join_next().await.unwrap().unwrap();
        (self.source, self.stop) = Self::spawn(&self.credential, &self.server, &mut self.tasks);
    }
}

/// Does the steps; answers what went wrong with those who waited.
async fn run(daemon: &mut Daemon, steps: &[Step]) -> Vec<String> {
    let mut waiters = tokio::task::JoinSet::new();
    for step in steps {
        let source = daemon.source.clone();
        let current = source.generation();
        match *step {
            Step::Answer(ref act) => daemon.server.script.lock().unwrap().push_back(act.clone()),
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Step::Demand => source.demand(current),
            Step::Waiter(millis) => {
                waiters.spawn(timed(millis, async move {
                    source.wait(Duration::from_millis(millis)).await.is_ok()
                }));
            }
            Step::Replacer(millis) => {
                let within = Duration::from_millis(millis);
                waiters.spawn(timed(millis, async move { source.replace(current, within).await.is_ok() }));
            }
            Step::Restart => daemon.restart().await,
        }
    }
    waiters.join_all().await.into_iter().flatten().collect()
}

/// The delay of an answer that comes later than its deadline.
async fn timed(millis: u64, answer: impl Future<Output = bool>) -> Option<String> {
    let asked = tokio::time::Instant::now();
    answer.await;
    // A timer's own grain.
    let is_late = asked.elapsed() > Duration::from_millis(millis + 2);
    is_late.then(|| format!("{:?} for {millis} ms", asked.elapsed()))
}

fn credential_in(folder: &Path, lines: &str) -> Arc<Credential> {
    let path = folder.join("c.state");
    credential(&format!("state_file = \"{}\"\n{lines}", path.display()))
}

/// The first window with more requests than GCRA admits: a burst, and the refill over the window.
fn excess(asked: &[Moment], limit: u32) -> Option<String> {
    let refill = (PER / limit).as_nanos();
    for (first, start) in asked.iter().enumerate() {
        for (index, end) in asked[first..].iter().enumerate() {
            let refilled = start.until(*end).as_nanos() / refill;
            if index as u128 + 1 > u128::from(limit) + refilled {
                return Some(format!("{} requests in {:?}, of {limit}", index + 1, start.until(*end)));
            }
        }
    }
    None
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nothing is asked beyond the quota or before a gate ends, nobody waits beyond his deadline, and in the end there
    /// is a token.
    #[test]
    fn the_loop_keeps_to_quota_gates_and_deadlines(steps in steps(), takes in 0u64..3000, has_key in any::<bool>()) {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let key = if has_key { format!("state_key = \"{KEY}\"\n") } else { String::new() };
            let quota = format!("{key}quota = {{ requests = {REQUESTS}, per = \"60s\" }}");
            let (clock, _) = Clock::suspendable();
            let server = Server::new(clock, takes, 3600);
            let mut daemon = Daemon::start(credential_in(folder.path(), &quota), server.clone());

            let late = run(&mut daemon, &steps).await;

            prop_assert!(late.is_empty(), "{late:?}");
            prop_assert_eq!(&server.seen.lock().unwrap().too_early, &None);
            let excess = excess(&server.asked(), REQUESTS);
            prop_assert!(excess.is_none(), "{excess:?}");
            // Whatever happened: once the server is well, there is a token without anybody's doing.
            server.script.lock().unwrap().clear();
            tokio::time::sleep(Duration::from_mins(20)).await;
            prop_assert!(daemon.source.current().is_some());
            Ok(())
        })?;
    }

    /// With a quota that keeps nothing back there is no loop all the same: two requests at one moment have a reason.
    #[test]
    fn nothing_but_a_demand_or_a_start_follows_at_once(steps in steps()) {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (clock, _) = Clock::suspendable();
            let server = Server::new(clock, 0, 3600);
            let mut daemon = Daemon::start(credential_in(folder.path(), ROOMY), server.clone());
            run(&mut daemon, &steps).await;

            let reasons = steps.iter().filter(|step| {
                matches!(step, Step::Demand | Step::Replacer(_) | Step::Restart)
            });
            let at_once = server.asked().windows(2).filter(|pair| pair[0].until(pair[1]) < BACKOFF_LEAST).count();
            prop_assert!(at_once <= reasons.count(), "{at_once}: {:?}", server.asked());
            Ok(())
        })?;
    }

    /// Forced refreshes take half of the quota at most, across restarts.
    #[test]
    fn forced_refreshes_take_half_of_the_quota(steps in steps()) {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let lines = format!("state_key = \"{KEY}\"\nquota = {{ requests = {REQUESTS}, per = \"60s\" }}");
            let (clock, _) = Clock::suspendable();
            let server = Server::new(clock, 0, LONG);
            let mut daemon = Daemon::start(credential_in(folder.path(), &lines), server.clone());
            daemon.source.wait(HOUR).await.unwrap();
            // All of the others are forced: there is always a token that lives on.
            let steps: Vec<Step> =
                steps.into_iter().filter(|step| !matches!(step, Step::Answer(_))).collect();
            run(&mut daemon, &steps).await;

            let excess = excess(&server.asked()[1..], REQUESTS / 2);
            prop_assert!(excess.is_none(), "{excess:?}");
            Ok(())
        })?;
    }

    /// A second secret and a fallback add requests, and none beyond the quota.
    #[test]
    fn what_follows_from_a_refusal_is_within_the_quota_too(steps in steps(), is_at_client in any::<bool>()) {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let more = if is_at_client {
                "client_secret_next = \"next\""
            } else {
                "grant = \"refresh_token\"\nrefresh_token = \"first\"\nfallback = \"client_credentials\""
            };
            let lines = format!("{more}\nstate_key = \"{KEY}\"\nquota = {{ requests = {REQUESTS}, per = \"60s\" }}");
            let (clock, _) = Clock::suspendable();
            let server = Server::new(clock, 0, 3600);
            let mut daemon = Daemon::start(credential_in(folder.path(), &lines), server.clone());

            let late = run(&mut daemon, &steps).await;

            prop_assert!(late.is_empty(), "{late:?}");
            let excess = excess(&server.asked(), REQUESTS);
            prop_assert!(excess.is_none(), "{excess:?}");
            server.script.lock().unwrap().clear();
            tokio::time::sleep(Duration::from_mins(20)).await;
            prop_assert!(daemon.source.current().is_some());
            Ok(())
        })?;
    }
}

/// Half of the first backoff: equal jitter goes no lower.
const BACKOFF_LEAST: Duration = Duration::from_millis(400);
