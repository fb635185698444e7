//! Random schedules of faults, each from a seed: replicas that stop, die and start, a store that is away, hangs, forgets or
//! loses its latest writes, an authorization server that fails or throttles, revocations, and lost answers.
//!
//! The invariants: no refresh token is used twice, except where an answer was lost that no client can have again; whenever
//! the server has given a token, all replicas end up with a valid one.

use super::*;
use crate::config::Environment;

/// The schedules of one run; `BEARERD_SCHEDULES` sets another number.
const SCHEDULES: u64 = 100;
/// The life of an access token.
const LIFETIME: u64 = 40;

/// What may have cost a refresh token in a schedule.
#[derive(Clone, Copy, Debug, Default)]
struct Excuse {
    /// A replica died while the server had its request: the answer, and with it the new refresh token, is lost.
    lost_answer: bool,
    /// The store lost what only it and a replica that died knew.
    lost_record: bool,
    /// The last holder went on alone, and was cut off or asleep when the others were not.
    is_cut_off: bool,
}

/// Runs one schedule. Returns what became of it, for the comparison of two runs of one seed.
fn run(seed: u64) -> (u64, u64, Vec<Option<String>>) {
    fastrand::seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let grace = if random.bool() { Duration::ZERO } else { Duration::from_mins(1) };
        let rotates = random.u8(..4) > 0;
        let grace_line = if grace.is_zero() { String::new() } else { "rotation_grace = \"60s\"".to_owned() };
        let lines = if rotates { format!("{ROTATING}\n{ROOMY}\n{grace_line}") } else { ROOMY.to_owned() };
        let mut world = World::new(&lines, Authorization::new(LIFETIME, grace));
        world.loses_answer = if random.u8(..3) == 0 { 0.02 } else { 0.0 };
        world.when_away = if random.bool() { WhenAway::Stop } else { WhenAway::LastHolder };
        let mut journal = vec![format!(
            "grace {grace:?}, rotates {rotates}, loses {}, {:?}",
            world.loses_answer, world.when_away
        )];
        world.start(random.usize(2..5));
        let mut excuse = Excuse::default();
        seconds(15).await;
        for _ in 0..random.u8(3..10) {
            fault(&mut world, &mut random, &mut excuse, &mut journal).await;
            sleep(Duration::from_millis(random.u64(..12_000))).await;
        }
        calm(&mut world).await;
        let (requests, reuses) = (world.server.requests(), world.reuses());
        let is_excused =
            excuse.lost_answer || excuse.lost_record || excuse.is_cut_off || world.loses_answer > 0.0;
        assert!(reuses == 0 || is_excused, "a refresh token was used {reuses} times too often: {journal:#?}");
        if !world.server.ledger().is_revoked {
            world.assert_agreed();
        }
        (requests, reuses, world.tokens())
    })
}

async fn fault(
    world: &mut World,
    random: &mut fastrand::Rng,
    excuse: &mut Excuse,
    journal: &mut Vec<String>,
) {
    let one = random.usize(..world.replicas.len());

    let long = Duration::from_millis(random.u64(500..20_000));
    let kind = random.u8(..15);
    journal.push(format!(
        "{:?}: fault {kind} of {one} for {long:?}; {:?}",
        world.begun.elapsed(),
        world.tokens()
    ));
    match kind {
        12..=14 => {
            // Others see a store that is back, while the last holder, which went on alone, does not reach it.
            excuse.is_cut_off |= world.when_away == WhenAway::LastHolder;
            world.replicas[one].cut.store(true, Ordering::Relaxed);
            sleep(long).await;
            world.replicas[one].cut.store(false, Ordering::Relaxed);
        }
        0 | 1 => {
            excuse.is_cut_off |= world.when_away == WhenAway::LastHolder;
            world.replicas[one].stopped.send_replace(true);
            sleep(long).await;
            world.replicas[one].stopped.send_replace(false);
            // The others have waited until their token ended.
            excuse.lost_answer |= world.tokens().iter().any(Option::is_none);
        }
        2 | 3 => {
            // The server may have the request of the replica that dies.
            excuse.lost_answer = true;
            let replica = world.begin();
            drop(std::mem::replace(&mut world.replicas[one], replica));
        }
        4 => outage(world, Outage::Refuses, long).await,
        5 => outage(world, Outage::Hangs, long).await,
        6 => world.store.forget(),
        7 => {
            world.store.back_up();
            // What the replicas wait for is in the server that is promoted.
            let is_confirmed = random.bool();
            world.store.follow(is_confirmed.then_some(true));
            sleep(long).await;
            excuse.lost_record |= !is_confirmed;
            world.store.roll_back();
            world.store.follow(None);
        }
        8 => {
            world.server.ledger().failure = Some(if random.bool() { transient() } else { throttled(5) });
            sleep(long).await;
            world.server.ledger().failure = None;
        }
        9 | 10 => {
            let rejecting = &world.replicas[one];
            let _ = rejecting.source.replace(rejecting.generation(), Duration::from_secs(2)).await;
        }
        _ => {
            let replica = world.begin();
            world.replicas.push(replica);
        }
    }
}

async fn outage(world: &World, outage: Outage, long: Duration) {
    world.store.set_outage(outage);
    sleep(long).await;
    world.store.set_outage(Outage::None);
}

/// Lets everything recover: refusals in passing are waited out for half a minute and for five.
async fn calm(world: &mut World) {
    seconds(60).await;
    for _ in 0..200 {
        let tokens = world.tokens();
        if world.server.ledger().is_revoked
            || tokens.iter().all(|token| token.is_some() && *token == tokens[0])
        {
            return;
        }
        seconds(5).await;
    }
}

#[test]
fn no_schedule_of_faults_uses_a_refresh_token_twice_or_loses_the_token() {
    let environment = Environment::process();
    let number = |name: &str| environment.get(name).and_then(|text| text.parse::<u64>().ok());
    let first = number("BEARERD_SEED").unwrap_or(0);
    for seed in first..first + number("BEARERD_SCHEDULES").unwrap_or(SCHEDULES) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(
            outcome.is_ok(),
            "the schedule of seed {seed} failed: repeat it with BEARERD_SEED={seed} BEARERD_SCHEDULES=1"
        );
    }
}

#[test]
fn a_schedule_is_the_same_each_time() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
    }
}
