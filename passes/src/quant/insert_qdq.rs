//! Quantizes weights and makes every change between real and quantized explicit: operators compute on real numbers between
//! a `quant.dcast` of each operand and a `quant.qcast` of the result.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b) : tensor<1x8x4x4x!out>
//! // becomes
//! %x.dq = quant.dcast(%x)                   : tensor<1x3x4x4xf32>
//! %w.dq = quant.dcast(@w.q)                 : tensor<8x3x3x3xf32>      // w.q: !quant.uniform<i8<-127:127>:f32:0, {..}>
//! %b.dq = quant.dcast(@b.q)                 : tensor<8xf32>            // b.q: !quant.uniform<i32:f32:0, {..}>
//! %y    = nn.conv2d(%x.dq, %w.dq, %b.dq)    : tensor<1x8x4x4xf32>
//! %y.q  = quant.qcast(%y)                   : tensor<1x8x4x4x!out>
//! ```
//!
//! Weights are symmetric in `[-127, 127]`, one scale an output channel: `Sw[c] = max|w[c]| / 127`. A bias has the scale
//! `Sx * Sw[c]` of the accumulators (Jacob et al. 2018, section 2.4). A channel whose weights almost vanish gets a greater
//! scale, so that its bias fits the accumulator and its requantization factor `Sx * Sw[c] / Sy` keeps its precision.
//! A layer whose operand or result has 16 bits, or its weights, which then come as `i16` (`assign-scales`), sums in 64 bits: its
//! scales follow the weights alone down to channels that vanish, and its bias is `i64` where the products have more than 16 bits.
//! There is one `quant.dcast` for each use: real values have one reader each.

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::ops::Dialect;
use qcc_ir::{Attrs, Data, Diags, Edit, Elem, Graph, Int, NodeId, Opcode, Tensor, Uniform, ValueId};
use qcc_num::wide;

use crate::quant::precision::is_16;
use crate::rewrite::floats;
use crate::{Context, Pass, diag_at};

/// Least requantization factor: its multiplier keeps at least 18 bits before a common shift.
const LEAST_FACTOR: f64 = 1.0 / (1u32 << 20) as f64;

/// Greatest weight of 16 bits: two signed bytes.
const FINE: f64 = 127.0 * 256.0;

/// Greatest accumulator that a bias may take up by itself.
pub(crate) const GREATEST_BIAS: f64 = (1u32 << 29) as f64;

/// The pass `insert-qdq`.
pub struct InsertQdq;

impl Pass for InsertQdq {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            match edit.graph().op(n).info().dialect() {
                Dialect::Nn | Dialect::Tensor => node(edit, n, &mut faults),
                Dialect::Quant | Dialect::Int => {}
            }
        }
        faults.into_result()?;
        inputs(edit);
        outputs(edit);
        edit.remove_dead();
        Ok(())
    }
}

fn cast(edit: &mut Edit, op: Opcode, v: ValueId, name: &str, elem: Elem) -> ValueId {
    let g = edit.graph();
    let ty = g.ty(v).with_elem(elem);
    let origin = g.producer(v).and_then(|n| g.node(n).origin.clone());
    edit.add(op, &[v], Attrs::new(op), name, ty, origin)
}

fn dcast(edit: &mut Edit, v: ValueId) -> ValueId {
    let name = edit.graph().name_of(v).to_string();
    let name = format!("{}.dq", name.strip_suffix(".q").unwrap_or(&name));
    cast(edit, Opcode::DCast, v, &name, Elem::F32)
}

/// The value becomes real, and whatever read it reads its `quant.qcast`.
fn qcast(edit: &mut Edit, v: ValueId) {
    let Elem::Uniform(uniform) = edit.graph().ty(v).elem.clone() else { return };
    let name = format!("{}.q", edit.graph().name_of(v));
    edit.set_elem(v, Elem::F32);
    let q = cast(edit, Opcode::QCast, v, &name, Elem::Uniform(uniform));
    let caster = edit.graph().producer(q);
    edit.replace_uses(v, q);
    if let Some(caster) = caster {
        edit.set_operand(caster, 0, v);
    }
}

