//! `LSTM`, `GRU` and `RNN`, unrolled: the number of steps is known, so that every step is a product with the same weights,
//! sums, products and functions of one value. The products with the inputs of all steps are one.

use qcc_ir::{Attrs, Opcode, Uniform, ValueId, attr};

use super::affine::{as_real, format_of};
use super::layout::{self, apply};
use super::site::Site;
use super::slice::part;
use crate::fault::{Fault, Outcome};

/// Most steps that are unrolled: each adds its own operations and its own copy of the recurrent weights.
const MOST_STEPS: usize = 1024;

/// Which cell is unrolled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Lstm,
    Gru,
    Rnn,
}

impl Cell {
    /// Gates, each with weights of its own.
    fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
            Cell::Rnn => 1,
        }
    }

    /// Functions of a direction where none are named.
    fn functions(self) -> &'static [&'static str] {
        match self {
            Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
            Cell::Gru => &["Sigmoid", "Tanh"],
            Cell::Rnn => &["Tanh"],
        }
    }
}

pub(super) fn lstm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let weights = Weights::read(site)?;
    recurrent(site, Cell::Lstm, weights)
}

pub(super) fn gru(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let weights = Weights::read(site)?;
    recurrent(site, Cell::Gru, weights)
}

pub(super) fn rnn(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let weights = Weights::read(site)?;
    recurrent(site, Cell::Rnn, weights)
}

/// `DynamicQuantizeLSTM` of the domain `com.microsoft`: weights are integers, transposed, with scales and zero points behind the
/// other operands. Its operands are quantized by scales of each run; here as all real numbers are.
pub(super) fn dynamic_lstm(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let weights = Weights::quantized(site)?;
    recurrent(site, Cell::Lstm, weights)
}

/// Matrices of each direction, `[rows, inputs]` and `[rows, hidden]`.
struct Weights {
    w: Vec<ValueId>,
    r: Vec<ValueId>,
    rows: usize,
    inputs: usize,
    hidden: usize,
}

impl Weights {
    fn read(site: &mut Site) -> Outcome<Weights> {
        let (w, r) = (site.operand(1)?, site.operand(2)?);
        let [directions, rows, hidden] = rank3(site, r, "the recurrent weights")?;
        let [of_inputs, own, inputs] = rank3(site, w, "the weights")?;
        if (of_inputs, own) != (directions, rows) {
            return Err(Fault::shape(format!("weights of shapes {:?} and {:?}", site.dims(w), site.dims(r))));
        }
        let mut each = |v, columns, suffix| -> Outcome<Vec<ValueId>> {
            (0..directions).map(|d| matrix(site, v, d, &[rows, columns], suffix)).collect()
        };
        Ok(Weights { w: each(w, inputs, "w")?, r: each(r, hidden, "r")?, rows, inputs, hidden })
    }

    fn quantized(site: &mut Site) -> Outcome<Weights> {
        let (w, r) = (site.operand(1)?, site.operand(2)?);
        let [directions, hidden, rows] = rank3(site, r, "the recurrent weights")?;
        let [of_inputs, inputs, own] = rank3(site, w, "the weights")?;
        if (of_inputs, own) != (directions, rows) {
            return Err(Fault::shape(format!("weights of shapes {:?} and {:?}", site.dims(w), site.dims(r))));
        }
        let mut matrices = Vec::new();
        for (v, at, columns) in [(w, 8, inputs), (r, 10, hidden)] {
            let format = format_of(&site.elem(v))?;
            let scales = site.float_list(at, "scales")?.unwrap_or_default();
            let zeros = site.int_list(at + 1, "zero points")?.unwrap_or_else(|| vec![0; scales.len()]);
            let each = scales.len() / directions.max(1);
            let fits = each * directions == scales.len() && (each == 1 || each == rows) && zeros.len() == scales.len();
            if !fits || scales.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
                return Err(Fault::shape(format!("{} scales and {} zero points", scales.len(), zeros.len())));
            }
            for d in 0..directions {
                let codes = matrix(site, v, d, &[columns, rows], "codes")?;
                let codes = layout::transpose(site, codes, &[1, 0], "codes")?;
                let own = each * d..each * (d + 1);
                let (scales, zero_points) = (scales[own.clone()].to_vec(), zeros[own].to_vec());
                let uniform = Uniform { format: format.clone(), axis: (each > 1).then_some(0), scales, zero_points };
                matrices.push(as_real(site, codes, uniform, "weights")?);
            }
        }
        let r = matrices.split_off(directions);
        Ok(Weights { w: matrices, r, rows, inputs, hidden })
    }
}

