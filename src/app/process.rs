//! The metrics of the process, by the names that Prometheus' client libraries have for them.

use std::fs;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Unit;
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};

use crate::telemetry::metrics::exposition::{Family, Labels, Series};

/// The metrics that the system tells. What it does not tell is left out.
pub(super) fn families(started: SystemTime) -> Vec<Family> {
    let gauge = |name, help, unit, value: Option<f64>| Family {
        name,
        help,
        unit,
        series: Series::Gauges(value.map(|value| (Labels::new(), value)).into_iter().collect()),
    };
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let memory = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = memory.split_ascii_whitespace().map(|pages| pages.parse::<f64>().ok());
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    let bytes = |pages: Option<Option<f64>>| pages.flatten().map(|pages| pages * page_size() as f64);
    let (virtual_bytes, resident_bytes) = (bytes(pages.next()), bytes(pages.next()));
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    let descriptors = fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    let most_descriptors = getrlimit(Resource::Nofile).current.map(|most| most as f64);
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    vec![
        Family {
            name: "process_cpu_seconds",
            help: "Processor time of the process.",
            unit: None,
            series: Series::Counters(vec![(Labels::new(), cpu)]),
        },
        gauge("process_resident_memory", "Resident memory.", Some(Unit::Bytes), resident_bytes),
        gauge("process_virtual_memory", "Virtual memory.", Some(Unit::Bytes), virtual_bytes),
        gauge("process_open_fds", "Open file descriptors.", None, descriptors),
        gauge("process_max_fds", "The most open file descriptors.", None, most_descriptors),
        gauge(
            "process_start_time",
            "When the process started.",
            Some(Unit::Seconds),
            Some(since.as_secs_f64()),
        ),
    ]
}
