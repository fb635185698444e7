//! Comma-separated field values (RFC 9110 §5.6.1).

use http::HeaderValue;

/// The members of a list from left to right, without whitespace around them; one `None` if the value is not ASCII text.
/// Commas in quoted strings separate members too.
pub fn members(value: &HeaderValue) -> impl DoubleEndedIterator<Item = Option<&str>> {
    let text = value.to_str().ok();
    let members = text.into_iter().flat_map(|text| text.split(',').map(|member| Some(member.trim())));
    members.chain(text.is_none().then_some(None))
}
