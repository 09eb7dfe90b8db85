//! Corrects the bias of every layer by what quantization shifts the mean of its channels, measured on the samples.
//!
//! ```text
//! %y = nn.conv2d(%x, @w, @b)        // mean over the samples: float 0.50, quantized 0.47
//! // becomes
//! %y = nn.conv2d(%x, @w, @b.fit)    // b.fit = b + 0.03
//! ```
//!
//! Weights are rounded by one error for each, the same for all inputs, so that the results of a channel are off by
//! `(w' - w) mean(x)` on the average, and those of the layers behind it by more (Nagel et al., ICCV 2019, section 4.2). The
//! shift is measured, before the activation, on the quantized network as corrected so far against the real one.
//!
//! Without samples it is computed from the means of the channels that `propagate-ranges` has found (the same paper, section 4.2.1):
//! with `p[k]` the share of places at which position `k` of the window is not in the padding,
//!
//! ```text
//! b'[o] = b[o] + sum over c, k of (w[o][c][k] - w'[o][c][k]) mean(x[c]) p[k]                                (1)
//! ```

use qcc_ir::{Change, Diags, Edit, Elem, Graph, NodeId, Opcode, Tensor, Window, attr};

use crate::fit::lockstep::{self, FittedLayer};
use crate::quant::insert_qdq::Weights;
use crate::rewrite::floats;
use crate::{Context, Pass};

/// The pass `correct-bias`.
pub struct CorrectBias;

impl Pass for CorrectBias {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let corrections: Vec<Correction> = if cx.samples.as_ref().is_some_and(|s| !s.is_empty()) {
            let found = lockstep::run(edit.graph(), cx, false, &|layer| Ok(layer.rounded.clone()))?;
            let of = |f: FittedLayer| Correction { node: f.node, bias: f.bias, shift: f.shift };
            found.layers.into_iter().map(of).collect()
        } else if cx.channel_means.is_empty() {
            edit.remark("nothing corrected: there are no samples, and no means of channels are known");
            return Ok(());
        } else {
            let g = edit.graph();
            g.order().into_iter().filter_map(|n| from_means(g, n, cx)).collect()
        };
        for Correction { node, bias, shift } in corrections {
            let g = edit.graph();
            let label = format!("correct-bias: %{} by {shift:.2e}", g.name_of(g.result(node)));
            if let Some(mut change) = edit.begin(label) {
                set_bias(&mut change, node, bias);
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// The new bias of a layer, and the root mean square of what is added to it.
struct Correction {
    node: NodeId,
    bias: Vec<f32>,
    shift: f64,
}

/// The correction of a layer that follows from the means of its input's channels: equation (1).
fn from_means(g: &Graph, n: NodeId, cx: &Context) -> Option<Correction> {
    let is_layer = matches!(g.op(n), Opcode::Conv2d | Opcode::Linear);
    let operands = g.operands(n);
    let (&x, &w) = (operands.first()?, operands.get(1)?);
    let (input, result) = (g.ty(x).uniform()?, g.ty(g.result(n)).uniform()?);
    let means = cx.channel_means.get(g.name_of(x)).filter(|_| is_layer)?;
    let (tensor, weights) = floats(g, w)?;
    let (outputs, per_group) = (*tensor.dims.first()?, *tensor.dims.get(1)?);
    let mut bias = match operands.get(2) {
        Some(&b) => floats(g, b)?.1.to_vec(),
        None => vec![0.0; outputs],
    };
    let rounded = Weights::round(g, n, Some(input), Some(result)).ok()?;
    let taps = taps(g, n, &tensor.dims);
    let groups =
        if g.op(n) == Opcode::Conv2d { usize::try_from(g.node(n).attrs.get(attr::GROUPS)).ok()?.max(1) } else { 1 };
    // Features of a linear layer are its last dimension; only of rank 2 is that the channels.
    let by_channel = g.op(n) == Opcode::Conv2d || g.ty(x).rank() == 2;
    if by_channel && ![1, groups * per_group].contains(&means.len()) || bias.len() != outputs {
        return None;
    }
    let all = means.iter().sum::<f64>() / means.len().max(1) as f64;
    let mean = |c: usize| if by_channel { *means.get(c).unwrap_or(&means[0]) } else { all };
    let depth = per_group * taps.len();
    let mut square = 0.0;
    for (o, bias) in bias.iter_mut().enumerate() {
        let real = rounded.channel(o);
        let errors = weights.get(o * depth..(o + 1) * depth)?.iter().zip(&real);
        let first = o / (outputs / groups).max(1) * per_group;
        let shift = errors
            .enumerate()
            .map(|(i, (&w, &q))| (f64::from(w) - f64::from(q)) * mean(first + i / taps.len()) * taps[i % taps.len()]);
        let shift: f64 = shift.sum();
        *bias = (f64::from(*bias) + shift) as f32;
        square += shift * shift;
    }
    Some(Correction { node: n, bias, shift: (square / outputs.max(1) as f64).sqrt() })
}

/// For each position in the window of a layer, the share of places at which it is not in the padding.
fn taps(g: &Graph, n: NodeId, weights: &[usize]) -> Vec<f64> {
    let (x, y) = (&g.ty(g.operands(n)[0]).dims, &g.ty(g.result(n)).dims);
    let (&[_, _, kh, kw], &[_, _, h, w], &[_, _, oh, ow]) = (weights, &x[..], &y[..]) else { return vec![1.0] };
    let window = Window::conv(&g.node(n).attrs, [kh, kw]);
    let share = |d: usize, k: usize, extent: usize, places: usize| {
        let at = |o: usize| (o * window.strides[d] + k * window.dilations[d]).checked_sub(window.pads[d]);
        let inside = (0..places).filter(|&o| at(o).is_some_and(|i| i < extent)).count();
        inside as f64 / places.max(1) as f64
    };
    let columns: Vec<f64> = (0..kw).map(|k| share(1, k, w, ow)).collect();
    (0..kh).map(|k| share(0, k, h, oh)).flat_map(|row| columns.iter().map(move |column| row * column)).collect()
}

/// Gives the layer its new bias.
pub(crate) fn set_bias(change: &mut Change, node: NodeId, bias: Vec<f32>) {
    let g = change.graph();
    let mut operands = g.operands(node);
    let base = match operands.get(2) {
        Some(&b) => g.name_of(b).to_string(),
        None => format!("{}.bias", g.name_of(g.result(node))),
    };
    let bias = Tensor::f32(&[bias.len()], bias);
    let bias = change.add_typed_const(&format!("{base}.fit"), bias, Elem::F32);
    operands.truncate(2);
    operands.push(bias);
    change.set_operands(node, &operands);
}
