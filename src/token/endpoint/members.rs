//! Reads selected members of a JSON object, as raw JSON.
//!
//! A member with an invalid value does not invalidate the other members. No bytes make the reader panic.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::token::error::Malformed;

/// The deepest nesting of a response's JSON.
pub(super) const MAX_DEPTH: usize = 64;

/// A member of a JSON object, as raw JSON.
#[derive(Clone, Copy, Default)]
pub(super) enum Member<'a> {
    #[default]
    /// The member is missing.
    Missing,
    /// The member occurs once, with this value.
    Once(&'a RawValue),
    /// The member occurs more than once.
    Twice,
}

/// Reads the members with these names from a JSON object; other members are ignored (RFC 6749 §5.1). A member
/// with an invalid value does not invalidate the other members.
pub(super) struct Members<'n, const N: usize>(pub [&'n str; N]);

impl<const N: usize> Members<'_, N> {
    pub(super) fn of(self, json: &[u8]) -> Result<[Member<'_>; N], serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(json);
        let members = self.deserialize(&mut json)?;
        json.end().map(|()| members)
    }
}

/// Reads the members at these paths ([`MemberPath`](crate::config::MemberPath)) of a JSON object. A path that leads through
/// another value than an object leads to no member.
pub(super) fn members_at<'j, const N: usize>(
    paths: [&str; N],
    json: &'j [u8],
) -> Result<[Member<'j>; N], serde_json::Error> {
    let mut members = Members(paths).of(json)?;
    for (member, path) in members.iter_mut().zip(paths) {
        if let (Member::Missing, Some(outer_and_rest)) = (&member, path.split_once('.')) {
            *member = nested(outer_and_rest, json);
        }
    }
    Ok(members)
}

/// The member at the path `rest` within the member `outer`.
fn nested<'j>((outer, rest): (&str, &str), json: &'j [u8]) -> Member<'j> {
    let within = |json, name| Members([name]).of(json).map_or(Member::Missing, |[member]| member);
    let mut member = within(json, outer);
    for name in rest.split('.') {
        match member {
            Member::Once(value) => member = within(value.get().as_bytes(), name),
            Member::Missing | Member::Twice => break,
        }
    }
    member
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Member<'de>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Member<'de>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = [Member::Missing; N];
        while let Some(name) = map.next_key::<String>()? {
            let Some(at) = self.0.iter().position(|known| *known == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value()?;
            members[at] = match members[at] {
                Member::Missing => Member::Once(value),
                Member::Once(_) | Member::Twice => Member::Twice,
            };
        }
        Ok(members)
    }
}

impl Member<'_> {
    /// The value as raw JSON; `None` if the member is missing or `null`. Errors name the member as `name`.
    pub(super) fn value(&self, name: &'static str) -> Result<Option<&str>, Malformed> {
        match self {
            Self::Missing => Ok(None),
            Self::Once(value) => Ok(Some(value.get()).filter(|json| *json != "null")),
            Self::Twice => Err(Malformed::Repeated(name)),
        }
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, Malformed> {
        let read = |json| serde_json::from_str(json).map_err(|_| Malformed::NotText(name));
        self.value(name)?.map(read).transpose()
    }

    /// The words of the value. The value is a text with blanks between words (RFC 6749 §3.3); some servers
    /// send a text with commas, or a list of texts.
    pub(super) fn words(&self, name: &'static str) -> Result<Option<Vec<String>>, Malformed> {
        let Some(json) = self.value(name)? else { return Ok(None) };
        if json.starts_with('[') {
            return serde_json::from_str(json).map(Some).map_err(|_| Malformed::NotText(name));
        }
        Ok(self.text(name)?.map(|text| scopes_in(&text)))
    }
}

/// The scopes in a text.
fn scopes_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The body without a byte order mark, which some servers send before JSON (RFC 8259 §8.1).
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The depth of the nested arrays and objects in a JSON text.
pub(super) fn depth(json: &[u8]) -> usize {
    let (mut open, mut deepest, mut bytes) = (0_usize, 0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            // Skips a string.
            b'"' => {
                while bytes.next().is_some_and(|byte| match byte {
                    b'\\' => bytes.next().is_some(),
                    byte => *byte != b'"',
                }) {}
            }
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}
