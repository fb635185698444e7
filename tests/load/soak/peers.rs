//! The daemon's peers during the soak: failing token endpoints, revoked tokens, SIGHUP.

use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use testkit::authorization_server::Answer;
use tokio::time::Instant;

use super::Soak;
use crate::callers::certificate;

const TICK: Duration = Duration::from_millis(10);
/// One of so many token requests fails: 5 %.
const FAILS_EVERY: usize = 20;
/// The first token request that fails, so that a short run has one.
const FAILS_FIRST: usize = 2;
/// The time between two SIGHUPs.
const HANGUP: Duration = Duration::from_secs(30);

/// Lets every twentieth token request fail, each time in another way.
pub(crate) async fn failing_token_endpoints(soak: Rc<Soak>) {
    let ways = [Answer::status(500, "{}"), Answer::Hangup, Answer::status(503, "<html>down</html>")];
    let mut ways = ways.iter().cycle();
    let issuers = &soak.world.issuers;
    let mut next_failure = [FAILS_FIRST; 2];
    let mut is_queued = [false; 2];
    while !soak.is_over() {
        for (index, issuer) in issuers.iter().enumerate() {
            let requests = issuer.requests();
            if is_queued[index] && requests > next_failure[index] {
                // The failed request did not use the refresh token, which stays valid.
                if let Some(latest) = issuer.refresh_tokens().latest() {
                    issuer.take_back(latest);
                }
                soak.tally.token_request_failed();
                (is_queued[index], next_failure[index]) = (false, requests + FAILS_EVERY - 1);
            } else if !is_queued[index] && requests == next_failure[index] {
                issuer.answer_next(ways.next().expect("there is no end of them").clone());
                is_queued[index] = true;
            }
        }
        tokio::time::sleep(TICK).await;
    }
    for issuer in issuers {
        issuer.forget_queue();
    }
}

/// Revokes all tokens of one issuer every few seconds.
///
/// Only tokens that have been in use for a moment: a token that is revoked before its first use looks like an API that
/// rejects every token, and callers rightly get an error.
pub(crate) async fn revoking(soak: Rc<Soak>) {
    while !soak.is_over() {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2000..6000))).await;
        let issuer = &soak.world.issuers[fastrand::usize(..2)];
        let began = Instant::now();
        let (mut seen, mut since) = (issuer.requests(), Instant::now());
        while since.elapsed() < Duration::from_millis(1500) && began.elapsed() < Duration::from_secs(5) {
            if issuer.requests() != seen {
                (seen, since) = (issuer.requests(), Instant::now());
            }
            tokio::time::sleep(TICK).await;
        }
        issuer.revoke_all();
        soak.tally.revoked();
    }
}

/// Renews the certificate, writes another configuration and sends SIGHUP; new connections must have the new certificate,
/// and new requests the new configuration.
pub(crate) async fn hanging_up(soak: Rc<Soak>) {
    let pause = HANGUP.min(soak.time / 3);
    for round in 1.. {
        tokio::time::sleep(pause).await;
        if soak.is_over() {
            return;
        }
        let renewed = soak.world.renew_certificate().der().0.swap_remove(0).to_vec();
        soak.world.write_round(round);
        soak.world.signal(Signal::HUP);
        let began = Instant::now();
        loop {
            let shown = certificate(&soak.world).await;
            let is_renewed = shown.as_ref().is_ok_and(|shown| *shown == renewed);
            if is_renewed && soak.world.api.round() == round {
                break soak.tally.count("certificates and configurations taken up with SIGHUP");
            }
            if began.elapsed() > Duration::from_secs(5) {
                let which = if is_renewed { "configuration" } else { "certificate" };
                break soak
                    .tally
                    .not_taken_up(format!("the {which} {:?} after the start", soak.began.elapsed()));
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// The moments at which more token requests came than a quota allows: so many at once, refilled over its period.
pub(crate) fn over_quota(times: &[Instant], (requests, per): (f64, Duration)) -> Vec<String> {
    let mut over = Vec::new();
    for (index, from) in times.iter().enumerate() {
        for (count, to) in times[index..].iter().enumerate() {
            let time = *to - *from;
            let allowed = requests + time.as_secs_f64() / per.as_secs_f64() * requests + 1.0;
            if (count + 1) as f64 > allowed {
                over.push(format!("{} in {time:?}", count + 1));
            }
        }
    }
    over
}
