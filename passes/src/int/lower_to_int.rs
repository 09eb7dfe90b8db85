//! Replaces every operator on quantized types by integer operators with a single rounding.
//!
//! ```text
//! %y = nn.conv2d(%x, @w.q, @b.q) {pads = [1, 1, 1, 1]} : tensor<1x8x4x4x!y>          // x: scale Sx, zero point Zx
//! // becomes
//! %x.nhwc = tensor.transpose(%x) {perm = [0, 2, 3, 1]}
//! %y.acc  = int.conv2d(%x.nhwc, @w, @b) {pads = [1, 1, 1, 1], pad_value = Zx}         // w OHWI, b - Zx * sum(w)
//! %y.nhwc = int.requant(%y.acc, @y.mult) {offset = .., shl = ..}                       // Sx * Sw[c] / Sy
//! %y      = tensor.transpose(%y.nhwc) {perm = [0, 3, 1, 2]}
//! ```
//!
//! | operator | integer form | module |
//! |---|---|---|
//! | convolution, linear layer | `int.conv2d`, `int.linear`, then `int.requant` (Jacob et al. 2018, section 2.2) | `layer` |
//! | any function of one value | `int.lut`, or `int.clamp` where that is all it does | `elementwise` |
//! | sum, difference, product | `int.add`, `int.mul`; with constants `int.scale_channels` or `int.lut` | `elementwise` |
//! | the same with `exact`, to the bit of other runtimes | the same, or `int.lut2` | `exact` |
//! | other functions of two values | `int.lut2` | `elementwise` |
//! | product of two computed matrices | `int.qmatmul` | `layer` |
//! | batch normalization | `int.scale_channels` | `elementwise` |
//! | layer, group and instance normalization | `int.layer_norm` | `window` |
//! | pooling, reductions, softmax | `int.max_pool`, `int.average_pool`, `int.mean`, `int.softmax` | `window` |
//! | data movement | stays | |
//! | all of these with 16 bits on either side | sums of products of bytes, then `int.combine` | `int16` |
//!
//! Results keep the quantized types: they say what the integers stand for. Inputs and outputs that the model has as codes with a
//! sign (`signed_codes`) keep it (module `signs`). Everything without an integer form is reported
//! at once.

mod elementwise;
mod exact;
mod int16;
mod layer;
mod signs;
mod window;

pub(crate) use window::elements_inside;

use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::ops::{Binary, Cast, Contract, Move, Norm, Pool};
use qcc_ir::{
    Attrs, Change, Class, Diag, Diags, Edit, Elem, Fact, Graph, Int, NodeId, Opcode, Origin, Tensor, Type, Uniform,
    ValueId, attr,
};
use qcc_num::{ScaleError, affine};

use crate::{Context, Options, Pass};

/// The pass `lower-to-int`.
pub struct LowerToInt {
    exact: bool,
}

impl LowerToInt {
    /// The pass with its options.
    pub fn new(options: &Options) -> LowerToInt {
        LowerToInt { exact: options.exact() }
    }
}

impl Pass for LowerToInt {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let mut faults = Diags::default();
        for n in edit.graph().order() {
            let g = edit.graph();
            if !needs_lowering(g, n) {
                continue;
            }
            let y = g.result(n);
            let label = format!("lower-to-int: %{} = {}", g.name_of(y), g.op(n).name());
            let Some(mut change) = edit.begin(label) else {
                break;
            };
            let (name, origin) = (change.graph().name_of(y).to_string(), change.graph().node(n).origin.clone());
            let location = change.graph().describe(n);
            let mut lower = Lower { change: &mut change, n, y, name, origin, exact: self.exact };
            match lower.node() {
                Ok(v) => change.replace(y, v),
                Err(diag) => faults.0.push(diag.at(location)),
            }
        }
        faults.into_result()?;
        signs::restore(edit);
        Fact::ALL.into_iter().for_each(|fact| edit.clear_metadata(fact));
        edit.remove_dead();
        Ok(())
    }
}

