//! Replaces float operators by integer operators with dynamic scales, found at run time: no samples and no ranges are needed.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b)
//! // becomes, with %x a u8 and %x.scale its mantissa and exponent
//! %y.acc     = int.conv2d(%x.nhwc, @y.weights, @y.zeros)            // zeros: -Zx * sum(w)
//! %y.extrema = int.extrema(%y.acc)                                  // least and greatest of each channel
//! %y.params  = int.dynamic_scale(%y.extrema, %x.scale, @y.scales, @y.bias) // scale of y, biases, multipliers
//! %y.nhwc    = int.dynamic_requant(%y.acc, %y.params)
//! %y         = tensor.transpose(%y.nhwc)
//! ```
//!
//! The arithmetic is that of [`qcc_num::dynamic`]. An input `x` becomes the u8 `x` and, after all inputs, the i32 pair
//! `x.scale`; an output `y` likewise. The type of codes, of scale 1, says their zero point: 128, or 0 behind a rectifier.
//!
//! | operator | form |
//! |---|---|
//! | convolution, linear layer, with the rectifier that follows | as above |
//! | sum and difference of two values | `int.dynamic_add` of aligned operands, then as above |
//! | batch normalization, product and sum with constants of each channel | a depthwise convolution of 1x1 |
//! | mean and sum over axes, average pooling | a depthwise convolution with weights of 1 |
//! | product of two values | `int.dynamic_mul`, then as above |
//! | product with a positive constant | the scale changes, the codes stay |
//! | product of two matrices | `int.matmul`, then as above |
//! | layer, group and instance normalization | `int.dynamic_norm`, then as above |
//! | concatenation | `int.dynamic_rescale` to the scale of `int.common_scale`, which has room for all; to 16 bits where it leaves the graph |
//! | softmax along any axis | `int.softmax` with the table of `int.exp_table` |
//! | mask before a softmax | `tensor.where` with code 0, which this softmax switches off |
//! | selection between two values | `tensor.where` of both in the scale of `int.common_scale` |
//! | function of one value | `int.dynamic_lut` with a table that `int.dynamic_table` makes of samples, or `int.dynamic_curve` where it is steep |
//! | quotient of two values | the product with the reciprocal, a function |
//! | greater or lesser of two values | `int.max_pool` of both in the scale of `int.common_scale` |
//! | slopes of each channel | a depthwise convolution over what is above and what is below 0 |
//! | greatest elements, data movement, rectifier | codes change or move, the scale stays |
//!
//! A layer takes in the rectifier that follows it, with or without an upper bound.

mod binary;
mod combine;
mod function;
mod layer;
mod multiply;
mod window;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::ops::{Class, Move};
use qcc_ir::{
    Attrs, Change, Data, Diag, Diags, Edit, Elem, Fact, Graph, Int, NodeId, Opcode, Origin, Tensor, Type, Uniform,
    ValueId, attr,
};
use qcc_num::convert::nearest_i32;
use qcc_num::dynamic::{SCALE_SUFFIX, SIGNED_ZERO};
use qcc_num::edge::LEAST_SCALE;

use crate::constants;
use crate::quant::decades::{is_guarded, is_uneven};
use crate::rewrite::{either, floats, is_live, per_channel, scalar};
use crate::{Context, Pass};

/// Constants are below: beyond are masks, which would take the codes from all that is not masked.
const MOST: f32 = 1e6;

/// The pass `lower-to-dynamic`.
pub struct LowerToDynamic;

/// What belongs to the codes of a value.
#[derive(Clone, Copy)]
struct Dynamic {
    /// Begins with mantissa and exponent.
    scale: ValueId,
    zero: u8,
}

/// What operators have made that others can use.
#[derive(Default)]
struct Made {
    /// Axes and parts of concatenations.
    joined: HashMap<ValueId, (i64, Vec<(ValueId, Dynamic)>)>,
    /// Values of which code 0 is switched off.
    masked: HashSet<ValueId>,
    /// Constants with samples of functions.
    samples: HashMap<Vec<i32>, ValueId>,
}