/// What all directions have in common.
struct RnnLayer {
    cell: Cell,
    /// Steps, batch and hidden values.
    steps: usize,
    batch: usize,
    hidden: usize,
    clip: Option<f32>,
    /// `GRU`: the product with the hidden values comes before the reset.
    before_reset: bool,
}

/// Parameters of one direction.
struct Direction {
    w: ValueId,
    r: ValueId,
    /// Biases of the products with the input and with the hidden values.
    bias: Option<(ValueId, ValueId)>,
    functions: Vec<(Opcode, Attrs)>,
    h: Option<ValueId>,
    c: Option<ValueId>,
}

fn recurrent(site: &mut Site, cell: Cell, weights: Weights) -> Outcome<Vec<ValueId>> {
    let mut x = site.operand(0)?;
    let batch_first = site.attrs.flag("layout", false)?;
    if batch_first {
        let dims = site.dims(x);
        if dims.len() != 3 {
            return Err(Fault::shape(format!("an input of shape {dims:?}")));
        }
        x = layout::transpose(site, x, &[1, 0, 2], "steps")?;
    }
    let [steps, batch, inputs] = rank3(site, x, "the input")?;
    let (directions, rows, hidden) = (weights.w.len(), weights.rows, weights.hidden);
    let fits = hidden.checked_mul(cell.gates()) == Some(rows) && weights.inputs == inputs;
    let declared = site.attrs.int("hidden_size")?.is_none_or(|n| usize::try_from(n) == Ok(hidden));
    if !fits || !declared {
        let own = weights.inputs;
        return Err(Fault::shape(format!("{rows} rows of weights for {own} inputs and {hidden} hidden values")));
    }
    if steps == 0 || steps > MOST_STEPS {
        return Err(Fault::unsupported(format!("a sequence of {steps} steps")).help("export the model for fewer steps"));
    }
    let backwards: &[bool] = match (site.attrs.string("direction")?.unwrap_or("forward"), directions) {
        ("forward", 1) => &[false],
        ("reverse", 1) => &[true],
        ("bidirectional", 2) => &[false, true],
        (name, n) => return Err(Fault::shape(format!("`direction` = {name:?} with weights of {n}"))),
    };
    lengths(site, steps)?;
    if cell == Cell::Lstm {
        if site.optional(7).is_some() {
            return Err(Fault::unsupported("peepholes").help("export the model without the operand P"));
        }
        if site.attrs.flag("input_forget", false)? {
            return Err(Fault::unsupported("`input_forget` = 1 is not supported"));
        }
    }
    let layer = RnnLayer {
        cell,
        steps,
        batch,
        hidden,
        clip: site.attrs.float("clip")?,
        before_reset: cell == Cell::Gru && site.attrs.flag("linear_before_reset", false)?,
    };
    let functions = functions(site, cell, directions)?;
    let (bias, h, c) = (site.optional(3), site.optional(5), if cell == Cell::Lstm { site.optional(6) } else { None });
    let mut states = Vec::new();
    for v in [h, c] {
        states.push(match v {
            Some(v) if batch_first => Some(layout::transpose(site, v, &[1, 0, 2], "state")?),
            other => other,
        });
    }
    let (mut all, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
    for (d, &backwards) in backwards.iter().enumerate() {
        let direction = Direction {
            w: weights.w[d],
            r: weights.r[d],
            bias: match bias {
                Some(b) => {
                    let both = matrix(site, b, d, &[2 * rows], "bias")?;
                    Some((part(site, both, 0, 0..rows)?, part(site, both, 0, rows..2 * rows)?))
                }
                None => None,
            },
            functions: functions[d].clone(),
            h: initial(site, &layer, states[0], d)?,
            c: initial(site, &layer, states[1], d)?,
        };
        let (hs, c) = layer.run(site, x, direction, backwards)?;
        last_h.push(if backwards { hs[0] } else { hs[steps - 1] });
        last_c.extend(c);
        all.push(hs);
    }
    layer.results(site, &all, &last_h, &last_c, batch_first)
}

fn rank3(site: &Site, v: ValueId, what: &str) -> Outcome<[usize; 3]> {
    let dims = site.dims(v);
    dims.as_slice().try_into().map_err(|_| Fault::shape(format!("{what} of shape {dims:?}")))
}

/// Sequences of different lengths have no one number of steps.
fn lengths(site: &mut Site, steps: usize) -> Outcome<()> {
    let different =
        || Fault::unsupported("sequences of different lengths").help("leave out the operand `sequence_lens`");
    let Some(v) = site.optional(4) else { return Ok(()) };
    if site.constant(v).is_none() {
        return Err(different());
    }
    let lengths = site.int_list(4, "lengths")?.unwrap_or_default();
    if lengths.iter().all(|&n| usize::try_from(n) == Ok(steps)) { Ok(()) } else { Err(different()) }
}

/// The functions of each direction. Those that have parameters take the next ones that are given, or their own defaults.
fn functions(site: &mut Site, cell: Cell, directions: usize) -> Outcome<Vec<Vec<(Opcode, Attrs)>>> {
    let mut parameters = |name| site.attrs.floats(name).map(|v| v.unwrap_or_default().iter().copied());
    let (mut alphas, mut betas) = (parameters("activation_alpha")?, parameters("activation_beta")?);
    let default = cell.functions();
    let named = site.attrs.strings("activations")?;
    let names: Vec<String> = match named {
        Some(named) if !named.is_empty() => named,
        _ => default.iter().cycle().take(default.len() * directions).map(ToString::to_string).collect(),
    };
    if names.len() != default.len() * directions {
        return Err(Fault::shape(format!("`activations` names {} functions", names.len())));
    }
    let mut function = |name: &String| {
        let op = match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Opcode::Sigmoid,
            "tanh" => Opcode::Tanh,
            "relu" => Opcode::Relu,
            "hardsigmoid" => Opcode::HardSigmoid,
            "softsign" => Opcode::Softsign,
            "softplus" => Opcode::Softplus,
            "leakyrelu" => Opcode::LeakyRelu,
            "thresholdedrelu" => Opcode::ThresholdedRelu,
            "elu" => Opcode::Elu,
            _ => return Err(Fault::unsupported(format!("function {name} in `activations`"))),
        };
        let mut attrs = Attrs::new(op);
        for (key, given) in [(attr::ALPHA, &mut alphas), (attr::BETA, &mut betas)] {
            if let Some(value) = if attrs.has(key) { given.next() } else { None } {
                attrs = attrs.with(key, value);
            }
        }
        Ok((op, attrs))
    };
    let mut chosen = Vec::new();
    for names in names.chunks(default.len()) {
        chosen.push(names.iter().map(&mut function).collect::<Outcome<Vec<_>>>()?);
    }
    Ok(chosen)
}