fn node(edit: &mut Edit, n: NodeId, faults: &mut Diags) {
    let g = edit.graph();
    let y = g.result(n);
    let quantized = g.ty(y).uniform().cloned();
    let operands = g.operands(n);
    let reads = operands.iter().any(|&v| g.ty(v).uniform().is_some());
    // Positions of elements are the same whether these are real or quantized.
    let positions = matches!(g.ty(y).elem, Elem::Int(_));
    if quantized.is_none() && (!reads || positions) {
        return;
    }
    let label = format!("insert-qdq: %{} = {}", g.name_of(y), g.op(n).name());
    if !edit.begin(label) {
        return;
    }
    if matches!(edit.graph().op(n), Opcode::Conv2d | Opcode::Linear)
        && let Err(message) = parameters(edit, n, quantized.as_deref())
    {
        faults.0.push(diag_at(edit.graph(), n, Code::NO_INTEGER_FORM, message));
        return;
    }
    for (i, v) in edit.graph().operands(n).into_iter().enumerate() {
        if edit.graph().ty(v).uniform().is_some() {
            let real = dcast(edit, v);
            edit.set_operand(n, i, real);
        }
    }
    qcast(edit, y);
}

fn inputs(edit: &mut Edit) {
    for x in edit.graph().inputs().to_vec() {
        // What nothing reads is as good quantized.
        if edit.graph().is_output(x) || !edit.graph().uses(x).is_empty() {
            qcast(edit, x);
        }
    }
}

fn outputs(edit: &mut Edit) {
    let outputs = edit.graph().outputs().to_vec();
    let real = outputs.into_iter().map(|v| if edit.graph().ty(v).uniform().is_some() { dcast(edit, v) } else { v });
    let real = real.collect();
    edit.set_outputs(real);
}

/// Replaces the weights and the bias of a layer by quantized constants; weights that are quantized already stay.
fn parameters(edit: &mut Edit, n: NodeId, result: Option<&Uniform>) -> Result<(), String> {
    let g = edit.graph();
    let operands = g.operands(n);
    let x = g.ty(operands[0]).uniform().cloned();
    let bias = operands.get(2).map(|&b| constant(g, b)).transpose()?.map(|(_, b)| b);
    let sx = x.as_deref().map_or(1.0, |u| f64::from(u.scale()));
    let is_fine = is_16(g, operands[0]) || is_16(g, operands[1]) || result.is_some_and(|u| u.storage == Int::I16);
    let (scales, weights) = match g.ty(operands[1]).uniform().filter(|_| g.constant(operands[1]).is_some()) {
        Some(u) => (u.scales.clone(), None),
        None => {
            let weights = Weights::round(g, n, x.as_deref(), result)?;
            (weights.uniform.scales.clone(), Some(weights))
        }
    };
    let bias = bias.map(|b| if is_fine { fine_bias(b, sx, &scales) } else { quantized_bias(b, sx, &scales) });
    let (w_name, b_name) = (name_of(g, operands[1]), operands.get(2).map(|&b| name_of(g, b)));
    if let Some(weights) = weights {
        let w = edit.add_typed_const(&w_name, weights.codes, Elem::Uniform(weights.uniform));
        edit.set_operand(n, 1, w);
    }
    if let (Some((bias, ty)), Some(name)) = (bias, b_name) {
        let b = edit.add_typed_const(&name, bias, ty);
        edit.set_operand(n, 2, b);
    }
    Ok(())
}

fn constant(g: &Graph, v: ValueId) -> Result<(&Tensor, &[f32]), String> {
    floats(g, v).ok_or_else(|| format!("%{} is not constant", g.name_of(v)))
}

/// The weights of a layer as integers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    pub(crate) codes: Tensor,
    pub(crate) uniform: Arc<Uniform>,
}

