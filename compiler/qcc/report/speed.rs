//! The speed of a model, as a page.

use super::{figures, page, part, plot, table};
use crate::bench::{Measurement, TaskProfile};

/// Most steps in a plot of bars.
const SHOWN: usize = 40;

/// A page of what `qcc bench` measured: `rows` are its figures by name.
pub fn speed(model: &str, rows: &[(String, String)], result: &Measurement, tasks: &[TaskProfile]) -> String {
    let mut parts = vec![part("The whole network", "The limit was measured in the same run.", &figures(rows))];
    if tasks.is_empty() {
        return page(&format!("{model}: speed"), &parts);
    }
    let total: f64 = tasks.iter().map(|t| t.ms).sum::<f64>().max(1e-9);
    let points: Vec<plot::Point> = tasks
        .iter()
        .filter(|t| t.macs > 0)
        .map(|t| plot::Point {
            name: t.name.clone(),
            intensity: t.intensity,
            rate: t.gmacs_per_s,
            attainable: t.gmacs_per_s / t.bound_fraction.clamp(1e-6, 1.0),
            share: t.ms / total,
        })
        .collect();
    let about = "Each dot is a step: its rate over the multiply-accumulates that it does for each byte. A line leads up to what the machine \
                 allows it; its area is its share of the time. Forms with fewer multiplications may lie above the roof.";
    parts.push(part("Layers below the roof", about, &plot::rates(&points, result.peak_gmacs_per_s)));
    let mut sorted: Vec<&TaskProfile> = tasks.iter().collect();
    sorted.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let bars: Vec<(String, f64, String)> = sorted
        .iter()
        .take(SHOWN)
        .map(|t| (t.name.clone(), t.ms, format!("{:.4} ms, {} {:.0} %", t.ms, t.bound, 100.0 * t.bound_fraction)))
        .collect();
    let most = sorted.first().map_or(0.0, |t| t.ms);
    let about = "The slowest steps, with what bounds each and how much of that bound is reached.";
    parts.push(part("Time by step", about, &plot::bars(&bars, most)));
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|t| {
            vec![
                t.name.clone(),
                t.kernel.clone(),
                format!("{:.4}", t.ms),
                format!("{:.1}", 100.0 * t.ms / total),
                format!("{:.1}", t.gmacs_per_s),
                format!("{:.1}", 100.0 * t.peak_fraction),
                t.weight_bytes.to_string(),
                (t.input_bytes + t.output_bytes).to_string(),
                format!("{} {:.0} %", t.bound, 100.0 * t.bound_fraction),
            ]
        })
        .collect();
    let head = ["value", "kernel", "ms", "%", "GMAC/s", "% limit", "weights B", "activations B", "bound by"];
    parts.push(part("Steps", "In the order in which they run.", &table(&head, &[2, 3, 4, 5, 6, 7], &rows)));
    page(&format!("{model}: speed"), &parts)
}
