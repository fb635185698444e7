//! Drawings of the page, in SVG: the shapes of states, and the lines of latencies.

use std::fmt::Write as _;

use crate::admin::words::milliseconds;

/// The line of a route's median latency.
pub(super) struct Sparkline {
    /// Each as `points` of an SVG polyline, in a box of 120 by 24.
    pub(super) lines: Vec<String>,
    pub(super) words: String,
}

impl Sparkline {
    /// The line of these medians, with gaps where there was no request; `None` without any.
    #[expect(clippy::cast_precision_loss, reason = "a drawing")]
    pub(super) fn of(medians: &[Option<f64>]) -> Option<Self> {
        const WIDTH: f64 = 120.0;
        const HEIGHT: f64 = 24.0;
        let known = || medians.iter().flatten().copied();
        let (lowest, highest) = (known().reduce(f64::min)?, known().reduce(f64::max)?);
        let step = WIDTH / (medians.len().max(2) - 1) as f64;
        // The line keeps a margin for its own width, and a constant latency is drawn in the middle.
        let y = |value: f64| {
            let share = if highest > lowest { (value - lowest) / (highest - lowest) } else { 0.5 };
            HEIGHT - 2.0 - share * (HEIGHT - 4.0)
        };
        let (mut lines, mut line) = (Vec::new(), String::new());
        for (at, median) in medians.iter().enumerate() {
            match median {
                Some(median) => {
                    let x = at as f64 * step;
                    let _ = write!(line, "{x:.1},{:.1} ", y(*median));
                }
                None => lines.push(std::mem::take(&mut line)),
            }
        }
        lines.push(line);
        lines.retain(|line| !line.is_empty());
        // A line of one point would not be seen.
        for line in &mut lines {
            if line.trim_end().split(' ').count() == 1
                && let Some((x, y)) = line.trim_end().split_once(',')
            {
                *line = format!("{x},{y} {:.1},{y}", x.parse::<f64>().unwrap_or_default() + 2.0);
            }
        }
        let words = format!("median latency between {} and {}", milliseconds(lowest), milliseconds(highest));
        Some(Self { lines, words })
    }
}

/// The shape of a state: a tick in a disc, a ring, a triangle, and a cross in an octagon.
pub(super) fn icon(state: &str) -> &'static str {
    match state {
        "valid" => {
            "<svg class=\"icon\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><circle class=\"shape\" cx=\"8\" cy=\"8\" \
             r=\"7\"/><path class=\"sign\" d=\"M4.9 8.3l2.2 2.2 4-4.6\"/></svg>"
        }
        "degraded" => {
            "<svg class=\"icon\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><path class=\"shape\" d=\"M8 1.4l7 12.9H1z\"/>\
             <path class=\"sign\" d=\"M8 6v4m0 1.9v.2\"/></svg>"
        }
        "unusable" => {
            "<svg class=\"icon\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><path class=\"shape\" \
             d=\"M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z\"/><path class=\"sign\" \
             d=\"M5.6 5.6l4.8 4.8m0-4.8l-4.8 4.8\"/></svg>"
        }
        _ => {
            "<svg class=\"icon\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><circle class=\"ring\" cx=\"8\" cy=\"8\" \
             r=\"6.2\"/></svg>"
        }
    }
}
