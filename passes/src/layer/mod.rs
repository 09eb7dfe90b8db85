//! A convolution or linear layer as one value: what passes that fit, round, equalize, correct, adopt, lower or prove know of
//! it, read from a graph in one way and written back in one way.
//!
//! A layer looks the same at every level. Its parameters are constants of real numbers, or codes with their quantization, also
//! behind a `quant.dcast`; its input and output have their quantization, whether it is in the types of the values themselves
//! or, where casts are explicit, in those before the `quant.dcast` and behind the `quant.qcast`.

mod bias;
mod receptive_field;
pub(crate) mod table;
mod weights;

use std::sync::Arc;

use qcc_ir::ops::{Contract, IntOp};
use qcc_ir::{Change, Class, Elem, Format, Graph, Int, NodeId, Opcode, Tensor, Uniform, ValueId, Window, attr, format};

use crate::constants::dequantized;
use crate::rewrite::add_cast;

pub use bias::{GREATEST_BIAS, bias_32, bias_64};
pub(crate) use receptive_field::ReceptiveField;
pub use weights::LEAST_FACTOR;
pub(crate) use weights::{WeightCodes, quantized_weights, scales_for_64_bit_sums};

/// A layer with constant parameters.
#[derive(Debug, Clone)]
pub(crate) struct QuantLayer {
    pub(crate) node: NodeId,
    pub(crate) op: Opcode,
    pub(crate) input: Activation,
    pub(crate) output: Activation,
    pub(crate) weights: Parameter,
    pub(crate) bias: Option<Parameter>,
    /// The format that weights of real numbers are to have.
    pub(crate) weights_format: Format,
    /// Groups of a convolution; 1 for linear layers.
    pub(crate) groups: usize,
    /// The window of a convolution.
    pub(crate) window: Option<Window>,
    /// Whether the layer computes on real numbers between casts.
    explicit: bool,
}

/// A value that a layer reads or gives.
#[derive(Debug, Clone)]
pub(crate) struct Activation {
    /// The value in quantized form, if it has one.
    pub(crate) value: ValueId,
    pub(crate) dims: Vec<usize>,
    pub(crate) quantization: Option<Arc<Uniform>>,
}

/// Weights or bias of a layer.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// Name of the constant.
    pub(crate) name: String,
    /// Real numbers, or codes.
    pub(crate) tensor: Arc<Tensor>,
    /// What codes stand for.
    pub(crate) quantization: Option<Arc<Uniform>>,
}

/// A constant that becomes a parameter of a layer.
pub(crate) struct NewParameter {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    pub(crate) elem: Elem,
}

/// Why there is no [`QuantLayer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLayer {
    /// The operation is none.
    Other,
    /// Its weights are computed.
    Weights(ValueId),
    /// Its bias is computed.
    Bias(ValueId),
}

impl NoLayer {
    /// The reason in words.
    pub(crate) fn message(self, g: &Graph) -> String {
        match self {
            NoLayer::Other => "it is neither a convolution nor a linear layer".to_string(),
            NoLayer::Weights(v) => format!("the weights of a layer must be constant, and %{} is not", g.name_of(v)),
            NoLayer::Bias(v) => format!("the bias of a layer must be constant, and %{} is not", g.name_of(v)),
        }
    }
}

/// Whether the operation is a convolution or a linear layer on real numbers or quantized types.
pub(crate) fn is_layer(op: Opcode) -> bool {
    matches!(op.info().class, Class::Contract(Contract::Conv2d | Contract::Linear))
}

impl Activation {
    /// The scale, or 1 if it has none.
    pub(crate) fn scale(&self) -> f64 {
        self.quantization.as_ref().map_or(1.0, |u| f64::from(u.scale()))
    }

    fn is_above_8_bits(&self) -> bool {
        self.quantization.as_ref().is_some_and(|u| !u.format.fits_byte())
    }