/// Parameters of direction `d`.
fn matrix(site: &mut Site, v: ValueId, d: usize, dims: &[usize], suffix: &str) -> Outcome<ValueId> {
    let one = part(site, v, 0, d..d + 1)?;
    layout::reshape(site, one, dims, suffix)
}

/// The state before the first step; `None` if it is zero.
fn initial(site: &mut Site, layer: &RnnLayer, state: Option<ValueId>, d: usize) -> Outcome<Option<ValueId>> {
    let Some(v) = state else { return Ok(None) };
    let zero = site.constant(v).is_some_and(|t| t.as_f32().is_some_and(|v| v.iter().all(|&x| x == 0.0)));
    if zero { Ok(None) } else { matrix(site, v, d, &[layer.batch, layer.hidden], "state").map(Some) }
}

impl RnnLayer {
    /// All hidden values of a direction in the order of the input, and the last cell state.
    fn run(
        &self,
        site: &mut Site,
        x: ValueId,
        mut d: Direction,
        backwards: bool,
    ) -> Outcome<(Vec<ValueId>, Option<ValueId>)> {
        // Where nothing stands between the two products, their biases are one.
        let merged = self.cell != Cell::Gru;
        let input_bias = match d.bias {
            Some((wb, rb)) if merged => Some(apply(site, Opcode::Add, &[wb, rb], "bias")?),
            Some((wb, _)) => Some(wb),
            None => None,
        };
        let recurrent_bias = d.bias.map(|(_, rb)| rb).filter(|_| !merged);
        let operands: Vec<ValueId> = [x, d.w].into_iter().chain(input_bias).collect();
        let inputs = apply(site, Opcode::Linear, &operands, "inputs")?;
        let mut hs = vec![None; self.steps];
        let order: Vec<usize> = if backwards { (0..self.steps).rev().collect() } else { (0..self.steps).collect() };
        for t in order {
            let own = part(site, inputs, 0, t..t + 1)?;
            let own = layout::reshape(site, own, &[self.batch, self.cell.gates() * self.hidden], "step")?;
            let h = match self.cell {
                Cell::Rnn => {
                    let sum = self.sum(site, own, d.h, d.r)?;
                    self.function(site, &d.functions[0], sum, "h")?
                }
                Cell::Lstm => self.lstm(site, own, &mut d)?,
                Cell::Gru => self.gru(site, own, &d, recurrent_bias)?,
            };
            d.h = Some(h);
            hs[t] = Some(h);
        }
        Ok((hs.into_iter().flatten().collect(), d.c))
    }

