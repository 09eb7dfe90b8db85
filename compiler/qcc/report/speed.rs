//! The speed of a model, as a page.

use super::{figures, page, part, plot, table};
use crate::bench::{Measurement, PeerResult, TaskProfile};

/// Most steps in a plot of bars.
const SHOWN: usize = 40;

/// A page of what `qcc bench` measured: `rows` are its figures by name, `others` what was measured of other engines.
pub fn speed(
    model: &str,
    rows: &[(String, String)],
    result: &Measurement,
    tasks: &[TaskProfile],
    others: &[PeerResult],
) -> String {
    let mut parts = vec![part("The whole network", "The limit was measured in the same run.", &figures(rows))];
    parts.extend(beside(others));
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

/// Times of all engines, for each number of threads.
fn beside(others: &[PeerResult]) -> Option<String> {
    let most = others.iter().fold(0.0f64, |m, r| m.max(r.median_ms));
    let mut sorted: Vec<&PeerResult> = others.iter().collect();
    sorted.sort_by(|a, b| a.threads.cmp(&b.threads).then(a.median_ms.total_cmp(&b.median_ms)));
    let row = |r: &&PeerResult| {
        let own = others.iter().find(|o| o.engine == "qcc" && o.threads == r.threads);
        let ratio = own.map_or(String::new(), |o| format!(", {:.2} times that of qcc", r.median_ms / o.median_ms));
        let quality = r.sqnr_db.map_or(String::new(), |db| format!(", {db:.1} dB"));
        let right = r.top1.map_or(String::new(), |share| format!(", top-1 {share:.2} %"));
        let threads = if r.threads == 1 { "1 thread".to_string() } else { format!("{} threads", r.threads) };
        (format!("{}, {threads}", r.engine), r.median_ms, format!("{:.3} ms{ratio}{quality}{right}", r.median_ms))
    };
    let bars: Vec<(String, f64, String)> = sorted.iter().map(row).collect();
    let about = "Median times that bench_peers.py measured, engines in turns; decibels are those of the output against float32.";
    (!bars.is_empty()).then(|| part("Beside other engines", about, &plot::bars(&bars, most)))
}
