//! What each pass does to the outputs, measured on samples.
//!
//! A pass on real numbers changes how the model is written and not what it computes: it may move the outputs by rounding and
//! no more. What rounding can do follows from the model. Where its outputs are 90 dB and more from where they were, nothing
//! else is asked. Below that they are compared with what the graph before the pass makes of parameters and inputs that are
//! each off by up to [`PERTURBATION`]: a pass rounds each parameter a few times, so that in an ill-conditioned model, which
//! multiplies such errors, it has the same excuse. Whatever changes the outputs more is an error that names the pass.
//!
//! That check is made once, at the end of the passes on real numbers, and looks for the pass only if it fails: two evaluations
//! of one sample. With all passes to be measured, each that changes something is evaluated, down to integers.

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::{Builder, Data, Def, Diag, Diags, Graph, Tensor};
use qcc_passes::{Phase, Property, Samples, Step};
use rayon::prelude::*;

use crate::Error;
use crate::compare::noise::{Noise, of_outputs, worst};
use crate::engine::{Engine, Io};
use crate::float_interface::Boundary;

/// Samples that all passes are measured on.
const SAMPLES: usize = 4;

/// Decibels from which on a difference is rounding in any model.
const ROUNDING: f64 = 90.0;

/// By how much parameters and inputs are changed to see what rounding can do: two units in the last place of an `f32`.
const PERTURBATION: f64 = 1.0 / (1u32 << 22) as f64;

/// Noise that a pass may make, as a multiple of what the perturbation makes: 20 dB.
const EXCUSED: f64 = 100.0;

/// What a pass does to the outputs; of several outputs the worst counts. `None` stands for no difference at all.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Effect {
    /// Signal-to-noise ratio of the outputs after the pass, against the model as it was read.
    pub against_model: Option<f64>,
    /// The same against the outputs before the pass.
    pub against_previous: Option<f64>,
}

/// Outputs of a graph: for each sample, a tensor an output.
type Outputs = Vec<Vec<Tensor>>;

/// Follows a pipeline.
pub(crate) struct Budget {
    inputs: Vec<Vec<Tensor>>,
    /// The graph before the pipeline, and its outputs once they are needed.
    model: Graph,
    expected: Option<Outputs>,
    /// Whether every pass is measured.
    all: bool,
    /// The graph before the pass that comes next, its outputs, and the ratio that has been reached.
    before: Graph,
    previous: Option<Outputs>,
    reached: Option<f64>,
    /// Passes on real numbers that are not checked yet, and the graphs after them.
    unchecked: Vec<(&'static str, Graph)>,
}

impl Budget {
    /// Follows what becomes of `model`; `all` measures every pass.
    pub(crate) fn new(model: &Graph, samples: &Arc<dyn Samples>, all: bool) -> Result<Budget, Error> {
        let count = if all { SAMPLES } else { 1 }.min(samples.len());
        // The codes that a quantized model takes are others in graphs to come; what they stand for is not.
        let types: Vec<Boundary> = model.inputs().iter().map(|&v| Boundary::of_type(model.ty(v))).collect();
        let reals = |tensors: Vec<Tensor>| tensors.iter().zip(&types).map(|(t, b)| b.real(t)).collect();
        let sample = |i: usize| samples.get(i * samples.len() / count).map(reals);
        let inputs = (0..count).map(sample).collect::<Result<_, Diag>>()?;
        let (model, before) = (model.clone(), model.clone());
        let unchecked = Vec::new();
        Ok(Budget { inputs, model, expected: None, all, before, previous: None, reached: None, unchecked })
    }

    /// Takes a pass into account.
    pub(crate) fn pass(&mut self, step: &Step) -> Result<Option<Effect>, Diags> {
        let changed = !step.labels.is_empty();
        let real = step.info.phase == Phase::Float && Property::Float.holds(step.graph);
        let effect = match (self.all, real) {
            (true, _) if !changed => Some(Effect { against_model: self.reached, against_previous: None }),
            (true, _) => Some(self.measure(step, real)?),
            (false, true) => {
                if changed {
                    self.unchecked.push((step.info.name, step.graph.clone()));
                }
                None
            }
            (false, false) => {
                self.settle()?;
                None
            }
        };
        if self.all && changed {
            self.before = step.graph.clone();
        }
        Ok(effect)
    }

