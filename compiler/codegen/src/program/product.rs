//! Products with constant weights: packing and the choice of their kernel.

use cranelift_module::{FuncId, Linkage};
use qcc_ir::diag::Code;
use qcc_ir::ops::IntOp;
use qcc_ir::window::Window;
use qcc_ir::{Diag, Diags, NodeId, Tensor, ValueId};

use super::conv::{self, Layout, Leaf, Product, Section};
use super::dynamic::Parts;
use super::step::Cost;
use super::wide_window::Factors;
use super::window::{self, Reduction};
use super::{Builder, bug, elementwise};
use crate::kernel::conv::{ConvSpec, emit_clif, machine_code, signature};
use crate::kernel::pack::{pack_channels, pack_multipliers, pack_weights};
use crate::kernel::tiling;
use crate::plan::{ALIGN, Place, halo_window};

impl Builder<'_> {
    pub(super) fn product(
        &mut self,
        name: &str,
        value: &str,
        node: NodeId,
        op: IntOp,
        operands: &[Place],
        result: &Place,
    ) -> Result<(), Diags> {
        let graph = self.graph;
        let values = graph.operands(node);
        let attrs = &graph.node(node).attrs;
        let (weights, bias) = (self.constant(values[1], node)?, self.constant(values[2], node)?);
        let weights = weights.as_i8().ok_or_else(|| bug(format!("{value}: weights are not i8")))?;
        let bias = bias.as_i32().ok_or_else(|| bug(format!("{value}: bias is not i32")))?;
        let is_conv = matches!(op, IntOp::Conv2d | IntOp::QConv2d);
        let fused = matches!(op, IntOp::QConv2d | IntOp::QLinear);
        let requant = if fused {
            let mult = self.constant(values[3], node)?;
            let mult = mult.as_i32().ok_or_else(|| bug(format!("{value}: multipliers are not i32")))?;
            let each = if mult.len() == 1 { vec![mult[0]; bias.len()] } else { mult.to_vec() };
            Some((each, elementwise::epilogue_of(attrs)))
        } else {
            None
        };
        let residual = operands.get(4).filter(|_| fused).map(|r| (r.clone(), attrs.int("residual_mult") as u16));
        let as_image = |p: &Place| if is_conv { Some(p.clone()) } else { rows_as_pixels(p) };
        let strided = || bug(format!("{value}: a matrix whose rows are not evenly spaced"));
        let residual = match residual {
            Some((place, mult)) => Some((as_image(&place).ok_or_else(strided)?, mult)),
            None => None,
        };
        let window = match is_conv {
            true => halo_window(graph, node),
            false => Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4], dilations: [1, 1] },
        };
        let extrema = self.plan.part_extrema.get(&result.buffer).filter(|_| !fused);
        let extrema = extrema.map(|&offset| Place { offset, ..result.clone() });
        let mut product = Product {
            x: as_image(&operands[0]).ok_or_else(strided)?,
            result: as_image(result).ok_or_else(strided)?,
            window,
            groups: if is_conv { attrs.int("groups") as usize } else { 1 },
            weights,
            bias,
            requant,
            extrema,
            residual,
            acc_bound: accumulator_bound(weights, bias),
            strip: 1,
            next_bytes: self.next_bytes,
            weight_bytes: 1,
            choice: self.options.tuning.get(value).copied().unwrap_or_default(),
        };
        let bytes = result.elements() * result.element;
        let described = describe(&product, is_conv);
        let weight_bytes = weights.len() as u64;
        let mut cost = Cost { macs: product.macs(), weight_bytes, ..Cost::of(described) };
        if product.is_depthwise() {
            return self.depthwise(name, value, &product, bytes, cost);
        }
        product.choose_strip(self.shape()).map_err(|why| {
            let message = format!("the tuning of `{value}`: {why}");
            Diag::new(Code::FLAGS, message).help("tune this model anew: --tune")
        })?;
        if let Some(section) = product.sections().first() {
            let panels = tiling::choose(&section.spec, self.shape());
            product.weight_bytes = panels.first().map_or(1, |panel| panel.stored_weight(self.shape()));
        }
        cost.choices = product.choices(self.shape());
        if product.extrema.is_some() {
            let (parts, blocks) = product.extrema_parts();
            self.part_extrema.insert(result.buffer, Parts { parts, blocks });
        }
        let sections = product.sections();
        let mut leaves = Vec::new();
        for (i, section) in sections.iter().enumerate() {
            let (data, layout) = self.pack(&format!("weights_{name}_{i}"), &product, section)?;
            leaves.push(Leaf { function: self.leaf(&section.spec)?, data, layout });
        }
        self.task(name, value, product.units(), bytes, cost, |t| conv::emit(t, &product, &leaves))
    }

    pub(super) fn constant(&self, v: ValueId, node: NodeId) -> Result<std::sync::Arc<Tensor>, Diags> {
        let computed = || bug(format!("{}: weights that are not constant", self.graph.describe(node)));
        self.graph.constant(v).cloned().ok_or_else(computed)
    }

    fn depthwise(&mut self, name: &str, value: &str, p: &Product<'_>, bytes: usize, cost: Cost) -> Result<(), Diags> {
        let mut cost = cost;
        if let Some((mult, epilogue)) = &p.requant {
            let factors = Factors {
                weights: Some(p.weights),
                bias: p.bias.to_vec(),
                mult,
                epilogue: *epilogue,
                residual: p.residual.clone(),
                acc_bound: p.acc_bound,
            };
            match self.wide_window(name, value, (&p.x, &p.result), &p.window, Some(&factors), cost)? {
                Some(left) => cost = left,
                None => return Ok(()),
            }
        }
        let (mult, epilogue) = p.requant.as_ref().map_or((&[][..], None), |(mult, e)| (mult.as_slice(), Some(*e)));
        let packed = window::pack_depthwise(p.weights, p.bias, mult);
        let data = self.data(&format!("weights_{name}"), Linkage::Local, packed)?;
        let reduction = Reduction::Depthwise { data, epilogue, residual: p.residual.clone() };
        let units = p.result.dims[0] * p.result.dims[1];
        self.task(name, value, units, bytes, cost, |t| window::emit(t, &p.x, &p.result, &p.window, &reduction))
    }

    /// Packs what the blocks of a section read: all weights, then all biases, then all multipliers.
    fn pack(&mut self, name: &str, p: &Product<'_>, s: &Section) -> Result<(cranelift_module::DataId, Layout), Diags> {
        let shape = self.shape();
        let per_channel = p.weights.len() / p.bias.len();
        let le = |v: Vec<i32>| v.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>();
        let (mut weights, mut bias, mut mult) = (Vec::new(), Vec::new(), Vec::new());
        for c in p.block_channels(s) {
            weights.extend(pack_weights(&s.spec, shape, &p.weights[c.start * per_channel..c.end * per_channel]));
            bias.extend(le(pack_channels(&s.spec, shape, &p.bias[c.clone()])));
            if let Some((m, _)) = &p.requant {
                mult.extend(le(pack_multipliers(&s.spec, shape, &m[c])));
            }
        }
        let bias_start = weights.len().next_multiple_of(ALIGN);
        let mult_start = (bias_start + bias.len()).next_multiple_of(ALIGN);
        let layout = Layout {
            weights: weights.len() / s.blocks,
            bias: bias.len() / s.blocks,
            mult: mult.len() / s.blocks,
            bias_start,
            mult_start,
            bytes: mult_start + mult.len(),
        };
        let mut bytes = weights;
        bytes.resize(bias_start, 0);
        bytes.extend(bias);
        bytes.resize(mult_start, 0);
        bytes.extend(mult);
        Ok((self.data(name, Linkage::Local, bytes)?, layout))
    }

    /// The leaf for a description; equal ones share it.
    fn leaf(&mut self, spec: &ConvSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.leaves.get(spec) {
            return Ok(id);
        }
        let config = self.module.target_config();
        let name = format!(
            "leaf_{:03}_{}x{}_k{}",
            self.leaves.len(),
            spec.width,
            spec.channels,
            spec.k_rows * spec.segments * spec.run
        );
        let id = self.declare(&name, Linkage::Local, &signature(config))?;
        if let Some(code) = machine_code(spec, self.options.target.backend()).map_err(bug)? {
            self.define_bytes(id, &name, &code)?;
        } else {
            let function = emit_clif(spec, config, &mut self.context).map_err(bug)?;
            self.define(id, &name, function)?;
        }
        self.leaves.insert(spec.clone(), id);
        Ok(id)
    }
}

