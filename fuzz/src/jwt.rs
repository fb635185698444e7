//! Any access token, and any payload of one: what it says of itself is read, or it is no JWT.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bearerd::token::jwt::{claims, has_form, left};

const SINCE_1970: Duration = Duration::from_hours(500_000);

pub fn run(input: &[u8]) {
    let now = UNIX_EPOCH + SINCE_1970;
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(input));
    assert_eq!(has_form(&token), !input.is_empty());
    for token in [std::str::from_utf8(input).unwrap_or_default(), &token] {
        assert!(claims(token).is_none() || has_form(token));
        // The earlier it is, the more is left.
        if let Some(less) = left(token, now) {
            let more = left(token, UNIX_EPOCH).expect("its end is legible");
            assert!(less <= more);
            assert_eq!(less, more.saturating_sub(SINCE_1970));
        }
    }
}
