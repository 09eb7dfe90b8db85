//! `qcc inspect`: what a file holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::cost::multiply_accumulates;
use qcc::ir::{Graph, ValueId};
use qcc::runtime::ModelInfo;
use qcc::{Error, Source};

use super::binary::Binary;
use super::flags::ModelFlags;
use super::run::is_compiled;
use super::terminal;

/// Describe a model.
#[derive(Args)]
pub struct Inspect {
    /// Model: .onnx or .qir, or compiled: .so or .o, for any machine
    file: PathBuf,
    #[command(flatten)]
    flags: ModelFlags,
}

impl Inspect {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        let text = if is_compiled(&self.file) {
            self.flags.warn_compiled();
            self.compiled()?
        } else {
            self.flags.warn_not_compiled();
            let graph = Source::from(self.file.as_path()).load(&self.flags.options(0)?)?;
            graph_text(&graph)
        };
        terminal::result(&text)
    }

    fn compiled(&self) -> Result<String, Error> {
        let binary = Binary::read(&self.file)?;
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name:<22}{value}");
        };
        row("machine", binary.machine);
        match &binary.info {
            Ok(info) => description(info, &mut row),
            Err(e) => row("description", e.to_string()),
        }
        if let Some(m) = &binary.manifest {
            row("source", m.source.clone());
            row("target", m.target.clone());
            row("ranges", m.ranges.clone());
            row("passes", m.pipeline.clone());
            for (name, value) in &m.options {
                row(&format!("--{name}"), value.clone());
            }
            for p in &m.preprocessing {
                // It is stored as a factor, whose inverse is not exact.
                let divisor = format!("{:.5e}", 1.0 / f64::from(p.scale)).parse().unwrap_or(1.0 / p.scale);
                let numbers = format!("1/{divisor}, mean {:?}, std {:?}", p.mean, p.std);
                let preset = if p.preset.is_empty() { String::new() } else { format!(" ({})", p.preset) };
                let resize = match (p.resize, p.resize_width) {
                    (0, _) => "as they are".to_string(),
                    (side, 0) if p.resize_shrinks => format!("shorter side at most {side}"),
                    (side, 0) => format!("shorter side {side}"),
                    (height, width) => format!("{height} x {width}"),
                };
                let crop = if p.crop > 0 { format!(", crop {} x {}", p.crop, p.crop_width) } else { String::new() };
                row(
                    "images",
                    format!("`{}`: {resize}{crop}, {numbers}, {}, {}{preset}", p.input, p.layout, p.channels),
                );
            }
            if let Some(arena) = &m.arena {
                let shared = format!("{} bytes in {} buffers unshared", arena.unshared_bytes, arena.buffers);
                row("memory", format!("{shared}, {} at once at most", arena.peak_live_bytes));
                row("constants", format!("{} bytes", arena.constant_bytes));
            }
        }
        for (name, size) in &binary.sections {
            row("section", format!("{name:<16} {size:>12} bytes"));
        }
        if let Some(m) = &binary.manifest {
            let _ = writeln!(out, "\n{:>14} {:>12} {:>4}  step: kernel", "MACs", "weight bytes", "bits");
            for step in &m.steps {
                let bits = if step.weight_bits == 0 { String::new() } else { step.weight_bits.to_string() };
                let (macs, bytes) = (step.macs, step.weight_bytes);
                let _ = writeln!(out, "{macs:>14} {bytes:>12} {bits:>4}  {}: {}", step.name, step.kernel);
            }
        }
        Ok(out)
    }
}

/// What a host must know of a model.
fn description(info: &ModelInfo, row: &mut impl FnMut(&str, String)) {
    let hash: String = info.model_hash.iter().map(|b| format!("{b:02x}")).collect();
    row("model", info.name.clone());
    row("compiler", format!("qcc {}", info.compiler));
    row("hash", hash);
    row("CPU features", info.cpu_features.to_string());
    row("multiply-accumulates", info.macs.to_string());
    row("scratch", format!("{} bytes", info.scratch_bytes));
    row("float interface", if info.has_float_interface { "yes" } else { "no" }.to_string());
    for (what, list) in [("input", &info.inputs), ("output", &info.outputs)] {
        for t in list {
            let quant = t.quant.map_or(String::new(), |q| format!(", {:?} * (stored - {})", q.scale, q.zero_point));
            row(what, format!("`{}` {} {:?}{quant}", t.name, t.dtype, t.dims));
        }
    }
}

fn graph_text(graph: &Graph) -> String {
    let mut out = format!("graph                 {}\n", graph.name);
    let list = |ids: &[ValueId]| ids.iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).to_string())).collect();
    let lists: [(&str, Vec<(String, String)>); 2] =
        [("input", list(graph.inputs())), ("output", list(graph.outputs()))];
    for (what, values) in lists {
        for (name, ty) in values {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{what:<22}`{name}` {ty}");
        }
    }
    let (count, parameters) = graph.constants().fold((0, 0), |(n, e), (_, t)| (n + 1, e + t.data.len()));
    let _ = writeln!(out, "{:<22}{parameters} in {count} constants", "parameters");
    let macs: u64 = graph.order().iter().map(|&n| multiply_accumulates(graph, n)).sum();
    let _ = writeln!(out, "{:<22}{macs}", "multiply-accumulates");
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    for n in graph.order() {
        *operators.entry(graph.op(n).name()).or_default() += 1;
    }
    let _ = writeln!(out, "{:<22}{}", "operations", graph.node_count());
    for (name, count) in operators {
        let _ = writeln!(out, "{count:>8}  {name}");
    }
    out
}