    /// `own + h r^T`.
    fn sum(&self, site: &mut Site, own: ValueId, h: Option<ValueId>, r: ValueId) -> Outcome<ValueId> {
        let Some(h) = h else { return Ok(own) };
        let product = apply(site, Opcode::Linear, &[h, r], "recurrent")?;
        apply(site, Opcode::Add, &[own, product], "sum")
    }

    fn function(&self, site: &mut Site, function: &(Opcode, Attrs), x: ValueId, suffix: &str) -> Outcome<ValueId> {
        let x = match self.clip {
            Some(bound) if bound.is_finite() && bound > 0.0 => {
                let attrs = Attrs::new(Opcode::Clip).with(attr::MIN, -bound).with(attr::MAX, bound);
                site.emit(Opcode::Clip, &[x], attrs, "clipped")?
            }
            Some(bound) => return Err(Fault::shape(format!("`clip` is {bound}"))),
            None => x,
        };
        site.emit(function.0, &[x], function.1.clone(), suffix)
    }

    fn gate(&self, site: &mut Site, x: ValueId, gates: std::ops::Range<usize>) -> Outcome<ValueId> {
        part(site, x, 1, gates.start * self.hidden..gates.end * self.hidden)
    }

    /// `i, o, f = s(x W + h R)`, `c = f c + i g(x W + h R)`, `h = o k(c)` (Hochreiter and Schmidhuber 1997, with forget gates).
    fn lstm(&self, site: &mut Site, own: ValueId, d: &mut Direction) -> Outcome<ValueId> {
        let sum = self.sum(site, own, d.h, d.r)?;
        let (gates, new) = (self.gate(site, sum, 0..3)?, self.gate(site, sum, 3..4)?);
        let gates = self.function(site, &d.functions[0], gates, "gates")?;
        let new = self.function(site, &d.functions[1], new, "new")?;
        let input = self.gate(site, gates, 0..1)?;
        let mut c = apply(site, Opcode::Mul, &[input, new], "input")?;
        if let Some(before) = d.c {
            let forget = self.gate(site, gates, 2..3)?;
            let kept = apply(site, Opcode::Mul, &[forget, before], "kept")?;
            c = apply(site, Opcode::Add, &[kept, c], "c")?;
        }
        d.c = Some(c);
        let output = self.gate(site, gates, 1..2)?;
        let (op, attrs) = &d.functions[2];
        let shown = site.emit(*op, &[c], attrs.clone(), "shown")?;
        apply(site, Opcode::Mul, &[output, shown], "h")
    }