    /// What the layer reads, behind a cast or not.
    fn read(g: &Graph, v: ValueId) -> Activation {
        let cast = g.producer(v).filter(|&p| g.op(p) == Opcode::DCast).map(|p| g.operands(p)[0]);
        let value = cast.unwrap_or(v);
        Activation { value, dims: g.ty(v).dims.clone(), quantization: g.ty(value).uniform().cloned() }
    }

    /// What becomes of the result, before a cast or not.
    fn given(g: &Graph, y: ValueId) -> Activation {
        let cast = g.uses(y).first().filter(|(n, _)| g.op(*n) == Opcode::QCast).map(|&(n, _)| g.result(n));
        let value = if g.ty(y).uniform().is_some() { y } else { cast.unwrap_or(y) };
        Activation { value, dims: g.ty(y).dims.clone(), quantization: g.ty(value).uniform().cloned() }
    }
}

impl Parameter {
    fn read(g: &Graph, v: ValueId) -> Option<Parameter> {
        let (c, tensor, quantization) = match g.constant(v) {
            Some(tensor) => (v, tensor.clone(), g.ty(v).uniform().cloned()),
            None => dequantized(g, v).map(|(c, tensor, uniform)| (c, tensor, Some(uniform)))?,
        };
        Some(Parameter { name: g.name_of(c).to_string(), tensor, quantization })
    }

    /// The real numbers, if it consists of them.
    pub(crate) fn reals(&self) -> Option<&[f32]> {
        self.tensor.as_f32()
    }

    /// The scale of codes of an output channel, or 1 for real numbers.
    pub(crate) fn scale(&self, channel: usize) -> f32 {
        match &self.quantization {
            Some(u) if u.axis.is_none() => u.scale(),
            Some(u) => u.scales[channel],
            None => 1.0,
        }
    }

    /// Whether all codes stand for what is proportional to them.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.quantization.as_ref().is_some_and(|u| u.zero_points.iter().all(|&z| z == 0))
    }
}

impl QuantLayer {
    /// Reads the layer that `n` is.
    pub(crate) fn read(g: &Graph, n: NodeId) -> Result<QuantLayer, NoLayer> {
        let op = g.op(n);
        // Height and width among the dimensions of the weights.
        let kernel_at = match op.info().class {
            Class::Contract(Contract::Conv2d) => Some(2),
            Class::Int(IntOp::Conv2d | IntOp::QConv2d) => Some(1),
            Class::Contract(Contract::Linear) | Class::Int(IntOp::Linear | IntOp::QLinear) => None,
            _ => return Err(NoLayer::Other),
        };
        let (operands, attrs) = (g.operands(n), &g.node(n).attrs);
        let (x, w) = (operands[0], operands[1]);
        let weights = Parameter::read(g, w).ok_or(NoLayer::Weights(w))?;
        let bias = match operands.get(2) {
            Some(&b) => Some(Parameter::read(g, b).ok_or(NoLayer::Bias(b))?),
            None => None,
        };
        let kernel = kernel_at.and_then(|at| <[usize; 2]>::try_from(weights.tensor.dims.get(at..at + 2)?).ok());
        let groups = if kernel_at.is_some() { usize::try_from(attrs.get(attr::GROUPS)).unwrap_or(1).max(1) } else { 1 };
        Ok(QuantLayer {
            node: n,
            op,
            input: Activation::read(g, x),
            output: Activation::given(g, g.result(n)),
            weights_format: attrs.try_get(attr::WEIGHTS).unwrap_or_else(|| format::I8.clone()),
            groups,
            window: kernel.map(|kernel| Window::conv(attrs, kernel)),
            explicit: g.producer(x).is_some_and(|p| g.op(p) == Opcode::DCast),
            weights,
            bias,
        })
    }

    /// Number of output channels.
    pub(crate) fn outputs(&self) -> usize {
        self.weights.tensor.dims.first().copied().unwrap_or(0)
    }

    /// Number of input channels of a group, before channels come last.
    pub(crate) fn per_group(&self) -> usize {
        self.weights.tensor.dims.get(1).copied().unwrap_or(0)
    }

    /// Number of positions of the window.
    pub(crate) fn taps(&self) -> usize {
        self.window.map_or(1, |w| w.kernel.iter().product())
    }

