//! Pipelines: the named ones, what is checked before they run, and running them. How they look as text is said in `text`.
//!
//! What a pass requires must hold of the graph at the start or be ensured by an earlier pass, and not be broken in
//! between; this is checked before anything runs. After each pass the graph is verified, always.

mod text;

use std::time::{Duration, Instant};

use qcc_ir::diag::Code;
use qcc_ir::{Builder, Diag, Diags, Edit, Fact, Graph, Level, check_level, verify};

use crate::{Context, Options, PassInfo, Phase, Property, RangeTable};

/// Times a `fixpoint` may repeat before it counts as not ending.
const FIXPOINT_LIMIT: usize = 32;

/// A pipeline with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// How it is asked for: `--passes=-O1`.
    pub name: &'static str,
    /// When it is the one to take.
    pub summary: &'static str,
    /// The passes, as text.
    pub text: &'static str,
}

/// All named pipelines.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "-O0",
        summary: "calibrates and optimizes nothing: for finding faults",
        text: "canonicalize, fold-constants, calibrate, propagate-ranges, assign-scales, insert-qdq, cancel-qdq, fuse, \
               lower-to-int, prove-accumulators, check-integer-only",
    },
    Preset {
        name: "-O1",
        summary: "without samples: ranges from batch normalization, declared ranges and synthesized inputs",
        text: "canonicalize, fold-constants, compose-functions, synthesize-samples, propagate-ranges, fold-bn, assign-scales, correct-bias, \
               insert-qdq, cancel-qdq, fuse, lower-to-int, layout, merge-requant, fuse-epilogue, prove-accumulators, \
               check-integer-only",
    },
    Preset {
        name: "-O2",
        summary: "with samples or a range table",
        text: "canonicalize, fold-constants, fold-bn, canonicalize, compose-functions, equalize, calibrate, propagate-ranges, assign-scales, \
               round-weights, correct-bias, insert-qdq, cancel-qdq, fuse, lower-to-int, layout, merge-requant, \
               fuse-epilogue, prove-accumulators, check-integer-only",
    },
    Preset {
        name: "-Oq",
        summary: "for a model that is quantized already: its own scales are kept",
        text: "adopt-qdq, canonicalize, compose-functions, calibrate, propagate-ranges, scale-rest, fuse{exact=yes}, \
               lower-to-int{exact=yes}, layout, merge-requant{exact=yes}, fuse-epilogue{exact=yes}, prove-accumulators, \
               check-integer-only",
    },
    Preset {
        name: "-dynamic",
        summary: "of --mode int8_dynamic: scales are found in each run",
        text: "canonicalize, fold-constants, fold-bn, canonicalize, compose-functions, lower-to-dynamic, layout, prove-accumulators, \
               check-integer-only",
    },
];

/// The text of the pipeline with this name.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|p| p.name == name).map(|p| p.text)
}

/// The pipeline for what the context offers: `-O2` with samples or a range table, less the corrections that are off. Without
/// either, `-O1`: ranges are derived before batch normalization is folded, because its parameters tell them. `-Oq` for a model that is quantized already.
pub fn default_pipeline(graph: &Graph, cx: &Context) -> String {
    let quantized = !Property::Float.holds(graph);
    let name = if quantized {
        "-Oq"
    } else if cx.samples.is_some() || cx.ranges.is_some() {
        "-O2"
    } else {
        "-O1"
    };
    let passes = preset(name).unwrap_or_default().split(", ");
    let off = cx.corrections.off(passes.clone().any(|p| p == "round-weights"));
    let passes = passes.filter(|p| !off.contains(p));
    passes.collect::<Vec<_>>().join(", ")
}

/// A sequence of passes.
#[derive(Debug, Clone)]
pub struct Pipeline {
    items: Vec<Item>,
}

