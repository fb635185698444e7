//! A written state is read again, and no other bytes are.

use std::collections::HashSet;

use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::causes::in_one_line;
use crate::clock::Moment;
use crate::config::IdentityDigest;
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::{Barrier, Blocked, Snapshot};
use crate::token::refresh_token_end::RefreshTokenEnd;
use crate::token::state::file::{ClientSecretHash, Doubt, Lineage, RefreshTokenHash, RequestMark};

const LONGEST_WAIT: Duration = Duration::from_mins(15);
const NAME: &[u8] = b"api.state";
const SECRETS: [&str; 2] = ["r3fresh-\"s3cret\\", "4ccess-s3cret"];

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

/// A moment this many seconds after the write.
fn later(seconds: u64) -> Stamp {
    let moment = at(10_000 + seconds).as_nanos();
    Stamp { boot: Some("boot".to_owned()), moment, wall: 1_800_000_000_000_000_000 + seconds * 1_000_000_000 }
}

fn state() -> State {
    let lifetime = Duration::from_mins(10);
    let scopes = vec!["a".to_owned(), "quoted\"\u{1}ü".to_owned()];
    let token = AccessToken::new(SECRETS[1], Generation::from_number(7), at(9_900), lifetime, scopes);
    State {
        shared: 7,
        refresh_token: Some(SecretString::from(SECRETS[0])),
        refused: vec![RefreshTokenHash::of(&SecretString::from("dead"))],
        doubt: Some(Doubt {
            token: RefreshTokenHash::of(&SecretString::from(SECRETS[0])),
            is_unanswered: true,
            refusals: 1,
            is_under_way: false,
        }),
        refresh_token_end: Some(RefreshTokenEnd {
            at: at(20_000),
            lifetime: Duration::from_hours(3),
            is_final: true,
        }),
        lineage: Some(Lineage::of(&SecretString::from("first"))),
        rotations: 3,
        generation: Generation::from_number(7),
        access_token: Some(token.unwrap()),
        fallback: Some(IdentityDigest::from_bytes([1; 32])),
        identity: Some(IdentityDigest::from_bytes([2; 32])),
        request: Some(RequestMark::of(IdentityDigest::from_bytes([3; 32]))),
        client_secret: Some(ClientSecretHash::of(&SecretString::from("client"))),
        uses_next_secret: true,
        limiter: Snapshot {
            blocked: Some(Blocked { until: at(10_060), by: Barrier::RetryAfter }),
            failures: 2,
            rejections: 1,
            quota_full_at: at(10_030),
            forced_quota_full_at: at(10_020),
        },
    }
}

fn key(byte: u8) -> StateKey {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    StateKey::parse(&SecretString::from(text)).unwrap()
}

fn keys() -> StateKeys {
    StateKeys::new(key(1), Vec::new())
}

fn identity() -> Identity {
    Identity::of(&[b"api"])
}

fn format(keys: StateKeys) -> Format {
    Format::new(identity(), keys, NAME, LONGEST_WAIT)
}

fn written(keys: StateKeys) -> Vec<u8> {
    format(keys).write(&state(), 42, later(0)).unwrap()
}

fn refusal(format: &Format, bytes: &[u8]) -> StateRefusal {
    format.read(bytes, &later(1)).unwrap_err()
}

#[test]
fn what_is_written_is_read() {
    let read = format(keys()).read(&written(keys()), &later(0)).unwrap();

    assert_eq!((read.sequence, read.has_old_key), (42, false));
    let (found, state) = (read.state, state());
    assert_eq!(found.clear_part(), state.clear_part());
    assert_eq!(found.refresh_token.unwrap().expose_secret(), SECRETS[0]);
    assert_eq!((found.lineage, &found.refused, found.doubt), (state.lineage, &state.refused, state.doubt));
    assert_eq!(found.client_secret, state.client_secret);
    assert_eq!(
        (found.fallback, found.identity, found.request),
        (state.fallback, state.identity, state.request)
    );
    assert_eq!((found.rotations, found.generation), (3, state.generation));
    let (token, was) = (found.access_token.unwrap(), state.access_token.unwrap());
    assert!(token.is_same_token(&was));
    assert_eq!((token.issued(), token.expires()), (was.issued(), was.expires()));
    assert_eq!((token.generation(), token.scopes()), (was.generation(), was.scopes()));
}