/// Says which operands have too few codes if small numbers are among them, or rows of small ones.
fn remark_uneven(edit: &mut Edit) {
    let g = edit.graph();
    let uneven: Vec<NodeId> = g.order().into_iter().filter(|&n| is_uneven(g, n)).collect();
    let Some((&first, others)) = uneven.split_first() else { return };
    let (place, count) = (g.describe(first), others.len());
    let more = if count > 0 { format!(", and {count} more,") } else { String::new() };
    edit.remark(format!(
        "{place}{more} has 8 bits to read at run time, which are coarse for small numbers: --calibrate finds what needs more, and gives it more"
    ));
}

impl Pass for LowerToDynamic {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        remark_uneven(edit);
        let (mut known, mut made) = (HashMap::new(), Made::default());
        inputs(edit, &mut known);
        let mut faults = Diags::default();
        let mut done = HashSet::new();
        for n in edit.graph().order() {
            let g = edit.graph();
            if done.contains(&n) || !is_live(g, n) {
                continue;
            }
            if makes_integers(g, n) {
                let message = format!("`{}` has no form with dynamic scales", g.op(n).name());
                let help = "compile with --mode int8_static, or cut the model before it";
                faults.0.push(Diag::new(Code::NO_INTEGER_FORM, message).help(help).at(g.describe(n)));
                continue;
            }
            if is_guarded(g, n) {
                let what = "small numbers count in its operand as much as great ones, of which 8 bits tell nothing";
                let message = format!("`{}` has no form with dynamic scales: {what}", g.op(n).name());
                let help = "compile with --mode int8_static and samples (--calibrate): such operands then have 16 bits";
                faults.0.push(Diag::new(Code::NO_INTEGER_FORM, message).help(help).at(g.describe(n)));
                continue;
            }
            // What depends on a fault is none of its own.
            if g.operands(n).iter().any(|&v| g.ty(v).is_float() && g.constant(v).is_none()) || moves_integers(g, n) {
                continue;
            }
            let label = format!("lower-to-dynamic: %{} = {}", g.name_of(g.result(n)), g.op(n).name());
            let Some(mut change) = edit.begin(label) else {
                break;
            };
            let g = change.graph();
            let location = g.describe(n);
            let relu = g.only_user(g.result(n)).filter(|&r| is_rectifier(g, r) && !g.is_output(g.result(n)));
            let y = g.result(n);
            let (name, origin) = (g.name_of(y).to_string(), g.node(n).origin.clone());
            let mut lower = Lower { change: &mut change, known: &known, made: &mut made, n, y, relu, name, origin };
            match lower.node() {
                Ok((v, dynamic)) => {
                    let relu = lower.relu;
                    let replaced = relu.map_or(y, |r| change.graph().result(r));
                    change.replace(replaced, v);
                    known.insert(v, dynamic);
                    done.extend(relu);
                }
                Err(diag) => faults.0.push(diag.at(location)),
            }
        }
        faults.into_result()?;
        outputs(edit, &known);
        Fact::ALL.into_iter().for_each(|fact| edit.clear_metadata(fact));
        edit.remove_dead();
        Ok(())
    }
}

/// Every real input becomes codes; the scales of all follow.
fn inputs(edit: &mut Edit, known: &mut HashMap<ValueId, Dynamic>) {
    for x in edit.graph().inputs().to_vec() {
        let g = edit.graph();
        if !g.ty(x).is_float() {
            continue;
        }
        let (dims, name) = (g.ty(x).dims.clone(), g.name_of(x).to_string());
        let label = format!("lower-to-dynamic: input %{name}");
        let Some(mut change) = edit.begin(label) else {
            return;
        };
        change.set_type(x, codes(&dims, SIGNED_ZERO));
        let scale_name = scale_name(&mut change, &name);
        let scale = change.add_input(&scale_name, Type::int(Int::I32, &[2]));
        known.insert(x, Dynamic { scale, zero: SIGNED_ZERO });
    }
}