    /// Checks what has not been checked, at the end of a pipeline.
    pub(crate) fn settle(&mut self) -> Result<(), Diags> {
        let unchecked = std::mem::take(&mut self.unchecked);
        let Some((_, last)) = unchecked.last() else { return Ok(()) };
        let (mut previous, found) = (self.evaluate(&self.model, &self.inputs)?, self.evaluate(last, &self.inputs)?);
        if is_rounding(&of_outputs(&previous, &found)) {
            return Ok(());
        }
        let mut before = &self.model;
        for (name, graph) in &unchecked {
            let found = self.evaluate(graph, &self.inputs)?;
            self.judge(name, before, &of_outputs(&previous, &found))?;
            (before, previous) = (graph, found);
        }
        Ok(())
    }

    fn measure(&mut self, step: &Step, real: bool) -> Result<Effect, Diags> {
        let found = self.evaluate(step.graph, &self.inputs)?;
        let expected = match self.expected.take() {
            Some(expected) => expected,
            None => self.evaluate(&self.model, &self.inputs)?,
        };
        let change = of_outputs(self.previous.as_ref().unwrap_or(&expected), &found);
        if real {
            self.judge(step.info.name, &self.before, &change)?;
        }
        self.reached = worst(&of_outputs(&expected, &found));
        (self.expected, self.previous) = (Some(expected), Some(found));
        Ok(Effect { against_model: self.reached, against_previous: worst(&change) })
    }

    /// An error if the pass changed more than rounding does.
    fn judge(&self, pass: &str, before: &Graph, change: &[Noise]) -> Result<(), Diags> {
        if is_rounding(change) {
            return Ok(());
        }
        let mut state = 1u32;
        let graph = perturbed(before, &mut state);
        let inputs: Vec<Vec<Tensor>> =
            self.inputs.iter().map(|t| t.iter().map(|t| perturb(t, &mut state)).collect()).collect();
        let (expected, moved) = (self.evaluate(before, &self.inputs)?, self.evaluate(&graph, &inputs)?);
        let allowed = of_outputs(&expected, &moved);
        let excused = |(c, a): (&Noise, &Noise)| is_rounding(&[*c]) || c.noise <= EXCUSED * a.noise;
        if change.iter().zip(&allowed).all(excused) {
            return Ok(());
        }
        let ratio = worst(change).unwrap_or(f64::INFINITY);
        let message = format!(
            "pass `{pass}` changes what the model computes: the outputs are {ratio:.1} dB from those before it, where rounding leaves {ROUNDING:.0}"
        );
        let help =
            "this is a bug of qcc; `--passes` can leave the pass out, `--dump-dir` shows the graph before and after it";
        Err(Diag::new(Code::PASS, message).help(help).into())
    }