#[test]
fn an_empty_state_and_every_barrier_are_read_as_written() {
    let format = format(keys());
    let empty = format.write(&State::default(), 1, later(0)).unwrap();
    let found = format.read(&empty, &later(0)).unwrap().state;
    assert!(found.refresh_token.is_none() && found.access_token.is_none() && found.lineage.is_none());
    assert_eq!(found.limiter, Snapshot::default());

    for by in [Barrier::Quota, Barrier::RetryAfter, Barrier::Backoff, Barrier::Breaker, Barrier::Latch] {
        let snapshot = Snapshot { blocked: Some(Blocked { until: at(10_001), by }), ..Snapshot::default() };
        let bytes = format.write(&State { limiter: snapshot, ..State::default() }, 1, later(0)).unwrap();
        assert_eq!(format.read(&bytes, &later(0)).unwrap().state.limiter, snapshot);
    }
}

#[test]
fn a_quota_is_refilled_by_the_shortest_possible_time() {
    let bytes = written(keys());
    let left = |now: &Stamp| {
        let snapshot = format(keys()).read(&bytes, now).unwrap().state.limiter;
        let left = |full_at: Moment| now.moment().until(full_at).as_secs();
        (left(snapshot.quota_full_at), left(snapshot.forced_quota_full_at))
    };

    assert_eq!(left(&later(0)), (30, 20));
    assert_eq!(left(&later(12)), (18, 8));
    assert_eq!(left(&later(25)), (5, 0));
    assert_eq!(left(&later(3600)), (0, 0));
    // After another boot, with a clock that was set back, nobody knows.
    let lost = Stamp { boot: Some("another".to_owned()), moment: 1_000_000_000, wall: 1 };
    assert_eq!(left(&lost), (30, 20));
}

#[test]
fn without_a_key_no_token_is_written_and_the_limiters_snapshot_is() {
    let bytes = written(StateKeys::none());
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("token") && !text.contains("lineage") && !text.contains("scopes"), "{text}");

    let found = format(StateKeys::none()).read(&bytes, &later(0)).unwrap().state;
    assert_eq!(found.limiter, state().limiter);
    assert!(found.refresh_token.is_none() && found.access_token.is_none());
}

#[test]
fn no_token_is_read_from_a_file_in_clear() {
    let format = format(keys());
    let now = later(0);
    let body = body::to_bytes(&SealedBody::new(&state(), now.clone()), &state()).unwrap();
    let mut forged = format.header(CLEAR, 42, [0; KEY_ID_BYTES], body.len() + CHECKSUM_BYTES).unwrap();
    let checksum = format.checksum(&forged, &body);
    forged.extend_from_slice(&body);
    forged.extend_from_slice(checksum.as_ref());

    let found = format.read(&forged, &now).unwrap().state;

    assert!(found.refresh_token.is_none() && found.access_token.is_none());
}

#[test]
fn an_encrypted_file_shows_nothing_of_its_content() {
    let bytes = written(keys());
    let contains = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);

    assert!(!SECRETS.iter().any(|secret| contains(&secret.as_bytes()[..6])));
    assert!(!contains(b"written") && !contains(b"failures"));
}

#[test]
fn a_file_with_any_byte_changed_is_refused() {
    for keys in [keys, StateKeys::none] {
        let good = written(keys());
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let refusal = refusal(&format(keys()), &bad);
                let is_precise = match at {
                    0..8 => matches!(refusal, StateRefusal::NotState),
                    8..10 => matches!(refusal, StateRefusal::Version(_)),
                    10 => matches!(
                        refusal,
                        StateRefusal::Altered | StateRefusal::NoKey | StateRefusal::OtherKey
                    ),
                    11..43 => matches!(refusal, StateRefusal::Foreign),
                    51..59 => matches!(refusal, StateRefusal::OtherKey | StateRefusal::Altered),
                    59..63 => matches!(refusal, StateRefusal::Truncated { .. } | StateRefusal::Overlong(_)),
                    _ => matches!(refusal, StateRefusal::Altered),
                };
                assert!(is_precise, "byte {at}: {refusal:?}");
            }
        }
    }
}