/// The scales of all real outputs follow the outputs.
fn outputs(edit: &mut Edit, known: &HashMap<ValueId, Dynamic>) {
    let mut outputs = edit.graph().outputs().to_vec();
    for y in outputs.clone() {
        let Some(dynamic) = known.get(&y) else { continue };
        let name = edit.graph().name_of(y).to_string();
        let Some(mut change) = edit.begin(format!("lower-to-dynamic: output %{name}")) else { return };
        let name = scale_name(&mut change, &name);
        let attrs = Attrs::new(Opcode::Slice)
            .with(attr::STARTS, vec![0i64])
            .with(attr::ENDS, vec![2i64])
            .with(attr::STEPS, vec![1i64]);
        let ty = Type::int(Int::I32, &[2]);
        outputs.push(change.add(Opcode::Slice, &[dynamic.scale], attrs, &name, ty, None));
        change.set_outputs(outputs.clone());
    }
}

/// Name of the scale of an input or output. Hosts find it by this name: a value that happens to have it gets another.
fn scale_name(change: &mut Change, name: &str) -> String {
    let name = format!("{name}{SCALE_SUFFIX}");
    if let Some(other) = change.graph().find(&name) {
        change.rename(other, &format!("{name}.own"));
    }
    name
}

/// What makes integers of real numbers that are no positions: codes tell these only with their scale.
fn makes_integers(g: &Graph, n: NodeId) -> bool {
    let to_numbers = g.op(n) == Opcode::CastTo && matches!(g.ty(g.result(n)).elem, Elem::Int(_));
    let of_codes = g.ty(g.operands(n)[0]).uniform().is_some();
    of_codes && (to_numbers || g.op(n) == Opcode::MaxPoolIndex)
}

/// Positions and other integers: what computes them takes codes as well as real numbers.
fn moves_integers(g: &Graph, n: NodeId) -> bool {
    matches!(g.op(n).info().class, Class::Move(_)) && !g.ty(g.result(n)).is_float()
}

/// A rectifier, which may have an upper bound.
fn is_rectifier(g: &Graph, n: NodeId) -> bool {
    match g.op(n) {
        Opcode::Relu => true,
        Opcode::Clip => {
            let (min, max) = (g.node(n).attrs.get(attr::MIN), g.node(n).attrs.get(attr::MAX));
            min == 0.0 && max > 0.0 && max.is_finite()
        }
        _ => false,
    }
}

/// The type of codes: how far from their zero point they are, in units of the dynamic scale.
fn codes(dims: &[usize], zero: u8) -> Type {
    Type { dims: dims.to_vec(), elem: Elem::Uniform(Arc::new(Uniform::per_tensor(Int::U8, 1.0, i64::from(zero)))) }
}

/// The operation that is being replaced.
struct Lower<'a, 'g> {
    change: &'a mut Change<'g>,
    known: &'a HashMap<ValueId, Dynamic>,
    made: &'a mut Made,
    n: NodeId,
    y: ValueId,
    /// The rectifier that is the only reader of the result; taken away by forms that cannot take it in.
    relu: Option<NodeId>,
    name: String,
    origin: Option<Arc<Origin>>,
}

