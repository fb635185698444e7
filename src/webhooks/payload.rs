//! The messages of a webhook, in each format.

use serde::Serialize;

use crate::config::WebhookFormat;
use crate::telemetry::Event;
use crate::telemetry::event::Severity;
use crate::telemetry::record::{Record, in_one_line, rfc3339};

/// A message of Standard Webhooks.
#[derive(Serialize)]
struct Standard<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Record<'a>,
}

/// One flat object.
#[derive(Serialize)]
struct Seed<'a> {
    timestamp: String,
    tenant: Option<&'a str>,
    event: String,
    rotation: u64,
    latency: Option<u128>,
    status: &'static str,
}

/// An event of `CloudEvents` 1.0 in structured mode.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: String,
    datacontenttype: &'static str,
    data: Record<'a>,
}

/// The content type of a format.
pub(super) const fn content_type(format: WebhookFormat) -> &'static str {
    match format {
        WebhookFormat::Standard | WebhookFormat::Seed => "application/json",
        WebhookFormat::CloudEvents => "application/cloudevents+json; charset=utf-8",
    }
}

/// The body of a message about an event. `tenant` is that of events whose token names none.
pub(super) fn body(
    format: WebhookFormat,
    id: &str,
    event: &Event,
    instance: &str,
    tenant: Option<&str>,
) -> String {
    let timestamp = rfc3339(event.timestamp);
    let data = || Record::new(event, instance, None).with_tenant(tenant);
    let name = event.name.as_str();
    match format {
        WebhookFormat::Standard => in_one_line(&Standard { r#type: name, timestamp, data: data() }),
        WebhookFormat::Seed => in_one_line(&Seed {
            timestamp,
            tenant: tenant.or(event.tenant.as_deref()),
            event: name.replace('.', "_"),
            rotation: event.rotations.unwrap_or_default(),
            latency: event.latency.map(|latency| latency.as_millis()),
            status: match event.name.severity() {
                Severity::Info => "success",
                Severity::Warning => "failure",
            },
        }),
        WebhookFormat::CloudEvents => in_one_line(&CloudEvent {
            specversion: "1.0",
            id,
            source: format!("/bearerd/{instance}"),
            r#type: name,
            subject: event.credential.as_deref(),
            time: timestamp,
            datacontenttype: "application/json",
            data: data(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::telemetry::event::Name;

    fn event() -> Event {
        Event {
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            credential: Some("cxone".into()),
            rotations: Some(3),
            latency: Some(Duration::from_micros(11_912)),
            ..Event::now(Name::TokenRefreshed)
        }
    }

    fn read(format: WebhookFormat, event: &Event, tenant: Option<&str>) -> Value {
        serde_json::from_str(&body(format, "msg_1", event, "bearerd-1", tenant)).unwrap()
    }

    #[test]
    fn the_standard_has_a_type_a_time_and_the_members_of_the_audit_line() {
        let message = read(WebhookFormat::Standard, &event(), Some("t-1"));
        assert_eq!(message.as_object().unwrap().len(), 3);
        assert_eq!(
            (&message["type"], &message["timestamp"]),
            (&"token.refreshed".into(), &"1970-01-01T00:00:00.000Z".into())
        );
        let data = &message["data"];
        assert_eq!((&data["event"], &data["tenant"]), (&"token.refreshed".into(), &"t-1".into()));
        assert_eq!((&data["latency_ms"], &data["previous"]), (&11.912.into(), &Value::Null));
        assert_eq!(data.as_object().unwrap().len(), 24);
    }

    #[test]
    fn the_seed_is_one_flat_object() {
        let text = body(WebhookFormat::Seed, "msg_1", &event(), "bearerd-1", Some("t-1"));
        assert_eq!(
            text,
            r#"{"timestamp":"1970-01-01T00:00:00.000Z","tenant":"t-1","event":"token_refreshed","rotation":3,"latency":11,"status":"success"}"#
        );
        let failed = Event { name: Name::TokenRefreshFailed, ..event() };
        let message = read(WebhookFormat::Seed, &failed, None);
        assert_eq!(
            (&message["event"], &message["status"]),
            (&"token_refresh_failed".into(), &"failure".into())
        );
        assert_eq!(message["tenant"], Value::Null);
    }

    #[test]
    fn a_cloud_event_has_the_attributes_of_the_specification() {
        let message = read(WebhookFormat::CloudEvents, &event(), None);
        let attributes = json!({
            "specversion": "1.0", "id": "msg_1", "source": "/bearerd/bearerd-1", "type": "token.refreshed",
            "subject": "cxone", "time": "1970-01-01T00:00:00.000Z", "datacontenttype": "application/json",
        });
        for (name, value) in attributes.as_object().unwrap() {
            assert_eq!(&message[name], value);
        }
        assert_eq!(message["data"]["credential"], "cxone");
        let started = Event::now(Name::DaemonStarted);
        assert!(read(WebhookFormat::CloudEvents, &started, None).get("subject").is_none());
    }
}
