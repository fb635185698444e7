//! Metrics as text and as protobuf, in the format that a scrape asks for.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
    prometheus_protobuf, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::{BOUNDS, Buckets, SCHEMA};

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
/// Durations below are in the zero bucket of a native histogram; none is.
const ZERO_THRESHOLD: f64 = 1e-9;

/// The labels of a series.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// A metric with its series.
#[derive(Clone, Debug)]
pub struct Family {
    /// The name, without the suffixes of the unit and of counters.
    pub name: &'static str,
    /// The explanation.
    pub help: &'static str,
    /// The unit, which ends the name.
    pub unit: Option<Unit>,
    /// The series. A family without series is left out.
    pub series: Series,
}

/// The series of a metric.
#[derive(Clone, Debug)]
pub enum Series {
    /// Counts since the start.
    Counters(Vec<(Labels, f64)>),
    /// Values of now.
    Gauges(Vec<(Labels, f64)>),
    /// Durations, since the moment.
    Histograms(Vec<(Labels, Buckets)>, SystemTime),
}

/// A format of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format.
    Text,
    /// The text format of `OpenMetrics`.
    OpenMetrics,
    /// Prometheus' protobuf, which alone has native histograms.
    Protobuf,
}

impl Format {
    /// The format that a scrape prefers by its `Accept` (RFC 9110 §12.5.1); text if it accepts none of ours.
    pub fn preferred(accept: &str) -> Self {
        let mut best = (Self::Text, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters: Vec<(&str, &str)> = parts
                .filter_map(|parameter| parameter.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                .collect();
            let parameter = |wanted: &str| {
                parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
            };
            let format = match media_type.as_str() {
                "application/vnd.google.protobuf"
                    if parameter("proto")
                        .is_none_or(|proto| proto == "io.prometheus.client.MetricFamily")
                        && parameter("encoding").is_none_or(|encoding| encoding == "delimited") =>
                {
                    Self::Protobuf
                }
                "application/openmetrics-text"
                    if parameter("version").is_none_or(|version| version == "1.0.0") =>
                {
                    Self::OpenMetrics
                }
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => continue,
            };
            let weight = parameter("q").map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    /// The media type of the response.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Writes the families.
    pub fn write(self, families: Vec<Family>) -> Vec<u8> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families(families)));
        let mut text = String::new();
        // Writing to memory fails only where a family is malformed, which a test would show.
        match self {
            Self::Text => prometheus_text::encode(&mut text, &registry).map(|()| text.into_bytes()),
            Self::OpenMetrics => text::encode(&mut text, &registry).map(|()| text.into_bytes()),
            Self::Protobuf => prometheus_protobuf::encode_to_vec(&registry).map_err(|_| fmt::Error),
        }
        .unwrap_or_default()
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (kind, is_empty) = match &self.series {
            Series::Counters(series) => (MetricType::Counter, series.is_empty()),
            Series::Gauges(series) => (MetricType::Gauge, series.is_empty()),
            Series::Histograms(series, _) => (MetricType::Histogram, series.is_empty()),
        };
        if is_empty {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        match &self.series {
            Series::Counters(series) => series.iter().try_for_each(|(labels, value)| {
                metric.encode_family(&Labelled(labels))?.encode_counter(value, NO_EXEMPLAR)
            }),
            Series::Gauges(series) => series
                .iter()
                .try_for_each(|(labels, value)| metric.encode_family(&Labelled(labels))?.encode_gauge(value)),
            Series::Histograms(series, created) => series.iter().try_for_each(|(labels, buckets)| {
                let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
                let classic: Vec<(f64, u64)> = bounds.zip(buckets.classic).collect();
                let (spans, deltas) = buckets.native();
                let native = NativeHistogram {
                    schema: SCHEMA,
                    zero_threshold: ZERO_THRESHOLD,
                    zero_count: 0,
                    negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
                    positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
                    created: Some(*created),
                };
                metric.encode_family(&Labelled(labels))?.encode_histogram_with_native::<NoLabelSet>(
                    buckets.sum,
                    buckets.count(),
                    &classic,
                    None,
                    native,
                )
            }),
        }
    }
}

struct Labelled<'a>(&'a Labels);