#[test]
fn a_file_that_ends_too_early_or_too_late_is_refused() {
    for keys in [keys, StateKeys::none] {
        let good = written(keys());
        for length in 0..good.len() {
            let refusal = refusal(&format(keys()), &good[..length]);
            assert!(
                matches!(refusal, StateRefusal::Truncated { bytes, expected } if bytes == length && bytes < expected),
                "{length}: {refusal:?}"
            );
        }
        let long = [good.as_slice(), b"\0\0"].concat();
        assert!(matches!(refusal(&format(keys()), &long), StateRefusal::Overlong(2)));
    }
}

#[test]
fn a_file_of_another_credential_name_or_version_is_refused() {
    let good = written(keys());

    let other = Format::new(Identity::of(&[b"other"]), keys(), NAME, LONGEST_WAIT);
    assert!(matches!(refusal(&other, &good), StateRefusal::Foreign));
    let renamed = Format::new(identity(), keys(), b"other.state", LONGEST_WAIT);
    assert!(matches!(refusal(&renamed, &good), StateRefusal::Altered));
    for version in [1, 3] {
        let mut other = good.clone();
        other[9] = version;
        other.truncate(20);
        assert!(
            matches!(refusal(&format(keys()), &other), StateRefusal::Version(found) if found == u16::from(version))
        );
    }
    assert!(matches!(refusal(&format(keys()), b"{\"refresh_token\": \"x\"}"), StateRefusal::NotState));
}

#[test]
fn a_missing_or_other_key_is_reported_and_a_previous_one_still_reads() {
    let good = written(keys());

    assert!(matches!(refusal(&format(StateKeys::none()), &good), StateRefusal::NoKey));
    assert!(matches!(refusal(&format(StateKeys::new(key(2), vec![key(3)])), &good), StateRefusal::OtherKey));

    let rotated = format(StateKeys::new(key(2), vec![key(3), key(1)]));
    assert!(rotated.read(&good, &later(1)).unwrap().has_old_key);
    let rewritten = rotated.write(&state(), 43, later(1)).unwrap();
    let only_new = format(StateKeys::new(key(2), Vec::new()));
    assert!(!only_new.read(&rewritten, &later(1)).unwrap().has_old_key);
    assert!(matches!(refusal(&format(keys()), &rewritten), StateRefusal::OtherKey));
}

#[test]
fn a_file_in_clear_is_read_after_a_key_was_configured() {
    let found = format(keys()).read(&written(StateKeys::none()), &later(0)).unwrap();

    assert_eq!(found.state.limiter, state().limiter);
}

#[test]
fn a_token_ends_on_time_even_if_the_clock_was_set() {
    let format = format(keys());
    let bytes = written(keys());
    let expires = |now: &Stamp| {
        let token = format.read(&bytes, now).unwrap().state.access_token;
        token.map(|token| now.moment().until(token.expires()).as_secs())
    };
    // 500 seconds are left at the write.
    assert_eq!(expires(&later(0)), Some(500));
    assert_eq!(expires(&later(499)), Some(1));
    assert_eq!(expires(&later(500)), None);

    let set_back = Stamp { wall: 0, ..later(100) };
    assert_eq!(expires(&set_back), Some(400));
    let set_forward = Stamp { wall: later(450).wall, ..later(100) };
    assert_eq!(expires(&set_forward), Some(50));

    let rebooted =
        |seconds| Stamp { boot: Some("other".to_owned()), moment: at(5).as_nanos(), ..later(seconds) };
    assert_eq!(expires(&rebooted(100)), Some(400));
    assert_eq!(expires(&rebooted(500)), None);
    let rebooted_and_set_back = Stamp { wall: later(0).wall - 1, ..rebooted(0) };
    assert_eq!(expires(&rebooted_and_set_back), None);
}

