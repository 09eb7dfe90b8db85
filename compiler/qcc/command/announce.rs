//! What is said of every model that was compiled.

use qcc::Compiled;

use super::terminal;

/// Says how ranges were found: what they rest on decides how far the result can be trusted.
pub fn announce(compiled: &Compiled) {
    let report = compiled.report();
    for remark in &report.remarks_on_model {
        terminal::note(&format!("warning: {remark}"));
    }
    report.notes.iter().for_each(|note| terminal::note(note));
    let source = &report.range_source;
    if !source.is_empty() {
        let hint = match (report.uncorrected, report.derived_ranges) {
            (true, _) => " (weights are rounded to the nearest: give samples too to correct them, --calibrate)",
            (false, true) => " (for better ones give samples: --calibrate)",
            (false, false) => "",
        };
        terminal::note(&format!("ranges: {source}{hint}"));
    }
    if let Some(why) = &report.no_float_interface {
        terminal::note(&format!("integers in and out only: {why}"));
    }
}