fn needs_lowering(g: &Graph, n: NodeId) -> bool {
    match g.op(n).info().class {
        Class::Int(_) => false,
        Class::Move(Move::Cast) => {
            let from_whole = matches!(g.ty(g.operands(n)[0]).elem, Elem::Int(_) | Elem::Bool);
            !from_whole || is_real(g, n) || g.ty(g.result(n)).uniform().is_some()
        }
        Class::Move(kind) => kind == Move::MaxPoolIndex || is_real(g, n),
        Class::Unary(_)
        | Class::Binary(_)
        | Class::Contract(_)
        | Class::Pool(_)
        | Class::Reduce(_)
        | Class::Norm(_)
        | Class::Cast(_) => true,
    }
}

fn is_real(g: &Graph, n: NodeId) -> bool {
    g.ty(g.result(n)).is_float()
}

/// An 8-bit type as the arithmetic wants it.
#[derive(Clone)]
struct Bytes {
    uniform: Arc<Uniform>,
    scale: f64,
    zero: u8,
}

/// The operation that is being replaced.
struct Lower<'a, 'g> {
    change: &'a mut Change<'g>,
    n: NodeId,
    y: ValueId,
    name: String,
    origin: Option<Arc<Origin>>,
    /// Whether results are those of the runtime for which the model was quantized: see [`exact`].
    exact: bool,
}

impl Lower<'_, '_> {
    /// The value that takes the place of the result.
    fn node(&mut self) -> Result<ValueId, Diag> {
        if self.op() == Opcode::CastTo && matches!(self.g().ty(self.operand(0)).elem, Elem::Int(_)) {
            return self.number();
        }
        if self.has_int16() {
            return self.int16();
        }
        match self.op().info().class {
            Class::Unary(f) => self.unary(f),
            Class::Binary(kind @ (Binary::Add | Binary::Sub | Binary::Mul)) => self.arithmetic(kind),
            Class::Binary(kind @ (Binary::Div | Binary::Min | Binary::Max | Binary::Pow | Binary::PRelu)) => {
                self.other_binary(kind)
            }
            Class::Contract(Contract::Conv2d) => self.conv2d(),
            Class::Contract(Contract::Linear) => self.linear(),
            Class::Contract(Contract::MatMul) => self.matmul(),
            Class::Pool(Pool::Max) => self.max_pool(),
            Class::Pool(Pool::Average) => self.average_pool(),
            Class::Reduce(kind) => self.reduce(kind),
            Class::Norm(Norm::Batch) => self.batch_norm(),
            Class::Norm(Norm::Layer) => self.layer_norm(),
            Class::Norm(Norm::Softmax) => self.softmax(),
            Class::Cast(Cast::Requantize) => self.rescale(self.operand(0)),
            Class::Cast(Cast::Quantize | Cast::Dequantize) => Err(self.no_form("a cast that `fuse` could not take in")),
            Class::Move(Move::MaxPoolIndex) => Err(self
                .no_form("positions in windows are evaluated in float only")
                .help("cut the model before it, or unpool by `Resize` or `ConvTranspose`")),
            Class::Move(Move::Cast) if !is_real(self.g(), self.n) => self.whole(),
            Class::Move(_) => Err(self.no_form("moving floats")),
            Class::Int(_) => Ok(self.y),
        }
    }

    fn g(&self) -> &Graph {
        self.change.graph()
    }

    fn op(&self) -> Opcode {
        self.g().op(self.n)
    }

    fn attrs(&self) -> &Attrs {
        &self.g().node(self.n).attrs
    }

    fn operand(&self, i: usize) -> ValueId {
        self.g().operands(self.n)[i]
    }

    fn dims(&self, v: ValueId) -> Vec<usize> {
        self.g().ty(v).dims.clone()
    }

    fn no_form(&self, what: impl std::fmt::Display) -> Diag {
        let types: Vec<_> = self.g().operands(self.n).iter().map(|&v| self.g().ty(v).to_string()).collect();
        let message = format!("`{}` has no integer form here: {what}", self.op().name());
        Diag::new(Code::NO_INTEGER_FORM, message).help(format!("its operands are {}", types.join(", ")))
    }

    fn scale_error(&self, e: ScaleError) -> Diag {
        self.no_form(e).help("the ranges of its operands and its result are too far apart: check them")
    }