/// A part of a [`Pipeline`].
#[derive(Clone)]
enum Item {
    Pass(&'static PassInfo, Options),
    Fixpoint(Vec<Item>),
}

/// What one pass did, for dumps and reports.
pub struct Step<'a> {
    /// Number of the step, from 1.
    pub number: usize,
    /// The pass.
    pub info: &'static PassInfo,
    /// The pass with its options, as in the pipeline.
    pub text: String,
    /// Number of the first edit.
    pub first_edit: usize,
    /// What was changed: one label an edit.
    pub labels: &'a [String],
    /// What was not done and why.
    pub remarks: &'a [String],
    /// How long the pass ran, without verification.
    pub time: Duration,
    /// The graph after the pass.
    pub graph: &'a Graph,
}

impl Pipeline {
    /// Runs the passes.
    pub fn run(&self, graph: &mut Graph, cx: &mut Context) -> Result<(), Diags> {
        self.run_observed(graph, cx, usize::MAX, &mut |_| Ok(()))
    }

    /// Runs the passes, carrying out edits below number `edit_limit` only and no pass behind them, and shows every step to
    /// `observe`, which may end the run with faults of its own.
    pub fn run_observed(
        &self,
        graph: &mut Graph,
        cx: &mut Context,
        edit_limit: usize,
        observe: &mut dyn FnMut(&Step) -> Result<(), Diags>,
    ) -> Result<(), Diags> {
        self.check(graph)?;
        if let Some(table) = cx.ranges.as_ref().filter(|_| self.passes().iter().any(|p| p.name == "calibrate")) {
            keep_names(graph, table);
        }
        let mut run = Run { edits: 0, steps: 0, edit_limit, observe };
        run.items(&self.items, graph, cx)
    }

    /// All passes, those in a `fixpoint` once.
    fn passes(&self) -> Vec<&'static PassInfo> {
        let mut passes = Vec::new();
        flatten(&self.items, &mut passes);
        passes
    }

    /// Checks that what each pass requires holds when its turn comes.
    pub fn check(&self, graph: &Graph) -> Result<(), Diag> {
        let mut holding: Vec<Property> = Property::ALL.into_iter().filter(|p| p.holds(graph)).collect();
        for info in self.passes() {
            if let Some(missing) = info.requires.iter().find(|p| !holding.contains(p)) {
                let makers: Vec<_> =
                    crate::PASSES.iter().filter(|p| p.ensures.contains(missing)).map(|p| p.name).collect();
                let message = format!("`{}` cannot run here: it requires that {}", info.name, missing.text());
                let diag = Diag::new(Code::PIPELINE, message);
                return Err(match makers.as_slice() {
                    [] => diag,
                    makers => diag.help(format!("run {} before it", makers.join(" or "))),
                });
            }
            holding.retain(|p| !info.breaks.contains(p));
            holding.extend(info.ensures);
        }
        Ok(())
    }
}

/// Passes remove values that a range table names; that the model had them stays known.
fn keep_names(graph: &mut Graph, table: &RangeTable) {
    let names: Vec<&String> = table.values.keys().filter(|name| graph.find(name).is_some()).collect();
    let mut builder = Builder::new(graph);
    names.into_iter().for_each(|name| builder.set_metadata(Fact::SourceName, name, Vec::new()));
}

fn flatten(items: &[Item], into: &mut Vec<&'static PassInfo>) {
    for item in items {
        match item {
            Item::Pass(info, _) => into.push(info),
            Item::Fixpoint(items) => flatten(items, into),
        }
    }
}

/// State of a run.
struct Run<'o> {
    edits: usize,
    steps: usize,
    edit_limit: usize,
    observe: &'o mut dyn FnMut(&Step) -> Result<(), Diags>,
}