impl Lower<'_, '_> {
    fn node(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let op = self.g().op(self.n);
        match op {
            Opcode::Conv2d => self.conv2d(),
            Opcode::Linear => self.linear(),
            Opcode::Add | Opcode::Sub if self.operands().iter().all(|v| self.known.contains_key(v)) => self.sum(),
            Opcode::Mul if self.factor().is_some() => {
                self.relu = None;
                self.scaled()
            }
            Opcode::Mul if self.operands().iter().all(|v| self.known.contains_key(v)) => self.product_of_values(),
            Opcode::Pow if scalar(self.g(), self.operands()[1]) == Some(2.0) => self.product_of_values(),
            Opcode::Add if let Some((operand, mask)) = self.mask() => self.masked(operand, &mask),
            Opcode::Where => {
                self.relu = None;
                self.select()
            }
            Opcode::Sub => self.elements(),
            Opcode::Add | Opcode::Mul | Opcode::BatchNorm => self.channels(),
            Opcode::AveragePool | Opcode::ReduceMean | Opcode::ReduceSum => self.mean(),
            Opcode::MatMul => self.matmul(),
            Opcode::LayerNorm => self.layer_norm(),
            Opcode::Relu => {
                self.relu = None;
                let (x, own) = self.data(0)?;
                let attrs = Attrs::new(Opcode::Clamp).with(attr::LO, i64::from(own.zero));
                let ty = self.g().ty(x).clone();
                Ok((self.add(Opcode::Clamp, &[x], attrs, "", ty), own))
            }
            Opcode::MaxPool | Opcode::ReduceMax => {
                self.relu = None;
                let x = self.data(0)?;
                self.maximum(x)
            }
            Opcode::ReduceMin => {
                self.relu = None;
                self.minimum()
            }
            Opcode::Div if self.one_value().is_none() => self.quotient(),
            Opcode::Max | Opcode::Min if self.one_value().is_none() => {
                self.relu = None;
                self.extreme(op == Opcode::Max)
            }
            Opcode::PRelu if self.one_value().is_none() => self.slopes(),
            Opcode::Pad if self.attrs().get(attr::VALUE) != 0.0 => {
                self.relu = None;
                self.padded()
            }
            Opcode::Concat if self.operands().len() > 1 => {
                self.relu = None;
                self.concat()
            }
            Opcode::Softmax => {
                self.relu = None;
                self.softmax()
            }
            _ if self.one_value().is_some() => {
                self.relu = None;
                self.function()
            }
            _ => {
                self.relu = None;
                self.movement()
            }
        }
    }

    fn g(&self) -> &Graph {
        self.change.graph()
    }

    fn operands(&self) -> Vec<ValueId> {
        self.g().operands(self.n)
    }

    fn dims(&self, v: ValueId) -> Vec<usize> {
        self.g().ty(v).dims.clone()
    }

    fn attrs(&self) -> Attrs {
        self.g().node(self.n).attrs.clone()
    }

    /// The operand and what belongs to its codes. A constant gets codes for its greatest element.
    fn data(&mut self, i: usize) -> Result<(ValueId, Dynamic), Diag> {
        let v = self.operands()[i];
        if let Some(&own) = self.known.get(&v) {
            return Ok((v, own));
        }
        let (dims, data) = match floats(self.g(), v) {
            Some((tensor, data)) => (tensor.dims.clone(), data.to_vec()),
            None => return Err(self.no_form(format_args!("operand {i} is no real number"))),
        };
        let greatest = data.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        if !data.iter().all(|x| x.abs() < MOST) {
            return Err(self.no_form(format_args!("beside {greatest:e} of operand {i} nothing else has codes")));
        }
        // Zeros take no room from what they meet.
        let unit = (f64::from(greatest) / 127.0).max(f64::from(f32::from_bits(LEAST_SCALE)));
        let code =
            |&x: &f32| u8::try_from(nearest_i32(f64::from(x) / unit) + i32::from(SIGNED_ZERO)).unwrap_or(u8::MAX);
        let tensor = Tensor::new(&dims, Data::U8(data.iter().map(code).collect()));
        let name = format!("{}.q", self.g().name_of(v));
        let q = self.change.add_typed_const(&name, tensor, codes(&dims, SIGNED_ZERO).elem);
        Ok((q, Dynamic { scale: self.known_scale("q.scale", unit), zero: SIGNED_ZERO }))
    }

    fn no_form(&self, what: impl std::fmt::Display) -> Diag {
        let g = self.g();
        let shapes: Vec<_> = self.operands().iter().map(|&v| format!("{:?}", g.ty(v).dims)).collect();
        let message = format!("`{}` has no form with dynamic scales: {what}", g.op(self.n).name());
        let help = format!("its operands have shapes {}; compile with --mode int8_static", shapes.join(", "));
        Diag::new(Code::NO_INTEGER_FORM, message).help(help)
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str, ty: Type) -> ValueId {
        let name = format!("{}{suffix}", self.name);
        self.change.add(op, operands, attrs, &name, ty, self.origin.clone())
    }