impl Weights {
    /// Each weight of layer `n` rounded to the nearest, between an input and a result of these types.
    pub(crate) fn round(g: &Graph, n: NodeId, x: Option<&Uniform>, y: Option<&Uniform>) -> Result<Weights, String> {
        let operands = g.operands(n);
        let (tensor, w) = constant(g, operands[1])?;
        let bias = operands.get(2).map(|&b| constant(g, b)).transpose()?.map(|(_, b)| b);
        let scale = |u: Option<&Uniform>| u.map_or(1.0, |u| f64::from(u.scale()));
        let wide = |u: Option<&Uniform>| u.is_some_and(|u| u.storage == Int::I16);
        let scales = match wide(x) || wide(y) {
            // Sums of 64 bits: any bias fits.
            true => scales_of(tensor, w, None, 127.0, wide::LEAST_FACTOR * scale(y) / scale(x))?,
            false => weight_scales(tensor, w, bias, scale(x), scale(y))?,
        };
        Ok(quantized_weights(tensor, w, scales))
    }

    /// The same integers with scales that are multiplied, one factor for each output channel.
    pub(crate) fn scaled(self, factors: impl Iterator<Item = f64>) -> Weights {
        let scales = self.uniform.scales.iter().zip(factors);
        let scales = scales.map(|(&s, f)| ((f64::from(s) * f) as f32).max(f32::MIN_POSITIVE)).collect();
        Weights { codes: self.codes, uniform: Arc::new(Uniform { scales, ..self.uniform.as_ref().clone() }) }
    }

    /// What the integers stand for.
    pub(crate) fn real(&self) -> Tensor {
        let mut real = Vec::with_capacity(self.codes.data.len());
        (0..self.uniform.scales.len()).for_each(|c| real.extend(self.channel(c)));
        Tensor::f32(&self.codes.dims, real)
    }

