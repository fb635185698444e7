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
        shown output: String,
        shown format: LogFormat,
        shown level: String,
        shown access: Sampling,
    }

    /// `[audit]`.
    section Audit {
        shown output: String,
        shown on_failure: OnAuditFailure,
        hidden key: SecretSource,
    }

    /// `[[webhooks]]`.
    section Webhook {
        hidden url: SecretSource,
        shown name: String,
        hidden secret: OneOrMany<SecretSource>,
        shown format: WebhookFormat,
        shown events: Texts,
        shown tenant: String,
        shown timeout: Duration,
        shown ca_file: PathBuf,
        shown allow_private: bool,
    }

    /// `[tracing]`.
    section Tracing {
        shown otlp_endpoint: String,
        shown sample: Sampling,
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
