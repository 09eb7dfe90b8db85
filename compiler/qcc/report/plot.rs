//! Plots as SVG.

use super::escaped;

/// Height of a row of bars.
const ROW: f64 = 19.0;

/// Width of every plot.
const WIDTH: f64 = 1000.0;

/// Where bars begin, behind their names.
const NAMES: f64 = 330.0;

fn svg(height: f64, contents: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n{contents}</svg>")
}

/// The end of a name that is too long.
fn cut(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        name.to_string()
    } else {
        format!("..{}", name.chars().skip(count - most + 2).collect::<String>())
    }
}

/// Bars from the left, one a row: name, length from 0 to `most`, and what stands behind it.
pub fn bars(rows: &[(String, f64, String)], most: f64) -> String {
    let mut out = String::new();
    for (i, (name, value, text)) in rows.iter().enumerate() {
        let y = i as f64 * ROW;
        let width = (WIDTH - NAMES - 180.0) * (value / most.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
        out += &format!(
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect class=\"bar\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" \
             height=\"12\"/><text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            NAMES - 8.0,
            y + 13.0,
            escaped(&cut(name, 50)),
            y + 3.0,
            NAMES + width + 6.0,
            y + 13.0,
            escaped(text)
        );
    }
    svg(rows.len() as f64 * ROW + 4.0, &out)
}

/// Both ends of an interval.
type Ends = (f64, f64);

/// Two intervals a row, the first of which lies within the second where all is well; each row has its own scale.
pub fn intervals(rows: &[(String, Ends, Ends)]) -> String {
    let mut out = String::new();
    for (i, (name, inner, outer)) in rows.iter().enumerate() {
        let y = i as f64 * ROW;
        let (lo, hi) = (inner.0.min(outer.0), inner.1.max(outer.1));
        let place = |x: f64| NAMES + (WIDTH - NAMES - 10.0) * (x - lo) / (hi - lo).max(f64::MIN_POSITIVE);
        let bar = |(a, b): (f64, f64), class: &str, y: f64, height: f64| {
            let width = (place(b) - place(a)).max(1.0);
            format!(
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\"/>",
                place(a)
            )
        };
        let is_cut = inner.0 < outer.0 || inner.1 > outer.1;
        out += &format!(
            "<g><title>float {:.5} .. {:.5}, codes {:.5} .. {:.5}</title><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>{}{}</g>\n",
            inner.0,
            inner.1,
            outer.0,
            outer.1,
            NAMES - 8.0,
            y + 13.0,
            escaped(&cut(name, 50)),
            bar(*outer, "range", y + 3.0, 12.0),
            bar(*inner, if is_cut { "bad" } else { "bar" }, y + 7.0, 4.0)
        );
    }
    svg(rows.len() as f64 * ROW + 4.0, &out)
}

/// A point of [`rates`].
pub struct Point {
    /// What it is.
    pub name: String,
    /// Multiply-accumulates for each byte read or written.
    pub intensity: f64,
    /// Thousand millions of multiply-accumulates a second.
    pub rate: f64,
    /// The rate that its bound would allow.
    pub attainable: f64,
    /// Share of the time, which the area of the dot shows.
    pub share: f64,
}

/// Rates over intensities, both by powers of ten, below the roof of the machine; a line leads from each dot to what bounds it.
pub fn rates(points: &[Point], roof: f64) -> String {
    const HEIGHT: f64 = 430.0;
    let (left, top, bottom) = (56.0, 14.0, 34.0);
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        let (lo, hi) = values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
        if hi > 0.0 { (lo.log10().floor(), hi.log10().ceil().max(lo.log10().floor() + 1.0)) } else { (0.0, 1.0) }
    };
    let (x0, x1) = ends(&mut points.iter().map(|p| p.intensity));
    let (y0, y1) = ends(&mut points.iter().flat_map(|p| [p.rate, p.attainable]).chain([roof]));
    let x = |v: f64| left + (WIDTH - left - 20.0) * (v.log10() - x0) / (x1 - x0);
    let y = |v: f64| HEIGHT - bottom - (HEIGHT - top - bottom) * (v.log10() - y0) / (y1 - y0);
    let mut out = String::new();
    let tens = |from: f64, to: f64| (0..=(to - from) as i32).map(move |i| 10f64.powf(from + f64::from(i)));
    for v in tens(x0, x1) {
        out += &format!(
            "<line class=\"axis\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1:.1}\"/><text class=\"faint\" x=\"{0:.1}\" y=\"{2:.1}\" \
             text-anchor=\"middle\">{v}</text>\n",
            x(v),
            HEIGHT - bottom,
            HEIGHT - bottom + 14.0
        );
    }
    for v in tens(y0, y1) {
        out += &format!(
            "<line class=\"axis\" x1=\"{left}\" x2=\"{1:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text class=\"faint\" x=\"{2:.1}\" y=\"{3:.1}\" \
             text-anchor=\"end\">{v}</text>\n",
            y(v),
            WIDTH - 20.0,
            left - 6.0,
            y(v) + 4.0
        );
    }
    out += &format!(
        "<line class=\"roof\" x1=\"{left}\" x2=\"{1:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text x=\"{2:.1}\" y=\"{3:.1}\" \
         text-anchor=\"end\">{roof:.1} GMAC/s: multipliers</text>\n",
        y(roof),
        WIDTH - 20.0,
        WIDTH - 24.0,
        y(roof) - 5.0
    );
    for p in points.iter().filter(|p| p.intensity > 0.0 && p.rate > 0.0) {
        let radius = (4.0 + 260.0 * p.share.max(0.0)).sqrt() * 1.4;
        out += &format!(
            "<line class=\"thin\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/><circle class=\"dot\" cx=\"{0:.1}\" cy=\"{1:.1}\" \
             r=\"{radius:.1}\"><title>{3}: {4:.1} of {5:.1} GMAC/s</title></circle>\n",
            x(p.intensity),
            y(p.rate),
            y(p.attainable.max(p.rate)),
            escaped(&p.name),
            p.rate,
            p.attainable
        );
    }
    out += &format!(
        "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">multiply-accumulates for each byte</text><text class=\"faint\" \
         x=\"{left}\" y=\"10\">GMAC/s</text>\n",
        WIDTH - 20.0,
        HEIGHT - 4.0
    );
    svg(HEIGHT, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup_and_long_ones_are_cut() {
        let text = bars(&[("<b>".to_string(), 0.5, "50 %".to_string())], 1.0);
        assert!(text.contains("&lt;b&gt;") && !text.contains("<b>"), "{text}");
        assert_eq!(cut(&"x".repeat(60), 50).len(), 50);
        assert_eq!(cut("é", 50), "é");
    }

    #[test]
    fn plots_have_only_finite_numbers() {
        let point = |rate: f64| Point { name: "a".into(), intensity: rate, rate, attainable: rate * 2.0, share: 0.5 };
        for points in [vec![], vec![point(0.0)], vec![point(3.0), point(1e-9), point(1e12)]] {
            let text = rates(&points, 50.0);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
        let text =
            intervals(&[("a".to_string(), (0.0, 0.0), (0.0, 0.0))]) + &bars(&[("a".into(), 0.0, String::new())], 0.0);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
