//! Weights and biases of layers, in the form that `lower-to-int` takes.
//!
//! With codes `w`, zero points `Zw` and `v = w - Zw`, a layer sums `x v`. Weights with a sign and zero point 0 are `v`
//! already. Weights without a sign give `v` in `[-255, 255]`: where one exceeds 8 bits it is written as a sum
//! `v = v1 + v2 (+ v3)` of numbers that fit, and the layer reads the input channel once for each: `x v = x v1 + x v2`.

use std::sync::Arc;

use qcc_ir::{
    Attrs, Change, Data, Edit, Elem, Format, Int, NodeId, Opcode, Tensor, Type, Uniform, ValueId, attr, format,
};
use qcc_num::convert::{count_i64, nearest_f32, nearest_i64};

use crate::constants::{codes, reals};
use crate::layer::{GREATEST_BIAS, NewParameter, NoLayer, Parameter, QuantLayer, WeightCodes, bias_32, bias_64};
use crate::quant::adopt_qdq::chains;
use crate::rewrite::add_cast;

/// Codes of a layer's weights, less their zero points.
struct CenteredWeights {
    name: String,
    dims: Vec<usize>,
    codes: Vec<i64>,
    /// One scale an output channel.
    scales: Vec<f32>,
    /// All of i8, or of i16: the model has chosen the codes.
    format: Format,
}

impl CenteredWeights {
    /// The weights as a constant.
    fn constant(self) -> NewParameter {
        let data = Data::integers(self.format.storage(), self.codes);
        let uniform = Uniform::per_axis(self.format, 0, self.scales);
        let name = format!("{}.q", self.name.strip_suffix(".q").unwrap_or(&self.name));
        NewParameter { name, tensor: Tensor::new(&self.dims, data), elem: Elem::Uniform(Arc::new(uniform)) }
    }
}

/// Adds a constant behind its `quant.dcast`.
fn add_dequantized(change: &mut Change, new: NewParameter) -> ValueId {
    let constant = change.add_typed_const(&new.name, new.tensor, new.elem);
    add_cast(change, Opcode::DCast, constant, Elem::F32)
}

/// Weights that are real get the format `wanted`, or that of the layer.
pub(super) fn settle(edit: &mut Edit, n: NodeId, wanted: Option<&Format>) -> Result<(), String> {
    let g = edit.graph();
    let mut layer = QuantLayer::read(g, n).map_err(|why| match why {
        NoLayer::Weights(w) => format!("its weights %{} are not constant", g.name_of(w)),
        NoLayer::Bias(_) | NoLayer::Other => why.message(g),
    })?;
    let x = layer.input.value;
    if layer.input.quantization.is_none() {
        return Err(format!("its operand %{} is constant", g.name_of(x)));
    }
    if let Some(wanted) = wanted {
        layer.weights_format = wanted.clone();
    }
    let sx = layer.input.scale();
    let bias = g.operands(n).get(2).and_then(|&b| reals(g, b));
    let bias = bias.as_ref().and_then(Tensor::as_f32);
    let mut weights = match (&layer.weights.quantization, layer.weights.reals()) {
        (None, Some(w)) => rounded(&layer, w, bias)?,
        (Some(uniform), _) if is_by_outputs(uniform) => given(&layer.weights.name, &layer.weights.tensor, uniform)?,
        (Some(_), _) => {
            let real = reals(g, g.operands(n)[1]);
            let w = real.as_ref().and_then(Tensor::as_f32);
            let w = w.ok_or_else(|| format!("its weights @{} are not known", layer.weights.name))?;
            rounded(&layer, w, bias)?
        }
        (None, None) => return Err(format!("its weights @{} are not real numbers", layer.weights.name)),
    };
    let sums_in_64_bits = layer.sums_in_64_bits() || !weights.format.fits_byte();
    if sums_in_64_bits {
        weights.format = Int::I16.into();
    } else if let Some(b) = bias {
        fit_bias(&mut weights, b, sx);
    }
    let quantized = if sums_in_64_bits { bias_64 } else { bias_32 };
    let bias = bias.map(|b| quantized(b, sx, &weights.scales));
    let bias_name = layer.bias_name(g, ".q");
    let name = g.name_of(g.result(n)).to_string();
    let mut parts = if sums_in_64_bits { Vec::new() } else { parts(&weights.codes) };
    if parts.len() > 1 && layer.is_depthwise() {
        let label = format!("scale-rest: channels of %{name} whose weights have several parts");
        let Some(mut change) = edit.begin(label) else { return Ok(()) };
        let all = split_outputs(&mut change, n, &weights, bias.as_ref().map(|(tensor, _)| tensor), sx, &parts)?;
        for (q, _) in edit.graph().uses(all) {
            let q = edit.graph().result(q);
            chains::cast_operands(edit, q);
        }
        weights.codes = parts.swap_remove(0);
        parts.clear();
    }
    let Some(mut change) = edit.begin(format!("scale-rest: parameters of %{name}")) else { return Ok(()) };
    if parts.len() > 1 {
        let input = repeat_input(&mut change, &layer, &mut weights, &parts);
        change.set_operand(n, 0, input);
    }
    let bias = bias.map(|(tensor, elem)| NewParameter { name: bias_name, tensor, elem });
    layer.write(&mut change, Some(weights.constant()), bias);
    Ok(())
}

