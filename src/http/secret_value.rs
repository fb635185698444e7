//! Header values that hold a secret.

use bytes::Bytes;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use secrecy::zeroize::Zeroizing;

/// The value that consists of these parts: marked sensitive, and wiped when its last reference is dropped.
///
/// # Errors
///
/// [`InvalidHeaderValue`] if a part has a character that cannot stand in a header value.
pub fn secret_header_value(parts: &[&str]) -> Result<HeaderValue, InvalidHeaderValue> {
    // `concat` allocates once: a buffer that grows leaves copies behind that are not wiped.
    let bytes = Zeroizing::new(parts.concat().into_bytes());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_become_one_sensitive_value() {
        let value = secret_header_value(&["Bearer ", "s3cr3t"]).unwrap();

        assert_eq!(value, "Bearer s3cr3t");
        assert!(value.is_sensitive());
        assert!(secret_header_value(&["Bearer ", "a\r\nb"]).is_err());
    }
}
