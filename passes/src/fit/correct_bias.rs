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
//! with `p[k]` the share of positions of the result at which position `k` of the window is not in the padding,
//!
//! ```text
//! b'[o] = b[o] + sum over c, k of (w[o][c][k] - w'[o][c][k]) mean(x[c]) p[k]                                (1)
//! ```

use qcc_ir::{Diags, Edit, Elem, Fact, Graph, NodeId, Tensor};
use qcc_num::convert::nearest_f32;

use crate::fit::lockstep::{self, FittedLayer};
use crate::layer::{NewParameter, QuantLayer, ReceptiveField, is_layer};
use crate::{Context, Pass};

/// The pass `correct-bias`.
pub struct CorrectBias;

impl Pass for CorrectBias {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        let corrections: Vec<Correction> = if cx.samples.as_ref().is_some_and(|s| !s.is_empty()) {
            let found = lockstep::run(edit.graph(), cx, false, &|layer| Ok(layer.rounded.clone()))?;
            let of = |f: FittedLayer| Correction { layer: f.layer, bias: f.bias, shift: f.shift };
            found.layers.into_iter().map(of).collect()
        } else if edit.graph().metadata().of(Fact::ChannelMeans).next().is_none() {
            edit.remark("nothing corrected: there are no samples, and no means of channels are known");
            return Ok(());
        } else {
            let g = edit.graph();
            g.order().into_iter().filter_map(|n| from_means(g, n)).collect()
        };
        for Correction { layer, bias, shift } in corrections {
            let g = edit.graph();
            let label = format!("correct-bias: %{} by {shift:.2e}", g.name_of(g.result(layer.node)));
            let bias = fitted_bias(g, &layer, bias);
            if let Some(mut change) = edit.begin(label) {
                layer.write(&mut change, None, Some(bias));
            }
        }
        edit.clear_metadata(Fact::ChannelMeans);
        edit.remove_dead();
        Ok(())
    }
}

/// The new bias of a layer, and the root mean square of what is added to it.
struct Correction {
    layer: QuantLayer,
    bias: Vec<f32>,
    shift: f64,
}

/// The correction of a layer that follows from the means of its input's channels: equation (1).
fn from_means(g: &Graph, n: NodeId) -> Option<Correction> {
    let layer = QuantLayer::read(g, n).ok().filter(|l| is_layer(l.op))?;
    if layer.input.quantization.is_none() || layer.output.quantization.is_none() {
        return None;
    }
    let means = g.metadata().get(Fact::ChannelMeans, g.name_of(layer.input.value))?;
    let (weights, mut bias) = (layer.weights.reals()?, layer.real_bias()?);
    let (rounded, coverage) = (layer.rounded().ok()?, ReceptiveField::of(&layer).map(|f| f.coverage()));
    let (outputs, depth, coverage) = (layer.outputs(), layer.depth(), coverage.unwrap_or_else(|| vec![1.0]));
    let by_channel = layer.reads_channels();
    if by_channel && ![1, layer.groups * layer.per_group()].contains(&means.len()) || bias.len() != outputs {
        return None;
    }
    let all = means.iter().sum::<f64>() / means.len().max(1) as f64;
    let mean = |c: usize| if by_channel { *means.get(c).unwrap_or(&means[0]) } else { all };
    let mut square = 0.0;
    for (o, bias) in bias.iter_mut().enumerate() {
        let real = rounded.channel(o);
        let errors = weights.get(o * depth..(o + 1) * depth)?.iter().zip(&real);
        let shift = errors.enumerate().map(|(i, (&w, &q))| {
            (f64::from(w) - f64::from(q)) * mean(layer.input_channel(o, i)) * coverage[i % coverage.len()]
        });
        let shift: f64 = shift.sum();
        *bias = nearest_f32(f64::from(*bias) + shift);
        square += shift * shift;
    }
    Some(Correction { layer, bias, shift: (square / outputs.max(1) as f64).sqrt() })
}

/// The new bias of a layer as its parameter.
pub(super) fn fitted_bias(g: &Graph, layer: &QuantLayer, bias: Vec<f32>) -> NewParameter {
    let tensor = Tensor::f32(&[bias.len()], bias);
    NewParameter { name: layer.bias_name(g, ".fit"), tensor, elem: Elem::F32 }
}