    /// Number of weights of an output channel.
    pub(crate) fn depth(&self) -> usize {
        self.weights.tensor.data.len() / self.outputs().max(1)
    }

    /// The input channel that weight `k` of output channel `o` is multiplied with, before channels come last.
    pub(crate) fn input_channel(&self, o: usize, k: usize) -> usize {
        o / (self.outputs() / self.groups).max(1) * self.per_group() + k / self.taps().max(1)
    }

    /// Whether channels are an axis of the input: those of a linear layer are its last dimension, which is axis 1 of a matrix only.
    pub(crate) fn reads_channels(&self) -> bool {
        self.window.is_some() || self.input.dims.len() == 2
    }

    /// Whether every channel is filtered by itself.
    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.outputs() && self.per_group() == 1
    }

    /// The bias in real numbers, 0 for each channel where there is none; `None` if it is quantized.
    pub(crate) fn real_bias(&self) -> Option<Vec<f32>> {
        self.bias.as_ref().map_or_else(|| Some(vec![0.0; self.outputs()]), |b| b.reals().map(<[f32]>::to_vec))
    }

    /// Whether products have more than 16 bits, so that their sums take 64: an operand or the result has more than 8.
    pub(crate) fn sums_in_64_bits(&self) -> bool {
        let weights = self.weights.quantization.as_ref().is_some_and(|u| !u.format.fits_byte());
        self.input.is_above_8_bits() || self.output.is_above_8_bits() || weights
    }

    /// The weights as integers: their own, or each rounded to the nearest.
    pub(crate) fn rounded(&self) -> Result<WeightCodes, String> {
        match &self.weights.quantization {
            Some(u) => Ok(WeightCodes { codes: self.weights.tensor.as_ref().clone(), uniform: u.clone() }),
            None => WeightCodes::nearest(self),
        }
    }

    /// Bounds within which the accumulators of each output channel lie, for any input of 8 bits without a sign. `None` unless
    /// weights and bias are the integers of an integer operator.
    pub(crate) fn accumulator_bounds(&self) -> Option<Vec<(i64, i64)>> {
        let (w, bias) = (self.weights.tensor.as_i8()?, self.bias.as_ref()?.tensor.as_i32()?);
        let row = w.len() / bias.len().max(1);
        let bound = |(c, &b): (usize, &i32)| {
            let (mut lo, mut hi) = (i64::from(b), i64::from(b));
            for &w in &w[c * row..(c + 1) * row] {
                lo += Int::U8.max() * i64::from(w.min(0));
                hi += Int::U8.max() * i64::from(w.max(0));
            }
            (lo, hi)
        };
        Some(bias.iter().enumerate().map(bound).collect())
    }

    /// Name of new weights.
    pub(crate) fn weights_name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.weights.name)
    }

    /// Name of a new bias; a layer without one is named after.
    pub(crate) fn bias_name(&self, g: &Graph, suffix: &str) -> String {
        match &self.bias {
            Some(b) => format!("{}{suffix}", b.name),
            None => format!("{}.bias{suffix}", g.name_of(g.result(self.node))),
        }
    }

    /// Gives the layer other weights, another bias, or both; integers come behind a `quant.dcast` where casts are explicit.
    pub(crate) fn write(&self, change: &mut Change, weights: Option<NewParameter>, bias: Option<NewParameter>) {
        let mut operands = change.graph().operands(self.node);
        if let Some(weights) = weights {
            operands[1] = self.add(change, weights);
        }
        if let Some(bias) = bias {
            operands.truncate(2);
            operands.push(self.add(change, bias));
        }
        change.set_operands(self.node, &operands);
    }

    fn add(&self, change: &mut Change, new: NewParameter) -> ValueId {
        let is_real = new.elem == Elem::F32;
        let constant = change.add_typed_const(&new.name, new.tensor, new.elem);
        if self.explicit && !is_real { add_cast(change, Opcode::DCast, constant, Elem::F32) } else { constant }
    }
}
