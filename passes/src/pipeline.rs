//! Pipelines: the named ones, what is checked before they run, and running them. How they look as text is said in `text`.
//!
//! What a pass requires must hold of the graph at the start or be ensured by an earlier pass, and not be broken in
//! between; this is checked before anything runs. After each pass the graph is verified, always.

mod text;

use std::time::{Duration, Instant};

use qcc_ir::diag::Code;
use qcc_ir::{Diag, Diags, Edit, Graph, Level, check_level, verify};

use crate::{Context, Options, PassInfo, Phase, Property};

/// Times a `fixpoint` may repeat before it counts as not ending.
const FIXPOINT_LIMIT: usize = 32;

/// Named pipelines, as the command offers them.
const PRESETS: &[(&str, &str)] = &[
    (
        "-O0",
        "canonicalize, fold-constants, calibrate, propagate-ranges, assign-scales, insert-qdq, cancel-qdq, fuse, \
         lower-to-int, prove-accumulators, check-integer-only",
    ),
    (
        "-O1",
        "canonicalize, fold-constants, compose-functions, synthesize-samples, propagate-ranges, fold-bn, assign-scales, correct-bias, insert-qdq, \
         cancel-qdq, fuse, lower-to-int, layout, merge-requant, fuse-epilogue, prove-accumulators, check-integer-only",
    ),
    (
        "-O2",
        "canonicalize, fold-constants, fold-bn, canonicalize, compose-functions, equalize, calibrate, propagate-ranges, assign-scales, \
         round-weights, correct-bias, insert-qdq, cancel-qdq, fuse, lower-to-int, layout, merge-requant, fuse-epilogue, prove-accumulators, check-integer-only",
    ),
    (
        "-dynamic",
        "canonicalize, fold-constants, fold-bn, canonicalize, compose-functions, lower-to-dynamic, layout, prove-accumulators, \
         check-integer-only",
    ),
    (
        "-Oq",
        "adopt-qdq, canonicalize, compose-functions, calibrate, propagate-ranges, scale-rest, fuse{exact=yes}, lower-to-int{exact=yes}, layout, \
         merge-requant{exact=yes}, fuse-epilogue{exact=yes}, prove-accumulators, check-integer-only",
    ),
];

/// The pipeline with this name: `-O0` optimises nothing, `-O1` needs no samples, `-O2` calibrates, `-dynamic` leaves scales to
/// run time, `-Oq` takes the scales of a model that is quantized already.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|p| p.0 == name).map(|p| p.1)
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

    /// Runs the passes, carrying out edits below number `edit_limit` only, and shows every step to `observe`, which may end the
    /// run with faults of its own.
    pub fn run_observed(
        &self,
        graph: &mut Graph,
        cx: &mut Context,
        edit_limit: usize,
        observe: &mut dyn FnMut(&Step) -> Result<(), Diags>,
    ) -> Result<(), Diags> {
        self.check(graph)?;
        let mut run = Run { edits: 0, steps: 0, edit_limit, observe };
        run.items(&self.items, graph, cx)
    }

    /// Checks that what each pass requires holds when its turn comes.
    pub fn check(&self, graph: &Graph) -> Result<(), Diag> {
        let mut holding: Vec<Property> = Property::ALL.into_iter().filter(|p| p.holds(graph)).collect();
        let mut passes = Vec::new();
        flatten(&self.items, &mut passes);
        for info in passes {
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
        let mut edit = Edit::with_limit(graph, self.edits, self.edit_limit);
        let result = (info.make)(options).run(&mut edit, cx);
        let (labels, remarks) = edit.finish();
        result?;
        let time = start.elapsed();
        verify(graph).and_then(|()| self.check_promises(info, labels.len(), graph)).map_err(|mut diags| {
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
        let mut edit = Edit::new(&mut graph);
        let x = edit.add_input("x", qcc_ir::Type::f32(&[1]));
        edit.set_outputs(vec![x]);
        let e = e.check(&graph).unwrap_err();
        assert!(e.message.contains("every operator works on quantized types"), "{e}");
        assert_eq!(e.help.as_deref(), Some("run fuse before it"));
        for (name, text) in PRESETS {
            assert!(Pipeline::parse(text).unwrap().check(&graph).is_ok(), "{name}");
        }
    }
}