impl EncodeLabelSet for Labelled<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        self.0.iter().try_for_each(|(name, value)| (*name, value.as_ref()).encode(encoder.encode_label()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::histogram::Histogram;

    fn families() -> Vec<Family> {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(7));
        let mut buckets = Buckets::default();
        histogram.add_to(&mut buckets);
        let labels = |value: &'static str| vec![("route", Cow::Borrowed(value))];
        vec![
            Family {
                name: "requests",
                help: "Requests.",
                unit: None,
                series: Series::Counters(vec![(labels("/a\"b\\\n"), 3.0)]),
            },
            Family {
                name: "request_duration",
                help: "Durations.",
                unit: Some(Unit::Seconds),
                series: Series::Histograms(vec![(labels("/"), buckets)], SystemTime::UNIX_EPOCH),
            },
            Family { name: "nothing", help: "None.", unit: None, series: Series::Gauges(Vec::new()) },
        ]
    }

    #[test]
    fn a_scrape_gets_the_format_that_it_prefers() {
        let openmetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                           application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                        application/openmetrics-text;version=1.0.0;q=0.6";
        for (accept, format) in [
            (openmetrics, Format::OpenMetrics),
            (protobuf, Format::Protobuf),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, application/xhtml+xml", Format::Text),
            ("application/openmetrics-text; version=\"1.0.0\"", Format::OpenMetrics),
            ("application/openmetrics-text; version=2.0.0, text/plain; q=0.1", Format::Text),
            ("text/plain, application/openmetrics-text; q=0.5", Format::Text),
            ("application/vnd.google.protobuf; encoding=text", Format::Text),
            ("application/openmetrics-text; q=0", Format::Text),
            ("application/openmetrics-text; q=nonsense", Format::Text),
        ] {
            assert_eq!(Format::preferred(accept), format, "{accept}");
        }
    }

    #[test]
    fn both_text_formats_have_suffixes_escapes_and_cumulative_buckets() {
        let text = String::from_utf8(Format::Text.write(families())).unwrap();
        let open = String::from_utf8(Format::OpenMetrics.write(families())).unwrap();

        for (name, labels, value) in [
            ("requests_total", &["route=\"/a\\\"b\\\\\\n\""][..], "3.0"),
            ("request_duration_seconds_bucket", &["le=\"0.005\"", "route=\"/\""], "0"),
            ("request_duration_seconds_bucket", &["le=\"0.01\"", "route=\"/\""], "1"),
            ("request_duration_seconds_bucket", &["le=\"+Inf\"", "route=\"/\""], "1"),
            ("request_duration_seconds_count", &["route=\"/\""], "1"),
        ] {
            let has = |text: &str| {
                text.lines().any(|line| {
                    let (series, found) = line.rsplit_once(' ').unwrap_or_default();
                    let is_labelled = labels.iter().all(|label| series.contains(label));
                    series.starts_with(name) && is_labelled && found == value
                })
            };
            assert!(has(&text), "{name} {labels:?}\n{text}");
            assert!(has(&open), "{name} {labels:?}\n{open}");
        }
        assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
        assert!(!text.contains("nothing"), "a family without series: {text}");
    }

    #[test]
    fn protobuf_has_native_histograms() {
        let encoded = prometheus_protobuf::encode(&{
            let mut registry = Registry::default();
            registry.register_collector(Box::new(Families(families())));
            registry
        })
        .unwrap();
        let histogram = encoded[1].metric[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.schema, histogram.sample_count), (SCHEMA, 1));
        assert_eq!(histogram.positive_delta, [1]);
        assert!(!Format::Protobuf.write(families()).is_empty());
    }
}
