//! When a refresh token ends, as far as the server says.

use std::time::Duration;

use crate::clock::Moment;

/// The end of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshTokenEnd {
    /// The end.
    pub at: Moment,
    /// The lifetime by the response that named the end.
    pub lifetime: Duration,
    /// Whether the latest refresh has not moved the end, so that another will not either.
    pub is_final: bool,
}

impl RefreshTokenEnd {
    /// The end by the first response of a grant. `said` is zero where the server says that the token never ends, and `None`
    /// where the server does not say.
    pub fn first(said: Option<Duration>, sent: Moment) -> Option<Self> {
        let lifetime = said.filter(|lifetime| !lifetime.is_zero())?;
        Some(Self { at: sent + lifetime, lifetime, is_final: false })
    }

    /// The end by a later response, which may have replaced the token.
    pub fn next(
        before: Option<Self>,
        said: Option<Duration>,
        is_replaced: bool,
        sent: Moment,
    ) -> Option<Self> {
        match (Self::first(said, sent), before) {
            (Some(next), Some(before)) => {
                // Servers round to seconds: an end that moves moves with the time between the requests.
                let passed = before.at.before(before.lifetime).until(sent);
                Some(Self { is_final: before.at.until(next.at) < passed / 2, ..next })
            }
            (Some(next), None) => Some(next),
            (None, before) if said.is_none() && !is_replaced => {
                before.map(|before| Self { is_final: true, ..before })
            }
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_end_that_refreshes_do_not_move_is_final() {
        let first = RefreshTokenEnd::first(Some(seconds(1800)), START);
        let later = START + seconds(600);
        for (said, is_replaced, expected) in [
            // The end moves with each refresh, exactly or as rounded.
            (Some(1800), true, Some((2400, false))),
            (Some(1799), false, Some((2399, false))),
            // The end of a session stays.
            (Some(1200), true, Some((1800, true))),
            (Some(1201), false, Some((1801, true))),
            // Nothing is said of the same token, or of another one.
            (None, false, Some((1800, true))),
            (None, true, None),
            (Some(0), false, None),
            (Some(0), true, None),
        ] {
            let next = RefreshTokenEnd::next(first, said.map(seconds), is_replaced, later);
            let shown = next.map(|end| (START.until(end.at).as_secs(), end.is_final));
            assert_eq!(shown, expected, "{said:?} {is_replaced}");
        }
        assert_eq!(RefreshTokenEnd::first(Some(Duration::ZERO), START), None);
        assert_eq!(RefreshTokenEnd::next(None, Some(seconds(9)), true, START).unwrap().lifetime, seconds(9));
        let at_once = RefreshTokenEnd::next(first, Some(seconds(1800)), true, START);
        assert!(!at_once.unwrap().is_final, "nothing is known of it yet");
    }
}
