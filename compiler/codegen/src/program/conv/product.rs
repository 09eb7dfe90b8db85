//! What a product with constant weights computes, whatever the machine.

use std::ops::Range;

use qcc_ir::ops::Class;
use qcc_ir::ops::IntOp;
use qcc_ir::window::Window;
use qcc_ir::{Diags, Graph, NodeId, ValueId, attr};
use qcc_num::requant::Epilogue;

use super::border_rows::{self, RowRange};
use super::storage;
use crate::kernel::microkernel::fast_inner::weight_term;
use crate::kernel::microkernel::{Output, Residual};
use crate::plan::{BufferView, Halo, halo_window};
use crate::program::builder::{Builder, Operation, bug};
use crate::program::collapse::Loops;

/// A product with constant weights.
#[derive(Clone)]
pub struct Product<'a> {
    /// NHWC activations, with halo. A matrix product [M, K] is one row of M pixels with K channels.
    pub x: BufferView,
    /// NHWC result.
    pub result: BufferView,
    /// The window.
    pub window: Window,
    /// Number of groups.
    pub groups: usize,
    /// `[O, KH, KW, C / groups]`.
    pub weights: &'a [i8],
    /// `[O]`.
    pub bias: &'a [i32],
    /// `[O]` multipliers and the rule, or nothing where the accumulators are the result.
    pub requant: Option<(Vec<i32>, Epilogue)>,
    /// Where the extrema of accumulators go, if they are the result and their extrema are wanted: [`crate::plan::PART_EXTREMA`] bytes for
    /// each chunk of each image, those of a block behind each other.
    pub extrema: Option<BufferView>,
    /// Added before the last rounding, with its multiplier.
    pub residual: Option<(BufferView, u16)>,
    /// Greatest magnitude of any accumulator.
    pub acc_bound: u32,
    /// Greatest activation, padding included.
    pub greatest: u8,
    /// What the padding holds.
    pub pad_value: i32,
    /// Whether weights are few enough values for codes.
    pub can_be_codes: bool,
    /// The terms of pixels, i32, where activations are 16-bit numbers: then it is fast inner products.
    pub terms: Option<BufferView>,
}

/// Channels of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupChannels {
    /// Those of the activations.
    pub inputs: usize,
    /// Those of the result.
    pub outputs: usize,
}

/// The window of a matrix product.
const POINT: Window = Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4], dilations: [1, 1] };

/// Whether an operation slides a window; the others are matrix products.
fn is_conv(op: IntOp) -> bool {
    matches!(op, IntOp::Conv2d | IntOp::QConv2d)
}

/// The window of a product. Along an axis with one result it takes no step, however long that would be.
fn window(graph: &Graph, node: NodeId, op: IntOp) -> Window {
    if !is_conv(op) {
        return POINT;
    }
    let (mut window, result) = (halo_window(graph, node), &graph.ty(graph.result(node)).dims);
    window.strides = [0, 1].map(|axis| if result[axis + 1] == 1 { 1 } else { window.strides[axis] });
    window
}

