//! The integer model against the float one, as a page.

use super::{figures, page, part, plot, table};
use crate::compare::LayerReport;

/// Most layers in a plot.
const SHOWN: usize = 30;

/// A page of what `qcc compare` found: `rows` are its figures by name, `layers` the reports on layers of as many calls, the most damaging first.
pub fn accuracy(model: &str, rows: &[(String, String)], layers: &[LayerReport], calls: usize) -> String {
    let mut parts = vec![part("The whole network", "Integer against float, with intervals of 95 %.", &figures(rows))];
    let damaging: Vec<(String, f64, String)> = layers
        .iter()
        .filter_map(|l| Some((l.name.clone(), l.damage.as_ref()?.share)))
        .take(SHOWN)
        .map(|(name, share)| (name, share, format!("{:.1} %", 100.0 * share)))
        .collect();
    if let Some(most) = damaging.iter().map(|d| d.1).reduce(f64::max) {
        let about = "The share of the noise at the output that each layer causes if it alone is quantized.";
        parts.push(part("Damage by layer", about, &plot::bars(&damaging, most)));
    }
    let ratios: Vec<(String, f64, String)> = layers
        .iter()
        .take(SHOWN)
        .filter_map(|l| Some((l.name.clone(), l.sqnr_db?)))
        .map(|(name, db)| (name, db, format!("{db:.1} dB")))
        .collect();
    if let Some(most) = ratios.iter().map(|r| r.1).reduce(f64::max) {
        let about = "Signal-to-noise ratio of each value, in decibels; the network is quantized as a whole.";
        parts.push(part("Signal to noise", about, &plot::bars(&ratios, most)));
    }
    let finite = |(a, b): (f64, f64)| a.is_finite() && b.is_finite();
    let ranges: Vec<_> = layers
        .iter()
        .filter(|l| finite(l.float_range) && finite(l.int_range))
        .take(SHOWN)
        .map(|l| (l.name.clone(), l.float_range, l.int_range))
        .collect();
    if !ranges.is_empty() {
        let about = "What the float network's values span (thin) within what the codes can stand for (wide); red where something is cut off.";
        parts.push(part("Ranges", about, &plot::intervals(&ranges)));
    }
    if !layers.is_empty() {
        let rows: Vec<Vec<String>> = layers.iter().map(row).collect();
        let head = ["value", "operator", "damage", "SQNR dB", "lost here dB", "likely cause", "what helps"];
        let about = format!("On {calls} calls. A remedy that was tried says what it gives.");
        parts.push(part("Layers", &about, &table(&head, &[2, 3, 4], &rows)));
    }
    page(&format!("{model}: accuracy"), &parts)
}

fn row(layer: &LayerReport) -> Vec<String> {
    let damage = layer.damage.as_ref();
    let remedy = damage.and_then(|d| d.remedy.as_ref()).map_or(String::new(), |r| match (r.verified, r.sqnr_db) {
        (true, Some(db)) => format!("{}: {db:.1} dB", r.flag),
        _ => r.flag.clone(),
    });
    vec![
        layer.name.clone(),
        layer.op.clone(),
        damage.map_or(String::new(), |d| format!("{:.1} %", 100.0 * d.share)),
        layer.sqnr_db.map_or("exact".to_string(), |db| format!("{db:.1}")),
        format!("{:.1}", layer.loss_db),
        damage.map_or(String::new(), |d| d.cause.text.clone()),
        remedy,
    ]
}