    /// What the integers of an output channel stand for: weights of a channel fit memory once more where those of a layer do not.
    pub(crate) fn channel(&self, c: usize) -> Vec<f32> {
        let scale = self.uniform.scales[c];
        let row = self.codes.data.len() / self.uniform.scales.len().max(1);
        let row = c * row..(c + 1) * row;
        match &self.codes.data {
            Data::I8(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::U8(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::I16(v) => v[row].iter().map(|&q| f32::from(q) * scale).collect(),
            Data::I32(v) => v[row].iter().map(|&q| q as f32 * scale).collect(),
            Data::I64(v) => v[row].iter().map(|&q| q as f32 * scale).collect(),
            Data::F32(v) => v[row].to_vec(),
        }
    }
}

fn name_of(g: &Graph, v: ValueId) -> String {
    format!("{}.q", g.name_of(v))
}

/// One scale for each output channel, as said in the header.
pub(crate) fn weight_scales(
    tensor: &Tensor,
    w: &[f32],
    bias: Option<&[f32]>,
    sx: f64,
    sy: f64,
) -> Result<Vec<f32>, String> {
    scales_of(tensor, w, bias.map(|b| (b, sx)), 127.0, LEAST_FACTOR * sy / sx)
}

/// Scales that give the greatest weight of each channel the code `greatest`, but none below `least` or one for which its bias, in
/// units of a scale `sx` of the operand, exceeds the accumulators.
fn scales_of(
    tensor: &Tensor,
    w: &[f32],
    bias: Option<(&[f32], f64)>,
    greatest: f64,
    least: f64,
) -> Result<Vec<f32>, String> {
    let channels = tensor.dims.first().copied().unwrap_or(0);
    let row = w.len() / channels.max(1);
    let mut scales = Vec::with_capacity(channels);
    for c in 0..channels {
        let largest = w[c * row..(c + 1) * row]
            .iter()
            .fold(0.0f64, |m, &x| if x.is_finite() { m.max(f64::from(x).abs()) } else { f64::NAN });
        let b = bias.map_or(0.0, |(b, sx)| f64::from(b[c]).abs() / sx);
        if !(largest + b).is_finite() || w[c * row..(c + 1) * row].iter().any(|x| !x.is_finite()) {
            return Err(format!("the parameters of output channel {c} are not finite"));
        }
        let least = least.max(b / GREATEST_BIAS);
        scales.push(((largest / greatest).max(least) as f32).max(f32::MIN_POSITIVE));
    }
    Ok(scales)
}

/// Weights with one scale an output channel.
pub(crate) fn quantized_weights(tensor: &Tensor, w: &[f32], scales: Vec<f32>) -> Weights {
    let row = w.len() / scales.len().max(1);
    let code = |(i, &x): (usize, &f32)| qcc_num::edge::quantize(x, scales[i / row], 0, -127, 127) as i8;
    let codes = Tensor::new(&tensor.dims, Data::I8(w.iter().enumerate().map(code).collect()));
    let zero_points = vec![0; scales.len()];
    let uniform = Uniform { storage: Int::I8, min: -127, max: 127, axis: Some(0), scales, zero_points };
    Weights { codes, uniform: Arc::new(uniform) }
}

/// Weights of 16 bits with one scale an output channel, between scales of the operand and the result.
pub(crate) fn fine(tensor: &Tensor, w: &[f32], sx: f64, sy: f64) -> Result<Weights, String> {
    let scales = scales_of(tensor, w, None, FINE, wide::LEAST_FACTOR * sy / sx)?;
    let row = (w.len() / scales.len().max(1)).max(1);
    let (least, greatest) = (-FINE as i32, FINE as i32);
    let code = |(i, &x): (usize, &f32)| qcc_num::edge::quantize(x, scales[i / row], 0, least, greatest) as i16;
    let codes = Tensor::new(&tensor.dims, Data::I16(w.iter().enumerate().map(code).collect()));
    let (min, max, zero_points) = (i64::from(least), i64::from(greatest), vec![0; scales.len()]);
    let uniform = Uniform { storage: Int::I16, min, max, axis: Some(0), scales, zero_points };
    Ok(Weights { codes, uniform: Arc::new(uniform) })
}

/// A bias in units of sums of 64 bits.
pub(crate) fn fine_bias(bias: &[f32], sx: f64, scales: &[f32]) -> (Tensor, Elem) {
    let (_, elem) = quantized_bias(&vec![0.0; bias.len()], sx, scales);
    let Elem::Uniform(uniform) = elem else { unreachable!("a quantized bias has a quantized type") };
    let bound = wide::GREATEST_BIAS as f64 / 2.0;
    let code = |(&b, &s): (&f32, &f32)| (f64::from(b) / f64::from(s)).round().clamp(-bound, bound) as i64;
    let codes = bias.iter().zip(&uniform.scales).map(code).collect();
    let uniform = Uniform { storage: Int::I64, min: i64::MIN, max: i64::MAX, ..(*uniform).clone() };
    (Tensor::new(&[bias.len()], Data::I64(codes)), Elem::Uniform(Arc::new(uniform)))
}

/// A bias in units of the accumulators.
pub(crate) fn quantized_bias(bias: &[f32], sx: f64, scales: &[f32]) -> (Tensor, Elem) {
    let steps: Vec<f32> = scales.iter().map(|&s| ((sx * f64::from(s)) as f32).max(f32::MIN_POSITIVE)).collect();
    let code = |(&b, &s): (&f32, &f32)| {
        (f64::from(b) / f64::from(s)).round().clamp(-2.0 * GREATEST_BIAS, 2.0 * GREATEST_BIAS) as i32
    };
    let codes = bias.iter().zip(&steps).map(code).collect();
    let zero_points = vec![0; steps.len()];
    let uniform = Uniform { axis: Some(0), scales: steps, zero_points, ..Uniform::per_tensor(Int::I32, 1.0, 0) };
    (Tensor::new(&[bias.len()], Data::I32(codes)), Elem::Uniform(Arc::new(uniform)))
}