    /// The 8-bit type of a value.
    fn bytes(&self, v: ValueId) -> Result<Bytes, Diag> {
        match self.g().ty(v).uniform() {
            Some(u) if u.storage() == Int::U8 && u.axis.is_none() => Ok(Bytes {
                uniform: u.clone(),
                scale: f64::from(u.scale()),
                zero: u8::try_from(u.zero_point()).unwrap_or(0),
            }),
            Some(_) | None => Err(self.no_form(format_args!("%{} is no u8 with one scale", self.g().name_of(v)))),
        }
    }

    /// The product of scales over the scale of the result. A model that was quantized elsewhere means this factor as single
    /// precision gives it: runtimes compute it so, and a result near a tie shows the difference.
    fn factor(&self, scales: &[f32], result: f32) -> f64 {
        if self.exact {
            f64::from(scales.iter().product::<f32>() / result)
        } else {
            scales.iter().map(|&s| f64::from(s)).product::<f64>() / f64::from(result)
        }
    }

    /// Adds an operation that belongs to this one.
    fn emit(
        &mut self,
        op: Opcode,
        operands: &[ValueId],
        attrs: Attrs,
        suffix: &str,
        dims: &[usize],
        elem: Elem,
    ) -> ValueId {
        let name = format!("{}{suffix}", self.name);
        self.change.add(op, operands, attrs, &name, Type { dims: dims.to_vec(), elem }, self.origin.clone())
    }

    /// The same with the type of the result.
    fn emit_result(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str, dims: &[usize]) -> ValueId {
        let elem = self.g().ty(self.y).elem.clone();
        // A type of fewer bits, or one that keeps to a part of its storage, bounds the result.
        let attrs = match &elem {
            Elem::Uniform(u) if attrs.has(attr::LO) && (u.min(), u.max()) != (0, 255) && u.storage() == Int::U8 => {
                let (lo, hi) = (attrs.get(attr::LO), attrs.get(attr::HI));
                attrs.with(attr::LO, lo.clamp(u.min(), u.max())).with(attr::HI, hi.clamp(u.min(), u.max()))
            }
            _ => attrs,
        };
        self.emit(op, operands, attrs, suffix, dims, elem)
    }

    fn constant(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{suffix}", self.name);
        self.change.add_const(&name, tensor)
    }

    fn transpose(&mut self, v: ValueId, perm: &[usize], suffix: &str) -> ValueId {
        if perm.is_sorted() {
            return v;
        }
        let ty = self.g().ty(v).clone();
        let dims: Vec<usize> = perm.iter().map(|&p| ty.dims[p]).collect();
        let base = self.g().name_of(v);
        let name = if suffix.is_empty() { self.name.clone() } else { format!("{base}{suffix}") };
        let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, perm);
        self.change.add(Opcode::Transpose, &[v], attrs, &name, Type { dims, elem: ty.elem }, self.origin.clone())
    }

    /// `[N, C, H, W]` to `[N, H, W, C]`.
    fn nhwc(&mut self, v: ValueId) -> ValueId {
        self.transpose(v, &[0, 2, 3, 1], ".nhwc")
    }

    /// `[N, H, W, C]` to `[N, C, H, W]`.
    fn nchw(&mut self, v: ValueId) -> ValueId {
        self.transpose(v, &[0, 3, 1, 2], "")
    }

    /// The value in the type of the result.
    fn rescale(&mut self, v: ValueId) -> Result<ValueId, Diag> {
        if self.exact {
            return self.function(v, |x| x);
        }
        let (from, to) = (self.bytes(v)?, self.bytes(self.y)?);
        let factor = from.scale / to.scale;
        let (shift, mults) = affine::multipliers(&[factor]).map_err(|e| self.scale_error(e))?;
        let nearest = (mults[0], affine::offset(shift, to.zero, &[(from.zero, mults[0])]));
        let term = f64::from(to.zero) - factor * f64::from(from.zero);
        let (mult, offset) = affine::line(shift, factor, term).unwrap_or(nearest);
        let attrs = Attrs::new(Opcode::Rescale)
            .with(attr::MULT, i64::from(mult))
            .with(attr::SHIFT, i64::from(shift))
            .with(attr::OFFSET, i64::from(offset));
        let dims = self.dims(v);
        Ok(self.emit_result(Opcode::Rescale, &[v], attrs, "", &dims))
    }
}
