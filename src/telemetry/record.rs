//! An event as an object: the line of the audit trail, and the data of a webhook.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::event::{Event, Name, Severity};
use super::json;

/// The members, in this order. Every member is always there; what is unknown is null.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    #[serde(serialize_with = "time")]
    timestamp: Timestamp,
    level: Severity,
    event: Name,
    message: &'static str,
    instance: &'a str,
    credential: Option<&'a str>,
    tenant: Option<&'a str>,
    grant: Option<&'static str>,
    cause: Option<&'static str>,
    outcome: Option<&'a str>,
    reason: Option<&'static str>,
    generation: Option<u64>,
    rotations: Option<u64>,
    max_rotations: Option<u64>,
    success_rate: Option<f64>,
    latency_ms: Option<f64>,
    fingerprint: Option<&'a str>,
    scopes: &'a [String],
    #[serde(serialize_with = "time_if_known")]
    next_attempt_at: Option<Timestamp>,
    actor: Option<&'a str>,
    client_address: Option<IpAddr>,
    request_id: Option<&'a str>,
    detail: Option<&'a str>,
    previous: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// The members of an event of the daemon `instance`; `previous` is the digest of the line before.
    pub fn new(event: &'a Event, instance: &'a str, previous: Option<&'a str>) -> Self {
        Self {
            timestamp: event.timestamp,
            level: event.name.severity(),
            event: event.name,
            message: event.name.message(),
            instance,
            credential: event.credential.as_deref(),
            tenant: event.tenant.as_deref(),
            grant: event.grant,
            cause: event.cause,
            outcome: event.outcome.as_deref(),
            reason: event.reason,
            generation: event.generation,
            rotations: event.rotations,
            max_rotations: event.max_rotations,
            success_rate: event.success_rate,
            latency_ms: event.latency_ms(),
            fingerprint: event.fingerprint.as_deref(),
            scopes: &event.scopes,
            next_attempt_at: event.next_attempt_at,
            actor: event.actor.as_deref(),
            client_address: event.client_address,
            request_id: event.request_id.as_deref(),
            detail: event.detail.as_deref(),
            previous,
        }
    }

    /// With this tenant if the token names none.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Option<&'a str>) -> Self {
        self.tenant = self.tenant.or(tenant);
        self
    }
}

/// JSON in one line. Characters that end a line, have no width or change the direction of text are escaped.
pub fn in_one_line(value: &impl Serialize) -> String {
    // Strings, numbers and lists of strings always have a form in JSON.
    json::escape_hidden(serde_json::to_string(value).unwrap_or_default())
}

/// RFC 3339 with milliseconds.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

fn time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn time_if_known<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const MEMBERS: [&str; 24] = [
        "timestamp",
        "level",
        "event",
        "message",
        "instance",
        "credential",
        "tenant",
        "grant",
        "cause",
        "outcome",
        "reason",
        "generation",
        "rotations",
        "max_rotations",
        "success_rate",
        "latency_ms",
        "fingerprint",
        "scopes",
        "next_attempt_at",
        "actor",
        "client_address",
        "request_id",
        "detail",
        "previous",
    ];

    #[test]
    fn every_member_is_there_in_order() {
        let event = Event { timestamp: Timestamp::UNIX_EPOCH, ..Event::now(Name::DaemonStarted) };
        let line = in_one_line(&Record::new(&event, "bearerd-1", None));
        let mut rest = &line[..];
        for member in MEMBERS {
            rest = rest.split_once(&format!("\"{member}\":")).unwrap_or_else(|| panic!("{member}: {line}")).1;
        }
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object.as_object().unwrap().len(), MEMBERS.len());
        assert_eq!(object["timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!((&object["level"], &object["event"]), (&"info".into(), &"daemon.started".into()));
        assert_eq!((&object["scopes"], &object["detail"]), (&Value::Array(Vec::new()), &Value::Null));
    }

    /// FLT-DSK-04.
    #[test]
    fn hostile_texts_stay_in_their_line_and_come_back_unchanged() {
        for text in [
            "a\r\nb\n",
            "\u{1b}[31m\u{7f}\u{85}",
            "\u{2028}\u{2029}\u{202e}\u{feff}",
            "\"}\n{\"event\":\"x\"",
            "\0",
        ] {
            let event = Event {
                tenant: Some(text.to_owned()),
                actor: Some(text.to_owned()),
                request_id: Some(text.to_owned()),
                detail: Some(text.to_owned()),
                scopes: vec![text.to_owned()],
                ..Event::now(Name::TokenRefreshed)
            };
            let line = in_one_line(&Record::new(&event, text, Some(text)));
            assert!(!line.contains(['\n', '\r', '\u{1b}', '\u{2028}', '\u{202e}', '\u{feff}']), "{line}");
            let object: Value = serde_json::from_str(&line).unwrap();
            for member in ["tenant", "actor", "request_id", "detail", "instance", "previous"] {
                assert_eq!(object[member], text, "{member}");
            }
            assert_eq!(object["scopes"][0], text);
        }
    }
}