#[test]
fn an_expired_token_is_not_written() {
    let format = format(keys());
    let bytes = format.write(&state(), 1, later(500)).unwrap();

    assert!(format.read(&bytes, &later(0)).unwrap().state.access_token.is_none());
}

#[test]
fn a_barrier_ends_on_time_and_within_the_longest_wait() {
    for keys in [keys, StateKeys::none] {
        let bytes = written(keys());
        let left = |longest_wait, now: &Stamp| {
            let format = Format::new(identity(), keys(), NAME, longest_wait);
            let snapshot = format.read(&bytes, now).unwrap().state.limiter;
            assert_eq!((snapshot.failures, snapshot.rejections), (2, 1));
            snapshot.blocked.map(|blocked| now.moment().until(blocked.until).as_secs())
        };
        assert_eq!(left(LONGEST_WAIT, &later(20)), Some(40));
        assert_eq!(left(LONGEST_WAIT, &later(60)), None);
        assert_eq!(left(Duration::from_secs(10), &later(20)), Some(10));

        let set_forward = Stamp { wall: u64::MAX, ..later(20) };
        assert_eq!(left(LONGEST_WAIT, &set_forward), Some(40));
        let rebooted_and_set_back = Stamp { boot: None, moment: 0, wall: 0 };
        assert_eq!(left(LONGEST_WAIT, &rebooted_and_set_back), Some(60));
    }
}

#[test]
fn no_two_writes_have_the_same_nonce() {
    let key = key(1);
    let format = format(keys());
    let writes = 1 << 20;
    let nonces: HashSet<[u8; NONCE_LEN]> = (0..writes)
        .map(|_| {
            let bytes = format.seal(&key, 1, Zeroizing::new(Vec::new())).unwrap();
            bytes[HEADER_BYTES..HEADER_BYTES + NONCE_LEN].try_into().unwrap()
        })
        .collect();

    assert_eq!(nonces.len(), writes);
}

#[test]
fn debug_and_errors_show_no_secret() {
    let mut shown = vec![format!("{:?}", state()), format!("{:#?}", format(keys()))];
    let good = written(keys());
    shown.push(format!("{:?}", format(keys()).read(&good, &later(0)).unwrap()));
    let senseless = [b"{\"refresh_token\":\"".as_slice(), SECRETS[1].as_bytes(), b"\"}"].concat();
    for body in [senseless, b"[]".to_vec(), Vec::new()] {
        let bytes = format(keys()).seal(&key(1), 1, Zeroizing::new(body)).unwrap();
        let refusal = refusal(&format(keys()), &bytes);
        assert!(matches!(refusal, StateRefusal::Senseless));
        shown.push(format!("{refusal:?} {}", in_one_line(&refusal)));
    }
    for text in shown {
        assert!(!SECRETS.iter().any(|secret| text.contains(&secret[..6])), "{text}");
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        let mut file = if whole { written(keys())[..43].to_vec() } else { Vec::new() };
        file.extend_from_slice(&bytes);
        prop_assert!(format(keys()).read(&file, &later(0)).is_err());
    }

    #[test]
    fn a_token_never_outlives_its_end_nor_its_lifetime_from_the_write(
        same_boot in any::<bool>(), moment in 0..20_000_u64, wall in 0..2_000_000_000_u64,
    ) {
        let boot = if same_boot { "boot" } else { "other" };
        let now = Stamp { boot: Some(boot.to_owned()), moment: at(moment).as_nanos(), wall: at(wall).as_nanos() };
        let read = format(keys()).read(&written(keys()), &now).unwrap().state;
        if let Some(token) = read.access_token {
            prop_assert!(now.moment().until(token.expires()) <= Duration::from_secs(500));
            prop_assert!(!same_boot || moment < 10_000 || token.expires() <= at(10_500));
        }
        if let Some(blocked) = read.limiter.blocked {
            prop_assert!(now.moment().until(blocked.until) <= Duration::from_mins(1));
        }
    }
}
