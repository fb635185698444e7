//! The fuzz target of state files: any bytes as a file, and as the content of a correctly encrypted file.

use std::time::Duration;

use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::age::Stamp;
use super::file::{StateKey, StateKeys};
use super::format::Format;
use super::record::Identity;
use crate::token::access_token::AccessToken;

const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// 32 zeros in base64: a key that nobody uses.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// Reads the input as a state file, and as the encrypted content of another one.
///
/// # Panics
///
/// If a barrier lasts longer than allowed, or a state that is written again reads differently.
pub fn state_file(input: &[u8]) {
    let now = Stamp { boot: Some("a".to_owned()), moment: 1 << 50, wall: 1 << 60 };
    let identity = Identity::of(&[b"api"]);
    let clear = Format::new(identity, StateKeys::none(), b"api.state", LONGEST_WAIT);
    let key = || StateKey::parse(&SecretString::from(KEY));
    let (Ok(key), Ok(keys)) = (key(), key().map(|key| StateKeys::new(key, Vec::new()))) else { return };
    let sealed = Format::new(identity, keys, b"api.state", LONGEST_WAIT);
    check(&clear, input, &now);
    check(&sealed, input, &now);
    if let Ok(file) = sealed.seal(&key, 7, Zeroizing::new(input.to_vec())) {
        check(&sealed, &file, &now);
    }
}

fn check(format: &Format, file: &[u8], now: &Stamp) {
    let Ok(read) = format.read(file, now) else { return };
    let blocked = read.state.limiter.blocked.map(|blocked| blocked.until);
    assert!(blocked.is_none_or(|until| now.moment().until(until) <= LONGEST_WAIT));
    let usable = read.state.access_token.as_ref().map(AccessToken::issued);
    assert!(usable.is_none_or(|issued| issued <= now.moment()), "a token of the future");
    let Ok(again) = format.write(&read.state, read.sequence, now.clone()) else { return };
    let Ok(again) = format.read(&again, now) else { panic!("a written state is not read") };
    assert_eq!(again.state.clear_part(), read.state.clear_part());
    assert_eq!(format!("{:?}", again.state), format!("{:?}", read.state));
}
