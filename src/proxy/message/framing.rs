//! The framing of responses (RFC 9112 §6): one length, or chunks, or neither.
//!
//! After [`settle`], a response has at most one `Content-Length`, and none beside chunks: every caller finds the end of
//! the body where the proxy found it.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};

use super::list::members;

/// Whether the connection of a response may carry another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// The end of the response is certain.
    Allowed,
    /// The upstream may have meant another end, so that its next bytes may belong to this response.
    Refused,
}

/// Leaves a response with the framing by which its body is read: chunks override a length, equal lengths become one, and
/// a response that has no body announces none.
///
/// # Errors
///
/// Why the response has no certain end.
pub fn settle<B>(response: &mut Response<B>, method: &Method) -> Result<Reuse, &'static str> {
    let status = response.status();
    if status.is_informational() {
        return Ok(Reuse::Allowed);
    }
    let headers = response.headers_mut();
    // One pass over the fields costs less than a lookup for each.
    let (mut is_coded, mut lengths, mut length) = (false, 0, None);
    for (name, value) in &*headers {
        is_coded |= name == TRANSFER_ENCODING;
        if name == CONTENT_LENGTH {
            lengths += 1;
            length = number(value.as_bytes());
        }
    }
    if !is_coded && lengths == 0 {
        return Ok(Reuse::Allowed);
    }
    if status == StatusCode::NO_CONTENT {
        let length = headers.remove(CONTENT_LENGTH);
        let announces_body = is_coded || length.is_some_and(|length| length != "0");
        return Ok(if announces_body { Reuse::Refused } else { Reuse::Allowed });
    }
    let has_body = status != StatusCode::NOT_MODIFIED && *method != Method::HEAD;
    if is_coded {
        let is_both = headers.remove(CONTENT_LENGTH).is_some();
        if has_body {
            check_coding(headers)?;
        }
        let is_doubtful = is_both || status == StatusCode::NOT_MODIFIED;
        return Ok(if is_doubtful { Reuse::Refused } else { Reuse::Allowed });
    }
    let length = match length {
        Some(length) if lengths == 1 => length,
        _ => unify_lengths(headers)?,
    };
    // The length is that of a 200 (RFC 9110 §15.4.5), but some servers send the body too.
    let is_doubtful = status == StatusCode::NOT_MODIFIED && length > 0;
    Ok(if is_doubtful { Reuse::Refused } else { Reuse::Allowed })
}

/// Accepts chunks alone, and `identity` (RFC 2616 §3.6), which means none: the proxy decodes no other coding, and callers
/// do not learn of one, because `Transfer-Encoding` ends here.
fn check_coding(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = codings.next().is_some_and(|coding| {
        let coding = coding.as_bytes();
        coding.eq_ignore_ascii_case(b"chunked") || coding.eq_ignore_ascii_case(b"identity")
    });
    if is_known && codings.next().is_none() {
        Ok(())
    } else {
        Err("its Transfer-Encoding is not `chunked` alone")
    }
}

/// Makes equal lengths one field with one number (RFC 9110 §8.6), and returns the number.
fn unify_lengths(headers: &mut HeaderMap) -> Result<u64, &'static str> {
    const UNEQUAL: &str = "its Content-Length is not one number";
    let length = {
        let all = headers.get_all(CONTENT_LENGTH).iter().flat_map(members);
        let mut numbers = all.map(|member| number(member.unwrap_or_default().as_bytes()));
        let length = numbers.next().flatten().ok_or(UNEQUAL)?;
        numbers.all(|other| other == Some(length)).then_some(length).ok_or(UNEQUAL)?
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(length)
}

/// A number in decimal digits, without a sign.
fn number(digits: &[u8]) -> Option<u64> {
    let append = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, append) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::message::fixture::{map, sorted};

    /// What becomes of a response to this method: its length, and whether its connection may be used again.
    fn settled(method: &str, status: u16, fields: &[(&str, &str)]) -> Option<(Option<String>, Reuse)> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = map(fields);
        let reuse = settle(&mut response, &Method::from_bytes(method.as_bytes()).unwrap()).ok()?;
        let lengths = sorted(response.headers()).into_iter().filter(|(name, _)| *name == "content-length");
        let lengths: Vec<String> = lengths.map(|(_, value)| value.to_owned()).collect();
        assert!(lengths.len() <= 1, "{fields:?}");
        Some((lengths.into_iter().next(), reuse))
    }

    #[test]
    fn a_response_has_one_length_or_none_beside_chunks() {
        use Reuse::{Allowed, Refused};
        let (five, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        let list = |text: &'static str| ("content-length", text);
        for (method, status, fields, expected) in [
            ("GET", 200, &[][..], Some((None, Allowed))),
            ("GET", 200, &[five], Some((Some("5"), Allowed))),
            ("GET", 200, &[chunked], Some((None, Allowed))),
            ("GET", 200, &[five, chunked], Some((None, Refused))),
            ("GET", 200, &[list("x"), chunked], Some((None, Refused))),
            ("GET", 200, &[five, five], Some((Some("5"), Allowed))),
            ("GET", 200, &[list("5, 5,05")], Some((Some("5"), Allowed))),
            ("GET", 200, &[list("5, 6")], None),
            ("GET", 200, &[five, list("6")], None),
            ("GET", 200, &[list("5,")], None),
            ("GET", 200, &[list("")], None),
            ("GET", 200, &[list("+5")], None),
            ("GET", 200, &[list("99999999999999999999")], None),
            ("GET", 200, &[("transfer-encoding", "identity")], Some((None, Allowed))),
            ("GET", 200, &[("transfer-encoding", "gzip, chunked")], None),
            ("GET", 200, &[chunked, chunked], None),
            ("HEAD", 200, &[five], Some((Some("5"), Allowed))),
            ("HEAD", 200, &[chunked], Some((None, Allowed))),
            ("HEAD", 200, &[five, chunked], Some((None, Refused))),
            ("GET", 204, &[list("0")], Some((None, Allowed))),
            ("GET", 204, &[five], Some((None, Refused))),
            ("GET", 204, &[chunked], Some((None, Refused))),
            ("GET", 304, &[list("0")], Some((Some("0"), Allowed))),
            ("GET", 304, &[five], Some((Some("5"), Refused))),
            ("GET", 304, &[chunked], Some((None, Refused))),
            ("GET", 101, &[five, chunked], Some((Some("5"), Allowed))),
        ] {
            let expected = expected.map(|(length, reuse)| (length.map(str::to_owned), reuse));
            assert_eq!(settled(method, status, fields), expected, "{method} {status} {fields:?}");
        }
    }
}
