//! `[tracing]`, and the variables `OTEL_*`, which take precedence over the file.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::log::Sampling;
use crate::config::model::tracing::{Sampler, Tracing};
use crate::config::source::schema;

/// Whether this build sends traces.
const IS_BUILT: bool = cfg!(feature = "otlp");
/// The path of traces at a collector.
const TRACES: &str = "/v1/traces";
/// The address of a collector, and that of its traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

impl Resolver<'_> {
    /// The settings of traces; `None` if there are none.
    pub(super) fn tracing(&mut self, tracing: schema::Tracing) -> Option<Tracing> {
        let share = tracing.sample.or(Sampling::ALL).share();
        let written = tracing.otlp_endpoint.usable().filter(|text| !text.get_ref().is_empty());
        if let (Some(written), false) = (written, IS_BUILT) {
            let help = "remove the key, or build bearerd with the feature `otlp`";
            return self.refuse(written.span(), "this build of bearerd sends no traces", help);
        }
        let written = written.and_then(|text| self.collector(text));
        let is_set = |name: &str, value: &str| {
            self.variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value))
        };
        if is_set("OTEL_SDK_DISABLED", "true") || is_set("OTEL_TRACES_EXPORTER", "none") {
            return None;
        }
        let endpoint = self.collector_of_environment().or(written)?;
        if !IS_BUILT {
            self.warning(None, "this build of bearerd sends no traces", "unset OTEL_EXPORTER_OTLP_ENDPOINT");
            return None;
        }
        self.check_protocol();
        let mut attributes = self.pairs("OTEL_RESOURCE_ATTRIBUTES");
        let named = attributes.iter().position(|(name, _)| name == "service.name");
        let named = named.map(|at| attributes.remove(at).1);
        let service_name = self.variable("OTEL_SERVICE_NAME").map(str::to_owned).or(named);
        Some(Tracing {
            endpoint,
            headers: self.collector_headers(),
            service_name: service_name.unwrap_or_else(|| "bearerd".to_owned()),
            attributes,
            sampler: self.sampler(share),
        })
    }

    /// A variable that is set to more than nothing.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The address of traces at the collector of the file.
    fn collector(&mut self, text: &Spanned<String>) -> Option<Url> {
        let help =
            "write the address of a collector that speaks OTLP over HTTP, such as \"http://127.0.0.1:4318\"";
        collector(text.get_ref())
            .map(|url| with_path(url, TRACES))
            .or_else(|| self.refuse(text.span(), "not the address of a collector", help))
    }

    /// The address of traces at the collector of the environment.
    fn collector_of_environment(&mut self) -> Option<Url> {
        let (name, text) = ENDPOINTS.into_iter().find_map(|name| Some((name, self.variable(name)?)))?;
        let url = collector(text);
        if url.is_none() {
            let help = "write an http:// or https:// URL without a user, such as http://127.0.0.1:4318";
            self.warning(None, format!("{name} is not the address of a collector"), help);
        }
        // The address of traces is used as it is.
        url.map(|url| if name == ENDPOINTS[0] { url } else { with_path(url, TRACES) })
    }

    fn check_protocol(&mut self) {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        let Some((name, protocol)) = names.into_iter().find_map(|name| Some((name, self.variable(name)?)))
        else {
            return;
        };
        if protocol != "http/protobuf" {
            let title = format!("{name} is not http/protobuf, the protocol that bearerd speaks");
            self.warning(None, title, "set the address of the collector's receiver for http/protobuf");
        }
    }

    fn collector_headers(&mut self) -> HeaderMap {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
        let Some(name) = names.into_iter().find(|name| self.variable(name).is_some()) else {
            return HeaderMap::new();
        };
        let mut headers = HeaderMap::new();
        for (field, value) in self.pairs(name) {
            match (HeaderName::from_str(&field), HeaderValue::from_str(&value)) {
                (Ok(field), Ok(mut value)) => {
                    value.set_sensitive(true);
                    headers.insert(field, value);
                }
                // The text may be a secret.
                _ => self.warning(None, format!("{name} has a part that is no header field"), PAIRS),
            }
        }
        headers
    }

    /// The names and values in a variable: `name=value,name=value`, percent-encoded.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(String::from);
        let mut pairs = Vec::new();
        let mut is_whole = true;
        for part in self.variable(name).unwrap_or_default().split(',').filter(|part| !part.trim().is_empty())
        {
            let pair = part.split_once('=').and_then(|(name, value)| Some((decoded(name)?, decoded(value)?)));
            match pair.filter(|(name, _)| !name.is_empty()) {
                Some(pair) => pairs.push(pair),
                None => is_whole = false,
            }
        }
        if !is_whole {
            self.warning(None, format!("{name} has a part that is no name and value"), PAIRS);
        }
        pairs
    }

    /// The sampler of `OTEL_TRACES_SAMPLER`, else by the share of the file.
    fn sampler(&mut self, share: f64) -> Sampler {
        let of_file = Sampler { is_parent_based: true, share };
        let Some(name) = self.variable("OTEL_TRACES_SAMPLER") else { return of_file };
        let (is_parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let share = match kind {
            "always_on" => Some(1.0),
            "always_off" => Some(0.0),
            "traceidratio" => match self.variable("OTEL_TRACES_SAMPLER_ARG") {
                None => Some(1.0),
                Some(argument) => argument.parse().ok().and_then(Sampling::new).map(Sampling::share),
            },
            _ => None,
        };
        if share.is_none() {
            let help = "write one of always_on, always_off, traceidratio, parentbased_always_on, \
                        parentbased_always_off and parentbased_traceidratio, and a share from 0 to 1 in \
                        OTEL_TRACES_SAMPLER_ARG";
            self.warning(None, "OTEL_TRACES_SAMPLER is not understood; `tracing.sample` applies", help);
        }
        share.map_or(of_file, |share| Sampler { is_parent_based, share })
    }
}

const PAIRS: &str = "write name=value,name=value, percent-encoded";

/// The URL of a collector.
fn collector(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    let is_usable = matches!(url.scheme(), "http" | "https") && !has_user && url.fragment().is_none();
    is_usable.then_some(url)
}

/// The URL with this path after its own, unless it ends with that path.
fn with_path(mut url: Url, path: &str) -> Url {
    let own = url.path().trim_end_matches('/').to_owned();
    if !own.ends_with(path) {
        url.set_path(&format!("{own}{path}"));
    }
    url
}

#[cfg(test)]
mod tests;