/// True if the codes of an output channel have one scale.
fn is_by_outputs(u: &Uniform) -> bool {
    let alike = u.scales.iter().all(|s| *s == u.scale()) && u.zero_points.iter().all(|z| *z == u.zero_point());
    u.axis.is_none_or(|a| a == 0) || alike
}

/// Weights that are real, or quantized by scales along another axis than that of the outputs.
fn rounded(layer: &QuantLayer, w: &[f32], bias: Option<&[f32]>) -> Result<CenteredWeights, String> {
    let real = |name: &str, dims: &[usize], data: &[f32]| Parameter {
        name: name.to_string(),
        tensor: Arc::new(Tensor::f32(dims, data.to_vec())),
        quantization: None,
    };
    let name = &layer.weights.name;
    let mut layer_of_reals = layer.clone();
    layer_of_reals.weights = real(name, &layer.weights.tensor.dims, w);
    layer_of_reals.bias = bias.map(|b| real(name, &[b.len()], b));
    let WeightCodes { codes: tensor, uniform } = layer_of_reals.rounded()?;
    let all = layer.weights_format == format::I8;
    let format = if all { Int::I8.into() } else { uniform.format.clone() };
    let (codes, scales) = (codes(&tensor).unwrap_or_default(), uniform.scales.clone());
    Ok(CenteredWeights { name: name.clone(), dims: tensor.dims, codes, scales, format })
}

/// Weights that the model gives.
fn given(name: &str, tensor: &Tensor, u: &Uniform) -> Result<CenteredWeights, String> {
    let channels = tensor.dims.first().copied().unwrap_or(0);
    let row = tensor.dims.iter().product::<usize>() / channels.max(1);
    let of = |c: usize| if u.axis == Some(0) { c } else { 0 };
    let codes = codes(tensor).ok_or_else(|| format!("its weights @{name} are not integers"))?;
    let codes: Vec<i64> = codes.iter().enumerate().map(|(i, &q)| q - u.zero_points[of(i / row.max(1))]).collect();
    let scales = (0..channels).map(|c| u.scales[of(c)]).collect();
    // The difference of two codes of 8 bits has 9: see `parts`.
    let format = match few_bits(u) {
        Some(format) => format,
        None => Format::all(if u.format.fits_byte() { Int::I8 } else { Int::I16 }),
    };
    if !format.fits_byte() && codes.iter().any(|&v| !format.contains(v)) {
        return Err(format!("its weights @{name} have more than 16 bits"));
    }
    Ok(CenteredWeights { name: name.to_string(), dims: tensor.dims.clone(), codes, scales, format })
}