/// A matrix [.., K] as one image row of pixels with K channels, if its rows are evenly spaced.
fn rows_as_pixels(p: &Place) -> Option<Place> {
    let (&k, outer) = p.dims.split_last()?;
    let last = p.strides.last().copied()?;
    let mut step = None;
    let mut expected = None;
    for (&d, &s) in outer.iter().zip(p.strides.iter()).rev() {
        if d == 1 {
            continue;
        }
        match expected {
            None => (step, expected) = (Some(s), Some(s * d)),
            Some(e) if e == s => expected = Some(s * d),
            Some(_) => return None,
        }
    }
    let rows = outer.iter().product::<usize>();
    let step = step.unwrap_or(k * last);
    Some(Place { dims: vec![1, 1, rows, k], strides: vec![rows * step, rows * step, step, last], ..p.clone() })
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

fn describe(p: &Product<'_>, is_conv: bool) -> String {
    let (w, inputs, outputs) = (&p.window, p.x.dims[3], p.result.dims[3]);
    let fused = if p.residual.is_some() { " + residual" } else { "" };
    if !is_conv {
        return format!("matmul {}x{inputs}x{outputs}{fused}", p.result.dims[2]);
    }
    let groups = if p.groups > 1 { format!(" groups {}", p.groups) } else { String::new() };
    let stride = if w.strides == [1, 1] { String::new() } else { format!(" stride {}", w.strides[0]) };
    format!(
        "conv {}x{} {inputs}->{outputs} @{}x{}{stride}{groups}{fused}",
        w.kernel[0], w.kernel[1], p.result.dims[1], p.result.dims[2]
    )
}
