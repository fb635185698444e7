//! `[tracing]` and `OTEL_*`, read together.

use std::path::Path;

use super::*;
use crate::config::{Environment, parse};

const COLLECTOR: &str = "otlp_endpoint = \"http://127.0.0.1:4318\"";

fn read<const N: usize>(
    tracing: &str,
    variables: [(&str, &str); N],
) -> Result<(Option<Tracing>, Vec<String>), String> {
    let text = format!(
        "[tracing]\n{tracing}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\""
    );
    let checked = parse(Path::new("/etc/bearerd/proxy.toml"), text, &Environment::from(variables));
    let checked = checked.map_err(|problems| problems.to_string())?;
    let warnings = checked.warnings.problems().iter().map(|problem| problem.title.clone()).collect();
    Ok((checked.config.tracing, warnings))
}

fn tracing<const N: usize>(written: &str, variables: [(&str, &str); N]) -> Option<Tracing> {
    read(written, variables).unwrap().0
}

#[test]
fn without_a_collector_there_are_no_traces() {
    for written in ["", "sample = 0.5", "otlp_endpoint = \"\""] {
        assert_eq!(tracing(written, [("OTEL_SERVICE_NAME", "x")]), None, "{written}");
    }
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_traces_reports_the_key_and_the_variable() {
    let problems = read(COLLECTOR, [("X", "")]).unwrap_err();
    assert!(problems.contains("this build of bearerd sends no traces"), "{problems}");
    let (tracing, warnings) = read("", [(ENDPOINTS[1], "http://127.0.0.1:1")]).unwrap();
    assert_eq!((tracing, &warnings[0][..]), (None, "this build of bearerd sends no traces"));
}

#[cfg(feature = "otlp")]
mod built {
    use super::*;

    #[test]
    fn the_environment_takes_precedence_over_the_file() {
        let endpoint = |variables: [(&str, &str); 2]| {
            tracing(COLLECTOR, variables).map(|tracing| tracing.endpoint.to_string())
        };
        let [traces, all] = ENDPOINTS;
        for (variables, expected) in [
            ([("X", ""), (all, "")], Some("http://127.0.0.1:4318/v1/traces")),
            ([("X", ""), (all, "https://c.example/base/")], Some("https://c.example/base/v1/traces")),
            ([(traces, "http://t.example/x"), (all, "http://c.example")], Some("http://t.example/x")),
            ([("OTEL_SDK_DISABLED", "TRUE"), (all, "http://c.example")], None),
            ([("OTEL_TRACES_EXPORTER", "none"), (all, "http://c.example")], None),
        ] {
            assert_eq!(endpoint(variables).as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_share_is_the_files_and_a_sampler_of_the_environment_replaces_it() {
        let written = format!("{COLLECTOR}\nsample = 0.25");
        for (sampler, argument, is_parent_based, share) in [
            ("", "0.5", true, 0.25),
            ("always_on", "", false, 1.0),
            ("parentbased_always_off", "", true, 0.0),
            ("traceidratio", "0.5", false, 0.5),
            ("parentbased_traceidratio", "", true, 1.0),
            ("parentbased_traceidratio", "2", true, 0.25),
            ("xray", "", true, 0.25),
        ] {
            let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let (tracing, warnings) = read(&written, variables).unwrap();
            assert_eq!(tracing.unwrap().sampler, Sampler { is_parent_based, share }, "{sampler}");
            let is_wrong = sampler == "xray" || argument == "2";
            assert_eq!(!warnings.is_empty(), is_wrong, "{sampler}: {warnings:?}");
        }
    }

    #[test]
    fn the_service_and_the_headers_are_those_of_the_environment() {
        let variables = [
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment.name=test%201"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20c2VjcmV0, x-tenant=7"),
        ];
        let tracing = tracing(COLLECTOR, variables).unwrap();

        assert_eq!(tracing.service_name, "a");
        assert_eq!(tracing.attributes, [("deployment.environment.name".to_owned(), "test 1".to_owned())]);
        assert_eq!(tracing.headers["authorization"], "Basic c2VjcmV0");
        assert_eq!(tracing.headers["x-tenant"], "7");
        assert!(!format!("{tracing:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn a_value_that_is_not_understood_is_reported_and_never_shown() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ] {
            let (tracing, warnings) = read(COLLECTOR, [(name, value)]).unwrap();
            assert!(tracing.is_some());
            assert_eq!(warnings.len(), 1, "{name}");
            assert!(warnings[0].contains(name) && !warnings[0].contains("hunter2"), "{warnings:?}");
        }
        for wrong in ["x", "unix:/run/x", "http://user:hunter2@c.example"] {
            let problems = read(&format!("otlp_endpoint = \"{wrong}\""), [("X", "")]).unwrap_err();
            assert!(problems.contains("not the address of a collector"), "{problems}");
        }
    }
}
