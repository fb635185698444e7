//! `[log]`, `[audit]`, `[[webhooks]]` and `[tracing]`.

use std::path::PathBuf;

use super::{Texts, list_of_tables};
use crate::config::model::audit::OnAuditFailure;
use crate::config::model::log::{LogFormat, Sampling};
use crate::config::model::secret::SecretSource;
use crate::config::model::webhook::WebhookFormat;
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};
use crate::config::source::units::{Duration, OneOrMany};

tables! {
    /// `[log]`.
    section Log {
        output: String,
        format: LogFormat,
        level: String,
        access: Sampling,
    }

    /// `[audit]`.
    section Audit {
        output: String,
        on_failure: OnAuditFailure,
        key: SecretSource,
    }

    /// `[[webhooks]]`.
    section Webhook {
        url: SecretSource,
        name: String,
        secret: OneOrMany<SecretSource>,
        format: WebhookFormat,
        events: Texts,
        tenant: String,
        timeout: Duration,
        ca_file: PathBuf,
        allow_private: bool,
    }

    /// `[tracing]`.
    section Tracing {
        otlp_endpoint: String,
        sample: Sampling,
    }
}

shapes! {
    Webhooks: <Vec<Entry<Webhook>>>::shape(),
}

/// `[[webhooks]]`. A single `[webhooks]` is read as if it were `[[webhooks]]`.
#[derive(Debug, Default)]
pub(in crate::config) struct Webhooks(pub(in crate::config) Vec<Entry<Webhook>>);

impl Value for Webhooks {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let help = "write [[webhooks]], with two brackets, once for each webhook";
        list_of_tables(value, path, reader, help).map(Self)
    }
}