    fn transposed(&mut self, v: ValueId, perm: [usize; 4], suffix: &str) -> ValueId {
        let (ty, name) = (self.g().ty(v).clone(), self.g().name_of(v).to_string());
        let name = if suffix.is_empty() { self.name.clone() } else { format!("{name}{suffix}") };
        let dims: Vec<usize> = perm.iter().map(|&p| ty.dims[p]).collect();
        let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, perm.as_slice());
        self.change.add(Opcode::Transpose, &[v], attrs, &name, Type { dims, elem: ty.elem }, self.origin.clone())
    }

    fn nhwc(&mut self, v: ValueId) -> ValueId {
        self.transposed(v, [0, 2, 3, 1], ".nhwc")
    }

    fn nchw(&mut self, v: ValueId) -> ValueId {
        self.transposed(v, [0, 3, 1, 2], "")
    }

    /// The positive constant that the other operand is multiplied with.
    fn factor(&self) -> Option<f64> {
        let factor =
            |c, x| scalar(self.g(), c).filter(|_| self.known.contains_key(&x) && self.dims(x) == self.dims(self.y));
        either(self.g(), self.n, factor).map(|(c, _)| f64::from(c)).filter(|c| *c > 0.0 && c.is_finite())
    }

    /// Broadcast to the shape of the result.
    fn expanded(&mut self, v: ValueId) -> ValueId {
        let dims = self.dims(self.y);
        if self.dims(v) == dims {
            return v;
        }
        let ty = Type { dims: dims.clone(), elem: self.g().ty(v).elem.clone() };
        self.add(Opcode::Expand, &[v], Attrs::new(Opcode::Expand).with(attr::SHAPE, dims.as_slice()), ".expanded", ty)
    }

    /// In the shape of the result.
    fn flattened(&mut self, v: ValueId) -> ValueId {
        let dims = self.dims(self.y);
        let ty = Type { dims: dims.clone(), elem: self.g().ty(v).elem.clone() };
        self.add(Opcode::Reshape, &[v], Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice()), "", ty)
    }

    /// What moves codes without computing.
    fn movement(&mut self) -> Result<(ValueId, Dynamic), Diag> {
        let op = self.g().op(self.n);
        let Class::Move(kind) = op.info().class else { return Err(self.no_form("its range is not that of a sum")) };
        let (x, own) = self.data(0)?;
        let operands = self.operands();
        let mut attrs = self.attrs();
        match kind {
            Move::Reshape | Move::Transpose | Move::Slice | Move::Expand | Move::Gather | Move::TopK => {}
            Move::Pad if attrs.get(attr::VALUE) == 0.0 => attrs = attrs.with(attr::VALUE, f32::from(own.zero)),
            Move::Concat if operands.len() == 1 => {}
            _ => return Err(self.no_form("it takes elements of several values")),
        }
        let operands: Vec<ValueId> = [x].into_iter().chain(operands.into_iter().skip(1)).collect();
        let ty = Type { dims: self.dims(self.y), elem: self.g().ty(x).elem.clone() };
        Ok((self.add(op, &operands, attrs, "", ty), own))
    }

    /// `a[c] x + b[c]`: the constants of an operation on each channel of `[N, C, H, W]`.
    fn affine(&self) -> Option<(ValueId, Vec<f64>, Vec<f64>)> {
        let g = self.g();
        let dims = self.dims(self.y);
        let doubles = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<f64>>();
        let operands = self.operands();
        if g.op(self.n) == Opcode::BatchNorm {
            let (a, b) = constants::batch_norm(g, self.n)?;
            return Some((operands[0], a, b));
        }
        let (constant, x) = either(g, self.n, |c, x| {
            self.known.contains_key(&x).then_some(())?;
            let all = |s: f32| vec![s; dims.get(1).copied().unwrap_or(0)];
            scalar(g, c).map(all).or_else(|| per_channel(g, c, &dims, 1)).map(doubles)
        })?;
        let ones = |x: f64| vec![x; constant.len()];
        Some(match g.op(self.n) {
            Opcode::Mul => (x, constant.clone(), ones(0.0)),
            _ => (x, ones(1.0), constant),
        })
    }
}
