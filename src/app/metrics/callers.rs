//! The metrics of callers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::family::{as_f64, status_label};
use crate::proxy::service::settings::ServiceSettings;
use crate::telemetry::metrics::callers::OTHER_CALLER;
use crate::telemetry::metrics::exposition::Labels;

/// The requests of each caller by status. Where none is configured, `all` requests have the label of the others.
pub(super) fn requests(settings: &ServiceSettings, all: BTreeMap<u16, u64>) -> Vec<(Labels, f64)> {
    let Some(callers) = &settings.callers else { return series(OTHER_CALLER, all) };
    let names = callers.names().iter().map(String::as_str).chain([OTHER_CALLER]);
    names.flat_map(|name| series(name, settings.traffic.caller(name).requests())).collect()
}

fn series(name: &str, by_status: BTreeMap<u16, u64>) -> Vec<(Labels, f64)> {
    let of_status = |(status, count)| {
        let mut labels = vec![("caller", Cow::Owned(name.to_owned()))];
        labels.extend(status_label(status));
        (labels, as_f64(count))
    };
    by_status.into_iter().map(of_status).collect()
}
