//! Products with constant weights: packing and the choice of their kernel.

use cranelift_module::{FuncId, Linkage};
use qcc_ir::diag::Code;
use qcc_ir::ops::IntOp;
use qcc_ir::window::Window;
use qcc_ir::{Diag, Diags, NodeId, Tensor, ValueId, attr};

use super::collapse::Loops;
use super::conv::bands::Band;
use super::conv::{self, Layout, Leaf, Product, Section};
use super::dynamic::extrema::Parts;
use super::step::{Cost, Operation};
use super::wide_window::Factors;
use super::window::{self, Reduction};
use super::{Builder, bug, elementwise};
use crate::kernel::conv::{ConvSpec, emit_clif, machine_code, signature};
use crate::kernel::pack::{pack_channels, pack_multipliers, pack_weights};
use crate::kernel::tiling;
use crate::plan::{ALIGN, Place, halo_window};

impl Builder<'_> {
    pub(super) fn product(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let graph = self.graph;
        let &Operation { name, value, node, attrs, operands, result } = o;
        let values = graph.operands(node);
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
        let residual = operands.get(4).filter(|_| fused).map(|r| (r.clone(), attrs.get(attr::RESIDUAL_MULT) as u16));
        let mut images: Vec<&Place> = [&operands[0], result].into_iter().collect();
        images.extend(residual.iter().map(|(place, _)| place));
        let images = match is_conv {
            true => images.into_iter().cloned().collect(),
            false => {
                rows_as_pixels(&images).ok_or_else(|| bug(format!("{value}: a matrix of widely scattered rows")))?
            }
        };
        let residual = residual.and_then(|(_, mult)| Some((images.get(2)?.clone(), mult)));
        let window = match is_conv {
            true => halo_window(graph, node),
            false => Window { kernel: [1, 1], strides: [1, 1], pads: [0; 4], dilations: [1, 1] },
        };
        let extrema = self.plan.part_extrema.get(&result.buffer).filter(|_| !fused);
        let extrema = extrema.map(|&offset| Place { offset, ..result.clone() });
        let mut product = Product {
            x: images[0].clone(),
            result: images[1].clone(),
            window,
            groups: if is_conv { attrs.get(attr::GROUPS) as usize } else { 1 },
            weights,
            bias,
            requant,
            extrema,
            residual,
            acc_bound: accumulator_bound(weights, bias),
            bands: vec![Band::whole(images[1].dims[1])],
            strip: 1,
            pad_value: if is_conv { attrs.get(attr::PAD_VALUE) as i32 } else { 0 },
            next_bytes: self.next_bytes,
            weight_bytes: 1,
            choice: self.options.tuning.get(value).copied().unwrap_or_default(),
        };
        let described = describe(&product, is_conv);
        let weight_bytes = weights.len() as u64;
        let mut cost = Cost { macs: product.macs(), weight_bytes, ..Cost::of(described) };
        if product.is_depthwise() {
            return self.depthwise(o, &product, cost);
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
            let specs = product.band_specs(section, self.shape());
            let functions = specs.iter().map(|spec| self.leaf(spec)).collect::<Result<_, _>>()?;
            leaves.push(Leaf { functions, data, layout });
        }
        self.task_of(o, product.units(), cost, |t| conv::emit(t, &product, &leaves))
    }

    pub(super) fn constant(&self, v: ValueId, node: NodeId) -> Result<std::sync::Arc<Tensor>, Diags> {
        let computed = || bug(format!("{}: weights that are not constant", self.graph.describe(node)));
        self.graph.constant(v).cloned().ok_or_else(computed)
    }

    fn depthwise(&mut self, o: &Operation<'_>, p: &Product<'_>, mut cost: Cost) -> Result<(), Diags> {
        if let Some((mult, epilogue)) = &p.requant {
            let factors = Factors {
                weights: Some(p.weights),
                bias: p.bias.to_vec(),
                mult,
                epilogue: *epilogue,
                residual: p.residual.clone(),
                acc_bound: p.acc_bound,
            };
            match self.wide_window(o, (&p.x, &p.result), &p.window, Some(&factors), cost)? {
                Some(left) => cost = left,
                None => return Ok(()),
            }
        }
        let (mult, epilogue) = p.requant.as_ref().map_or((&[][..], None), |(mult, e)| (mult.as_slice(), Some(*e)));
        let packed = window::pack_depthwise(p.weights, p.bias, mult);
        let data = self.data(&format!("weights_{}", o.name), Linkage::Local, packed)?;
        let reduction = Reduction::Depthwise { data, epilogue, residual: p.residual.clone() };
        let units = p.result.dims[0] * p.result.dims[1];
        self.task_of(o, units, cost, |t| window::emit(t, &p.x, &p.result, &p.window, &reduction))
    }

    /// Packs what the blocks of a section read: all weights, then all biases, band by band, then all multipliers.
    fn pack(&mut self, name: &str, p: &Product<'_>, s: &Section) -> Result<(cranelift_module::DataId, Layout), Diags> {
        let shape = self.shape();
        let per_channel = p.weights.len() / p.bias.len();
        let le = |v: Vec<i32>| v.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>();
        let (mut weights, mut bias, mut mult) = (Vec::new(), Vec::new(), Vec::new());
        for c in p.block_channels(s) {
            weights.extend(pack_weights(&s.spec, shape, &p.weights[c.start * per_channel..c.end * per_channel]));
            if let Some((m, _)) = &p.requant {
                mult.extend(le(pack_multipliers(&s.spec, shape, &m[c])));
            }
        }
        for band in &p.bands {
            let biases = p.biases(band);
            p.block_channels(s).into_iter().for_each(|c| bias.extend(le(pack_channels(&s.spec, shape, &biases[c]))));
        }
        let bias_start = weights.len().next_multiple_of(ALIGN);
        let mult_start = (bias_start + bias.len()).next_multiple_of(ALIGN);
        let band_biases = bias.len() / p.bands.len();
        let layout = Layout {
            weights: weights.len() / s.blocks,
            bias: band_biases / s.blocks,
            mult: mult.len() / s.blocks,
            bias_start,
            band_biases,
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
    pub(super) fn leaf(&mut self, spec: &ConvSpec) -> Result<FuncId, Diags> {
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

/// Matrices [.., K] as images of pixels with K channels: of one row if the rows of all of them are evenly spaced, of more where one
/// lies in a halo or in another value.
fn rows_as_pixels(places: &[&Place]) -> Option<Vec<Place>> {
    let outer = places.first()?.dims.split_last()?.1;
    let strides: Vec<&[usize]> = places.iter().map(|p| &p.strides[..outer.len()]).collect();
    let loops = Loops::new(outer, &strides);
    if loops.outer.len() > 2 {
        return None;
    }
    let image = |(i, place): (usize, &&Place)| {
        let (&k, &last) = (place.dims.last()?, place.strides.last()?);
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
        Some(Place { dims, strides, ..(*place).clone() })
    };
    places.iter().enumerate().map(image).collect()
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
        let rows: usize = p.result.dims[..3].iter().product();
        return format!("matmul {rows}x{inputs}x{outputs}{fused}");
    }
    let groups = if p.groups > 1 { format!(" groups {}", p.groups) } else { String::new() };
    let stride = if w.strides == [1, 1] { String::new() } else { format!(" stride {}", w.strides[0]) };
    format!(
        "conv {}x{} {inputs}->{outputs} @{}x{}{stride}{groups}{fused}",
        w.kernel[0], w.kernel[1], p.result.dims[1], p.result.dims[2]
    )
}