impl<'a> Product<'a> {
    /// The product that an operation stands for.
    pub fn new(b: &Builder<'a>, o: &Operation<'_>, op: IntOp) -> Result<Product<'a>, Diags> {
        let &Operation { value, node, attrs, operands, result, .. } = o;
        let values = b.graph.operands(node);
        let weights = b.constant(values[1], node)?.as_i8();
        let weights = weights.ok_or_else(|| bug(format!("{value}: weights are not i8")))?;
        let bias = b.constant(values[2], node)?.as_i32();
        let bias = bias.ok_or_else(|| bug(format!("{value}: bias is not i32")))?;
        let fused = matches!(op, IntOp::QConv2d | IntOp::QLinear);
        let requant = if fused {
            let mult = b.constant(values[3], node)?.as_i32();
            let mult = mult.ok_or_else(|| bug(format!("{value}: multipliers are not i32")))?;
            let each = if mult.len() == 1 { vec![mult[0]; bias.len()] } else { mult.to_vec() };
            Some((each, attrs.epilogue()))
        } else {
            None
        };
        let residual = operands.get(4).filter(|_| fused);
        let images: Vec<&BufferView> = [&operands[0], result].into_iter().chain(residual).collect();
        let images = match is_conv(op) {
            true => images.into_iter().cloned().collect(),
            false => {
                rows_as_pixels(&images).ok_or_else(|| bug(format!("{value}: a matrix of widely scattered rows")))?
            }
        };
        let window = window(b.graph, node, op);
        let pad_value = if is_conv(op) { attrs.get(attr::PAD_VALUE) as i32 } else { 0 };
        let extrema = b.plan.part_extrema.get(&result.buffer).filter(|_| !fused);
        Ok(Product {
            x: images[0].clone(),
            result: images[1].clone(),
            window,
            groups: if is_conv(op) { attrs.get(attr::GROUPS) as usize } else { 1 },
            weights,
            bias,
            requant,
            extrema: extrema.map(|&offset| BufferView { offset, ..result.clone() }),
            residual: images.get(2).map(|image| (image.clone(), attrs.get(attr::RESIDUAL_MULT) as u16)),
            acc_bound: accumulator_bound(weights, bias),
            greatest: b.greatest.get(&values[0]).map_or(u8::MAX, |&greatest| greatest.max(pad_value as u8)),
            pad_value,
            can_be_codes: storage::can_be_codes(b.graph, node),
            terms: None,
        })
    }

    /// A product as it is for estimates, before it is known where its operands lie: it is not requantized, and its activations lie in a halo of their own.
    pub fn sketch(graph: &'a Graph, node: NodeId, greatest: u8) -> Option<Product<'a>> {
        let Class::Int(op) = graph.op(node).info().class else { return None };
        let operands = graph.operands(node);
        let image = |value: ValueId, halo: &Halo| {
            let view = BufferView::with_halo(0, graph.ty(value), halo).0;
            if is_conv(op) { Some(view) } else { rows_as_pixels(&[&view])?.pop() }
        };
        let window = window(graph, node, op);
        let [top, left, bottom, right] = window.pads;
        let halo = Halo { top, left, bottom, right, value: 0 };
        let weights = graph.constant(*operands.get(1)?)?.as_i8()?;
        let bias = graph.constant(*operands.get(2)?)?.as_i32()?;
        Some(Product {
            x: image(operands[0], &halo)?,
            result: image(graph.result(node), &Halo::NONE)?,
            window,
            groups: if is_conv(op) { graph.node(node).attrs.get(attr::GROUPS) as usize } else { 1 },
            weights,
            bias,
            requant: None,
            extrema: None,
            residual: None,
            acc_bound: u32::MAX,
            greatest,
            pad_value: 0,
            can_be_codes: false,
            terms: None,
        })
    }

    /// Channels of a group.
    pub fn group_channels(&self) -> GroupChannels {
        GroupChannels { inputs: self.x.dims[3] / self.groups, outputs: self.result.dims[3] / self.groups }
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        let [n, h, w, o] = self.result.dims[..] else { return 0 };
        let taps = self.window.kernel[0] * self.window.kernel[1] * self.group_channels().inputs;
        (n * h * w * o) as u64 * taps as u64
    }

    /// True if each group has one channel in and out.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.group_channels() == GroupChannels { inputs: 1, outputs: 1 }
    }

    /// Weights of the channels of a block.
    pub fn weights_of(&self, channels: &Range<usize>) -> &'a [i8] {
        let per_channel = self.weights.len() / self.bias.len();
        &self.weights[channels.start * per_channel..channels.end * per_channel]
    }

    /// How the rows of the result can be cut: all alike, and with border rows if there are any.
    pub fn row_ranges(&self) -> Vec<Vec<RowRange>> {
        let rows = self.result.dims[1];
        let several = border_rows::of(&self.window, self.x.dims[1], rows).filter(|_| self.extrema.is_none());
        std::iter::once(vec![RowRange::whole(rows)]).chain(several).collect()
    }

    /// The biases in some rows: with what the kernel rows add that meet only padding, without what weights add too much to fast inner products.
    pub fn biases(&self, range: &RowRange) -> Vec<i32> {
        let row = self.weights.len() / self.bias.len() / self.window.kernel[0];
        let [first, last] = range.left_out;
        let padding = |weights: &[i8]| {
            let rows = weights[..first * row].iter().chain(&weights[weights.len() - last * row..]);
            self.pad_value.wrapping_mul(rows.map(|&w| i32::from(w)).sum())
        };
        let channels = self.weights.chunks(row * self.window.kernel[0]);
        let too_much = |weights| if self.terms.is_some() { weight_term(weights) } else { 0 };
        let bias = |(bias, weights): (&i32, _)| bias.wrapping_add(padding(weights)).wrapping_sub(too_much(weights));
        self.bias.iter().zip(channels).map(bias).collect()
    }

    /// What becomes of the accumulators.
    pub fn output(&self) -> Output {
        match &self.requant {
            None if self.extrema.is_some() => Output::Measured,
            None => Output::Raw,
            Some((_, epilogue)) => Output::Requant {
                epilogue: *epilogue,
                residual: self.residual.as_ref().map(|(view, mult)| Residual {
                    mult: *mult,
                    pixel_step: view.strides[2],
                    row_step: view.strides[1],
                }),
                acc_bound: Some(self.acc_bound),
            },
        }
    }

    /// The product in words.
    pub fn describe(&self, op: IntOp) -> String {
        let (w, inputs, outputs) = (&self.window, self.x.dims[3], self.result.dims[3]);
        let fused = if self.residual.is_some() { " + residual" } else { "" };
        if !is_conv(op) {
            let rows: usize = self.result.dims[..3].iter().product();
            return format!("matmul {rows}x{inputs}x{outputs}{fused}");
        }
        let groups = if self.groups > 1 { format!(" groups {}", self.groups) } else { String::new() };
        let stride = if w.strides == [1, 1] { String::new() } else { format!(" stride {}", w.strides[0]) };
        format!(
            "conv {}x{} {inputs}->{outputs} @{}x{}{stride}{groups}{fused}",
            w.kernel[0], w.kernel[1], self.result.dims[1], self.result.dims[2]
        )
    }
}

