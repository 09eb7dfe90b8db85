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
//! shift is measured, before the activation, on the quantized network as corrected so far against the real one. Without
//! samples the pass does nothing.

use qcc_ir::{Diags, Edit, Elem, Tensor};

use crate::lockstep::{self, Fitted, Layer};
use crate::{Context, Pass};

/// The pass `correct-bias`.
pub struct CorrectBias;

impl Pass for CorrectBias {
    fn run(&self, edit: &mut Edit, cx: &mut Context) -> Result<(), Diags> {
        if cx.samples.as_ref().is_none_or(|s| s.is_empty()) {
            edit.remark("nothing corrected: there are no samples");
            return Ok(());
        }
        let walked = lockstep::run(edit.graph(), cx, false, &|layer: &Layer| Ok(layer.rounded.clone()))?;
        for layer in walked.fitted {
            let g = edit.graph();
            let label = format!("correct-bias: %{} by {:.2e}", g.name_of(g.result(layer.node)), layer.shift);
            if edit.begin(label) {
                set_bias(edit, &layer);
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// Gives the layer its new bias.
pub(crate) fn set_bias(edit: &mut Edit, layer: &Fitted) {
    let g = edit.graph();
    let mut operands = g.operands(layer.node);
    let base = match operands.get(2) {
        Some(&b) => g.name_of(b).to_string(),
        None => format!("{}.bias", g.name_of(g.result(layer.node))),
    };
    let bias = Tensor::f32(&[layer.bias.len()], layer.bias.clone());
    let bias = edit.add_typed_const(&format!("{base}.fit"), bias, Elem::F32);
    operands.truncate(2);
    operands.push(bias);
    edit.set_operands(layer.node, &operands);
}