/// The format of codes of fewer than 8 bits less their zero points.
fn few_bits(u: &Uniform) -> Option<Format> {
    let (least, greatest) = (u.zero_points.iter().min()?, u.zero_points.iter().max()?);
    let format = Format::linear(Int::I8, u.min() - greatest, u.max() - least);
    (u.format.bits() < 8 && format.is_valid()).then_some(format)
}

/// A channel whose bias exceeds the accumulators gets a greater scale: its weights count little beside such a bias.
fn fit_bias(weights: &mut CenteredWeights, bias: &[f32], sx: f64) {
    let row = weights.codes.len() / weights.scales.len().max(1);
    for (c, scale) in weights.scales.iter_mut().enumerate() {
        let own = f64::from(*scale);
        let least = f64::from(bias[c]).abs() / (sx * GREATEST_BIAS);
        if least > own {
            *scale = nearest_f32(least);
            for v in &mut weights.codes[c * row..(c + 1) * row] {
                *v = weights.format.nearest(nearest_i64(*v as f64 * own / least));
            }
        }
    }
}

/// The codes as sums of numbers of 8 bits.
fn parts(codes: &[i64]) -> Vec<Vec<i64>> {
    let (least, greatest) = (i64::from(i8::MIN), i64::from(i8::MAX));
    let mut parts = Vec::new();
    let mut rest = codes.to_vec();
    while parts.is_empty() || rest.iter().any(|&v| v != 0) {
        parts.push(rest.iter().map(|&v| v.clamp(least, greatest)).collect::<Vec<_>>());
        rest.iter_mut().for_each(|v| *v -= (*v).clamp(least, greatest));
    }
    parts
}

/// Few channels of a depthwise convolution have weights of several parts: a second convolution computes these from their
/// repeated inputs, and its results take the places of the first one's. Gives what is read instead.
fn split_outputs(
    change: &mut Change,
    n: NodeId,
    weights: &CenteredWeights,
    bias: Option<&Tensor>,
    sx: f64,
    parts: &[Vec<i64>],
) -> Result<ValueId, String> {
    let g = change.graph();
    let kernel: usize = weights.dims[2..].iter().product();
    let channels = weights.dims[0];
    let wide: Vec<usize> = (0..channels)
        .filter(|&c| parts[1..].iter().any(|p| p[c * kernel..(c + 1) * kernel].iter().any(|&v| v != 0)))
        .collect();
    let y = g.result(n);
    let (name, dims) = (g.name_of(y).to_string(), g.ty(y).dims.clone());
    let x = g.producer(g.operands(n)[0]).map(|p| g.operands(p)[0]).ok_or("its operand is constant")?;
    let (x_ty, x_name) = (g.ty(x).clone(), g.name_of(x).to_string());
    let (attrs, origin) = (g.node(n).attrs.clone(), g.node(n).origin.clone());
    let bias = match bias {
        Some(tensor) => Some(tensor.as_i32().ok_or("its bias is not of 32 bits")?),
        None => None,
    };
    let second = CenteredWeights {
        name: format!("{}.wide", weights.name.strip_suffix(".q").unwrap_or(&weights.name)),
        dims: [&[wide.len(), parts.len()], &weights.dims[2..]].concat(),
        codes: wide
            .iter()
            .flat_map(|&c| parts.iter().flat_map(move |p| p[c * kernel..(c + 1) * kernel].to_vec()))
            .collect(),
        scales: wide.iter().map(|&c| weights.scales[c]).collect(),
        format: Int::I8.into(),
    };
    let reads: Vec<i64> = wide.iter().flat_map(|&c| parts.iter().map(move |_| count_i64(c))).collect();
    let x = gather(change, x, 1, reads, &format!("{x_name}.wide"), x_ty.elem);
    let mut operands = vec![add_cast(change, Opcode::DCast, x, Elem::F32)];
    let scales: Vec<f32> = second.scales.clone();
    operands.push(add_dequantized(change, second.constant()));
    if let Some(bias) = bias {
        let own: Vec<i32> = wide.iter().map(|&c| bias[c]).collect();
        let (_, elem) = bias_32(&vec![0.0; own.len()], sx, &scales);
        let (name, tensor) = (format!("{name}.wide.bias"), Tensor::new(&[own.len()], Data::I32(own)));
        operands.push(add_dequantized(change, NewParameter { name, tensor, elem }));
    }
    let of = |channels: usize| Type::f32(&[dims[0], channels, dims[2], dims[3]]);
    let attrs = attrs.with(attr::GROUPS, count_i64(wide.len()));
    let second = change.add(Opcode::Conv2d, &operands, attrs, &format!("{name}.wide"), of(wide.len()), origin.clone());
    let along = Attrs::new(Opcode::Concat).with(attr::AXIS, 1);
    let both =
        change.add(Opcode::Concat, &[y, second], along, &format!("{name}.both"), of(channels + wide.len()), origin);
    let source = |c: usize| count_i64(wide.iter().position(|&w| w == c).map_or(c, |i| channels + i));
    let all = gather(change, both, 1, (0..channels).map(source).collect(), &format!("{name}.all"), Elem::F32);
    // All readers of `y` but the concat.
    let readers: Vec<_> =
        change.graph().uses(y).into_iter().filter(|&(r, _)| change.graph().result(r) != both).collect();
    for (reader, i) in readers {
        change.set_operand(reader, i, all);
    }
    Ok(all)
}