/// Matrices [.., K] as images of pixels with K channels: of one row if the rows of all of them are evenly spaced, of more where one
/// lies in a halo or in another value.
fn rows_as_pixels(views: &[&BufferView]) -> Option<Vec<BufferView>> {
    let outer = views.first()?.dims.split_last()?.1;
    let strides: Vec<&[usize]> = views.iter().map(|p| &p.strides[..outer.len()]).collect();
    let loops = Loops::new(outer, &strides);
    if loops.outer.len() > 2 {
        return None;
    }
    let image = |(i, view): (usize, &&BufferView)| {
        let (&k, &last) = (view.dims.last()?, view.strides.last()?);
        let step = if loops.run == 1 { k * last } else { loops.inner[i] };
        let (mut dims, mut strides) = (vec![loops.run, k], vec![step, last]);
        for level in loops.outer.iter().rev() {
            dims.insert(0, level.extent);
            strides.insert(0, level.strides[i]);
        }
        while dims.len() < 4 {
            strides.insert(0, dims[0] * strides[0]);
            dims.insert(0, 1);
        }
        Some(BufferView { dims, strides, ..(*view).clone() })
    };
    views.iter().enumerate().map(image).collect()
}

/// Greatest magnitude that any channel's accumulator can reach on activations of 0 to 255.
fn accumulator_bound(weights: &[i8], bias: &[i32]) -> u32 {
    let per_channel = weights.len() / bias.len().max(1);
    let bound = |(w, b): (&[i8], &i32)| {
        let products: u64 = w.iter().map(|w| u64::from(w.unsigned_abs()) * 255).sum();
        u64::from(b.unsigned_abs()) + products
    };
    let greatest = weights.chunks(per_channel.max(1)).zip(bias).map(bound).max().unwrap_or(0);
    u32::try_from(greatest).unwrap_or(u32::MAX)
}
