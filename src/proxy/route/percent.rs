//! Percent-encoding of paths (RFC 3986 §2).

/// The byte that two hexadecimal digits encode.
pub(super) fn decode(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The byte that the escape at the start of a text encodes.
pub(super) fn first(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', high, low, ..] => decode(*high, *low),
        _ => None,
    }
}

/// A path with unreserved characters decoded, which mean the same encoded and not (RFC 3986 §6.2.2.2).
pub(super) fn normalized(path: &str) -> impl Iterator<Item = char> {
    let is_unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let mut rest = path.chars();
    std::iter::from_fn(move || {
        let next = rest.next()?;
        if next == '%'
            && let [high, low, ..] = *rest.as_str().as_bytes()
            && let Some(byte) = decode(high, low).filter(is_unreserved)
        {
            rest = rest.as_str()[2..].chars();
            return Some(char::from(byte));
        }
        Some(next)
    })
}