impl Run<'_> {
    fn items(&mut self, items: &[Item], graph: &mut Graph, cx: &mut Context) -> Result<(), Diags> {
        for item in items {
            cx.budget.check_time()?;
            // What the others require may not hold without the edits that were refused.
            if self.edits >= self.edit_limit {
                break;
            }
            match item {
                Item::Pass(info, options) => self.pass(info, options, graph, cx)?,
                Item::Fixpoint(inner) => self.fixpoint(inner, graph, cx)?,
            }
        }
        Ok(())
    }

    fn fixpoint(&mut self, items: &[Item], graph: &mut Graph, cx: &mut Context) -> Result<(), Diags> {
        for _ in 0..FIXPOINT_LIMIT {
            let before = self.edits;
            self.items(items, graph, cx)?;
            if self.edits == before {
                return Ok(());
            }
        }
        let text = Item::Fixpoint(items.to_vec());
        Err(Diag::new(Code::PIPELINE, format!("`{text}` still changes the graph after {FIXPOINT_LIMIT} rounds")).into())
    }

    fn pass(
        &mut self,
        info: &'static PassInfo,
        options: &Options,
        graph: &mut Graph,
        cx: &mut Context,
    ) -> Result<(), Diags> {
        let start = Instant::now();
        cx.stage = info.name;
        cx.report(0, 0);
        let mut edit = Edit::with_limit(graph, self.edits, self.edit_limit);
        let result = (info.make)(options).run(&mut edit, cx);
        let (labels, remarks) = edit.finish();
        result?;
        let time = start.elapsed();
        verify(graph).and_then(|()| self.check_promises(info, labels.len(), graph)).map_err(|mut diags| {
            if diags.0.iter().all(|d| d.code == Code::PIPELINE) {
                return diags;
            }
            let first = self.edits;
            let message = match labels.len() {
                0 => format!("pass `{}` broke the graph", info.name),
                n => format!("pass `{}` broke the graph by one of its edits #{first} to #{}", info.name, first + n - 1),
            };
            diags.0.insert(0, Diag::new(Code::VERIFY, message));
            diags
        })?;
        self.steps += 1;
        (self.observe)(&Step {
            number: self.steps,
            info,
            text: format!("{}{options}", info.name),
            first_edit: self.edits,
            labels: &labels,
            remarks: &remarks,
            time,
            graph,
        })?;
        self.edits += labels.len();
        Ok(())
    }

    /// The graph belongs to the pass's phase and has what the pass ensures, unless the edit limit kept it from finishing.
    fn check_promises(&self, info: &PassInfo, edits: usize, graph: &Graph) -> Result<(), Diags> {
        if self.edits + edits >= self.edit_limit {
            return Ok(());
        }
        let level = match info.phase {
            Phase::Float if info.requires.contains(&Property::Float) => Level::Float,
            // What works on real numbers between casts also works without casts.
            Phase::Float | Phase::Quant => Level::Quant,
            Phase::Int => Level::Int,
        };
        check_level(graph, level)?;
        match info.ensures.iter().find(|p| !p.holds(graph)) {
            // Of a graph on real numbers alone it holds that quantization is explicit: it has none.
            Some(missing) if info.phase != Phase::Float && Property::Float.holds(graph) => {
                let message = format!(
                    "`{}` cannot run here: nothing in the graph is quantized, so that it cannot hold that {}",
                    info.name,
                    missing.text()
                );
                Err(Diag::new(Code::PIPELINE, message).help("run insert-qdq before it").into())
            }
            Some(missing) => Err(Diag::new(Code::VERIFY, format!("it does not hold that {}", missing.text())).into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_checked_before_running() {
        let e = Pipeline::parse("fold-bn, lower-to-int").unwrap();
        let mut graph = Graph::new("g");
        let mut builder = qcc_ir::Builder::new(&mut graph);
        let x = builder.add_input("x", qcc_ir::Type::f32(&[1]));
        builder.set_outputs(vec![x]);
        let e = e.check(&graph).unwrap_err();
        assert!(e.message.contains("every operator works on quantized types"), "{e}");
        assert_eq!(e.help.as_deref(), Some("run fuse before it"));
        for Preset { name, text, .. } in PRESETS {
            assert!(Pipeline::parse(text).unwrap().check(&graph).is_ok(), "{name}");
        }
    }
}