/// The channels of `v` at `indices`.
fn gather(change: &mut Change, v: ValueId, axis: usize, indices: Vec<i64>, name: &str, elem: Elem) -> ValueId {
    let mut dims = change.graph().ty(v).dims.clone();
    dims[axis] = indices.len();
    let origin = crate::rewrite::origin_of(change.graph(), v);
    let indices = Tensor::new(&[indices.len()], Data::I64(indices));
    let indices = change.add_const(&format!("{name}.channels"), indices);
    let attrs = Attrs::new(Opcode::Gather).with(attr::AXIS, count_i64(axis));
    change.add(Opcode::Gather, &[v, indices], attrs, name, Type { dims, elem }, origin)
}

/// The input with the channels repeated that weights of several parts read; the weights become those of that input.
fn repeat_input(change: &mut Change, layer: &QuantLayer, weights: &mut CenteredWeights, parts: &[Vec<i64>]) -> ValueId {
    let g = change.graph();
    let (x, groups) = (layer.input.value, layer.groups);
    let axis = if layer.window.is_some() { 1 } else { layer.input.dims.len() - 1 };
    let (outputs, inputs) = (weights.dims[0], weights.dims[1]);
    let kernel: usize = weights.dims[2..].iter().product();
    let at = |o: usize, c: usize| (o * inputs + c) * kernel..(o * inputs + c + 1) * kernel;
    // With groups, each of them reads the same channels of its own, so that all stay of equal width.
    let used = |part: &[i64], c: usize| (0..outputs).any(|o| part[at(o, c)].iter().any(|&v| v != 0));
    let reads: Vec<(usize, usize)> = (0..parts.len())
        .flat_map(|p| (0..inputs).map(move |c| (p, c)))
        .filter(|&(p, c)| p == 0 || used(&parts[p], c))
        .collect();
    let mut codes = Vec::with_capacity(outputs * reads.len() * kernel);
    for o in 0..outputs {
        for &(p, c) in &reads {
            codes.extend_from_slice(&parts[p][at(o, c)]);
        }
    }
    weights.codes = codes;
    weights.dims[1] = reads.len();
    let indices: Vec<i64> =
        (0..groups).flat_map(|group| reads.iter().map(move |&(_, c)| count_i64(group * inputs + c))).collect();
    let (name, elem) = (format!("{}.wide", g.name_of(x)), g.ty(x).elem.clone());
    let wide = gather(change, x, axis, indices, &name, elem);
    add_cast(change, Opcode::DCast, wide, Elem::F32)
}