    /// `z, r = s(x W + h R)`, `n = g(x W + r (h R + b))` or `g(x W + (r h) R + b)`, `h = n + z (h - n)` (Cho et al. 2014).
    fn gru(&self, site: &mut Site, own: ValueId, d: &Direction, bias: Option<ValueId>) -> Outcome<ValueId> {
        let rows = self.hidden;
        let zero = site.floats(&[self.batch, rows], vec![0.0; self.batch * rows], "zero");
        let h = d.h.unwrap_or(zero);
        let linear = |site: &mut Site, x: ValueId, rows: std::ops::Range<usize>| {
            let r = part(site, d.r, 0, rows.clone())?;
            let bias = bias.map(|b| part(site, b, 0, rows)).transpose()?;
            let operands: Vec<ValueId> = [x, r].into_iter().chain(bias).collect();
            apply(site, Opcode::Linear, &operands, "recurrent")
        };
        let (own_gates, own_new) = (self.gate(site, own, 0..2)?, self.gate(site, own, 2..3)?);
        let gates = linear(site, h, 0..2 * rows)?;
        let gates = apply(site, Opcode::Add, &[own_gates, gates], "sum")?;
        let gates = self.function(site, &d.functions[0], gates, "gates")?;
        let (update, reset) = (self.gate(site, gates, 0..1)?, self.gate(site, gates, 1..2)?);
        let new = if self.before_reset {
            let product = linear(site, h, 2 * rows..3 * rows)?;
            apply(site, Opcode::Mul, &[reset, product], "reset")?
        } else {
            let product = apply(site, Opcode::Mul, &[reset, h], "reset")?;
            linear(site, product, 2 * rows..3 * rows)?
        };
        let new = apply(site, Opcode::Add, &[own_new, new], "sum")?;
        let new = self.function(site, &d.functions[1], new, "new")?;
        let difference = apply(site, Opcode::Sub, &[h, new], "difference")?;
        let kept = apply(site, Opcode::Mul, &[update, difference], "kept")?;
        apply(site, Opcode::Add, &[new, kept], "h")
    }

    /// Y `[steps, directions, batch, hidden]`, and the last states `[directions, batch, hidden]`.
    fn results(
        &self,
        site: &mut Site,
        all: &[Vec<ValueId>],
        last_h: &[ValueId],
        last_c: &[ValueId],
        batch_first: bool,
    ) -> Outcome<Vec<ValueId>> {
        let (batch, hidden, directions) = (self.batch, self.hidden, all.len());
        let join = |site: &mut Site, parts: &[ValueId], suffix: &str| {
            let rows: Vec<ValueId> =
                parts.iter().map(|&v| layout::reshape(site, v, &[1, batch, hidden], "row")).collect::<Outcome<_>>()?;
            match rows.as_slice() {
                [one] => Ok(*one),
                rows => site.emit(Opcode::Concat, rows, Attrs::new(Opcode::Concat).with(attr::AXIS, 0), suffix),
            }
        };
        let ordered: Vec<ValueId> = (0..self.steps).flat_map(|t| all.iter().map(move |hs| hs[t])).collect();
        let rows = join(site, &ordered, "all")?;
        let mut y = layout::reshape(site, rows, &[self.steps, directions, batch, hidden], "y")?;
        let (mut h, mut c) = (join(site, last_h, "last")?, None);
        if !last_c.is_empty() {
            c = Some(join(site, last_c, "cell")?);
        }
        if batch_first {
            y = layout::transpose(site, y, &[2, 0, 1, 3], "y")?;
            h = layout::transpose(site, h, &[1, 0, 2], "last")?;
            c = c.map(|c| layout::transpose(site, c, &[1, 0, 2], "cell")).transpose()?;
        }
        Ok([y, h].into_iter().chain(c).collect())
    }
}