    fn evaluate(&self, graph: &Graph, inputs: &[Vec<Tensor>]) -> Result<Outputs, Diags> {
        let engine = Engine::of_graph(graph);
        let one = |runner: &mut crate::engine::Runner<'_>, inputs: &Vec<Tensor>| runner.run(inputs, Io::Float);
        let outputs = inputs.par_iter().map_init(|| engine.runner(), one).collect::<Result<_, Error>>();
        outputs.map_err(|e| Diags(e.diags().to_vec()))
    }
}

/// Whether a difference is so small that it needs no other explanation. Numbers that stand for no real ones, such as the
/// index of a class, have none at all.
fn is_rounding(change: &[Noise]) -> bool {
    worst(change).is_none_or(|ratio| ratio >= ROUNDING)
}

/// The graph with all real parameters off by a little.
fn perturbed(graph: &Graph, state: &mut u32) -> Graph {
    let mut changed = graph.clone();
    let mut builder = Builder::new(&mut changed);
    let constants: Vec<_> = graph.values().filter_map(|v| graph.constant(v).map(|t| (v, t.clone()))).collect();
    for (v, tensor) in constants {
        if tensor.as_f32().is_some() && !matches!(graph.def(v), Def::Input(_)) {
            let elem = graph.ty(v).elem.clone();
            let other = builder.add_typed_const(graph.name_of(v), perturb(&tensor, state), elem);
            builder.replace_uses(v, other);
        }
    }
    changed
}

/// A tensor whose real elements are off by up to the perturbation, up or down as a generator of random numbers says.
fn perturb(tensor: &Tensor, state: &mut u32) -> Tensor {
    let Data::F32(values) = &tensor.data else { return tensor.clone() };
    let mut factor = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1.0 + PERTURBATION * (f64::from(*state >> 8) / f64::from(1u32 << 23) - 1.0)
    };
    Tensor::f32(&tensor.dims, values.iter().map(|&x| (f64::from(x) * factor()) as f32).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use qcc_ir::{Attrs, Opcode, Type};
    use qcc_passes::PassInfo;

    use super::*;

    /// `y = w x - v x`, for vectors of four.
    fn difference(w: f32, v: f32) -> Graph {
        let mut graph = Graph::new("g");
        let mut builder = Builder::new(&mut graph);
        let x = builder.add_input("x", Type::f32(&[1, 4]));
        let constant = |builder: &mut Builder, name: &str, c: f32| builder.add_const(name, Tensor::f32(&[1], vec![c]));
        let (w, v) = (constant(&mut builder, "w", w), constant(&mut builder, "v", v));
        let mut add = |op: Opcode, operands: &[_], name: &str| {
            builder.add_inferred(op, operands, Attrs::new(op), name, None).unwrap()
        };
        let (a, b) = (add(Opcode::Mul, &[x, w], "a"), add(Opcode::Mul, &[x, v], "b"));
        let y = add(Opcode::Sub, &[a, b], "y");
        builder.set_outputs(vec![y]);
        graph
    }

    /// What is said when `fold-bn` makes one graph of another. The inputs are powers of two, so that products are exact: a unit
    /// in the last place of a factor is not lost.
    fn judged(before: &Graph, after: &Graph, all: bool) -> Result<Option<Effect>, Diags> {
        let x = Tensor::f32(&[1, 4], vec![0.5, -2.0, 4.0, 0.125]);
        let samples: Arc<dyn Samples> = Arc::new(vec![vec![x]]);
        let mut budget = Budget::new(before, &samples, all).unwrap();
        let info = PassInfo::find("fold-bn").unwrap();
        let labels = ["an builder".to_string()];
        let text = info.name.to_string();
        let (number, first_edit, remarks, time) = (1, 0, &[][..], Duration::ZERO);
        let effect =
            budget.pass(&Step { number, info, text, first_edit, labels: &labels, remarks, time, graph: after })?;
        budget.settle()?;
        Ok(effect)
    }

    #[test]
    fn a_pass_that_changes_the_model_is_named() {
        for all in [false, true] {
            let fault = judged(&difference(3.0, 1.0), &difference(3.001, 1.0), all).unwrap_err();
            assert_eq!(fault.0[0].code, Code::PASS);
            assert!(fault.0[0].message.starts_with("pass `fold-bn` changes"), "{fault}");
        }
    }

    #[test]
    fn rounding_is_none_of_its_business() {
        let (before, after) = (difference(3.0, 1.0), difference(f32::from_bits(3.0f32.to_bits() + 1), 1.0));
        assert_eq!(judged(&before, &after, false), Ok(None));
        let effect = judged(&before, &after, true).unwrap().unwrap();
        assert!(effect.against_model.is_some_and(|r| r > 120.0) && effect.against_previous == effect.against_model);
        assert_eq!(judged(&before, &before, true), Ok(Some(Effect::default())));
    }

    /// Where two products nearly cancel, a unit in the last place of a parameter moves the result by 60 dB: no pass is to
    /// blame for that, but for a thousand units it is.
    #[test]
    fn an_ill_conditioned_model_excuses_what_it_multiplies() {
        let units = |n: u32| f32::from_bits(3.0f32.to_bits() + n);
        let before = difference(units(1000), 3.0);
        let effect = judged(&before, &difference(units(1001), 3.0), true).unwrap().unwrap();
        assert!(effect.against_previous.is_some_and(|r| r < 65.0), "{effect:?}");
        assert_eq!(judged(&before, &difference(units(1001), 3.0), false), Ok(None));
        assert!(judged(&before, &difference(units(2000), 3.0), false).is_err());
    }
}
