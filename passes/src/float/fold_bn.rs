//! Folds batch normalization, at inference an affine map per channel, into the layer before or after it.
//!
//! ```text
//! %conv = nn.conv2d(%x, @w)
//! %bn   = nn.batch_norm(%conv, @gamma, @beta, @mean, @var)
//! // becomes
//! %bn   = nn.conv2d(%x, @w.bn, @conv.bias)
//! ```
//!
//! With `a[c] = gamma[c] / sqrt(var[c] + epsilon)` and `b[c] = beta[c] - mean[c] * a[c]`, so that `bn(x) = a * x + b`:
//!
//! ```text
//! bn(w * x + d) = (a w) * x + (a d + b)                  a layer before     (Jacob et al. 2018, section 3.2)
//! w * bn(x) + d = (w a) * x + (sum(w b) + d)             a layer after, if it pads nothing: padding is 0, not bn(0)
//! ```
//!
//! A batch normalization that can be folded neither way (DenseNet: behind a concat, before a rectifier) stays and becomes
//! an integer scale-and-shift later. Ranges that are known of its result become those of the layer's.

use qcc_ir::{Diags, Edit, Elem, Graph, NodeId, Opcode, Tensor, attr};
use qcc_num::convert::nearest_f32;

use crate::layer::{NewParameter, Parameter, QuantLayer};
use crate::{Context, Pass, constants};

/// The pass `fold-bn`.
pub struct FoldBn;

impl Pass for FoldBn {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        for n in edit.graph().order() {
            if edit.graph().op(n) != Opcode::BatchNorm {
                continue;
            }
            let backward = into_layer_before(edit, n);
            if backward == Ok(true) {
                continue;
            }
            let forward = into_layer_after(edit, n);
            if let (Err(why), Err(why_not_after)) = (backward, forward) {
                let name = edit.graph().name_of(edit.graph().result(n)).to_string();
                edit.remark(format!("not folded: %{name}: {why}, and {why_not_after}"));
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// A layer whose weights and bias are real numbers.
fn real_layer(g: &Graph, n: NodeId) -> Result<QuantLayer, String> {
    let layer = QuantLayer::read(g, n).map_err(|why| why.message(g))?;
    let is_real = |p: &&Parameter| p.reals().is_some();
    if let Some(p) = [Some(&layer.weights), layer.bias.as_ref()].into_iter().flatten().find(|p| !is_real(p)) {
        return Err(format!("%{} is not constant", p.name));
    }
    Ok(layer)
}

fn not_constant(g: &Graph, n: NodeId) -> String {
    let operands = g.operands(n);
    let computed = operands.iter().skip(1).find(|&&v| g.constant(v).is_none());
    computed.map_or("its parameters are no floats".into(), |&v| format!("%{} is not constant", g.name_of(v)))
}

fn is_layer(g: &Graph, n: NodeId) -> bool {
    match g.op(n) {
        Opcode::Conv2d => true,
        // Batch normalization acts on axis 1; a linear layer's channels are the last.
        Opcode::Linear => g.ty(g.result(n)).rank() == 2,
        _ => false,
    }
}

/// New weights and bias as parameters of the layer.
fn folded(g: &Graph, layer: &QuantLayer, weights: Vec<f32>, bias: Vec<f32>) -> [NewParameter; 2] {
    let bias_name = layer.bias_name(g, if layer.bias.is_some() { ".bn" } else { "" });
    let (weights, bias) = (Tensor::f32(&layer.weights.tensor.dims, weights), Tensor::f32(&[bias.len()], bias));
    let new = |name: String, tensor: Tensor| NewParameter { name, tensor, elem: Elem::F32 };
    [new(layer.weights_name(".bn"), weights), new(bias_name, bias)]
}

/// `Ok(false)` if the edit limit forbids it.
fn into_layer_before(edit: &mut Edit, n: NodeId) -> Result<bool, String> {
    let g = edit.graph();
    let x = g.operands(n)[0];
    let y = g.result(n);
    let Some(layer) = g.producer(x).filter(|&l| is_layer(g, l)) else {
        return Err(format!("%{} is not the result of a convolution or linear layer", g.name_of(x)));
    };
    if g.only_user(x).is_none() {
        return Err(format!("%{} has other uses", g.name_of(x)));
    }
    let layer = real_layer(g, layer)?;
    let (w, bias) = (layer.weights.reals().unwrap_or_default(), layer.bias.as_ref().and_then(Parameter::reals));
    let (a, b) = constants::batch_norm(g, n).ok_or_else(|| not_constant(g, n))?;
    let row = (w.len() / a.len().max(1)).max(1);
    let weights: Vec<f32> = w.iter().enumerate().map(|(i, &w)| nearest_f32(f64::from(w) * a[i / row])).collect();
    let bias = (0..a.len()).map(|c| nearest_f32(a[c] * bias.map_or(0.0, |d| f64::from(d[c])) + b[c])).collect();
    let [weights, bias] = folded(g, &layer, weights, bias);
    let elem = g.ty(y).elem.clone();
    let label = format!("fold-bn: %{} into %{}", g.name_of(y), g.name_of(x));
    let Some(mut change) = edit.begin(label) else { return Ok(false) };
    layer.write(&mut change, Some(weights), Some(bias));
    change.set_elem(x, elem);
    change.replace(y, x);
    Ok(true)
}

fn into_layer_after(edit: &mut Edit, n: NodeId) -> Result<bool, String> {
    let g = edit.graph();
    let (x, y) = (g.operands(n)[0], g.result(n));
    let Some(layer) = g.only_user(y) else {
        return Err("its result has several uses or none".into());
    };
    if !is_layer(g, layer) || g.operands(layer)[0] != y {
        return Err(format!("its result goes into {}", g.op(layer).name()));
    }
    if g.op(layer) == Opcode::Conv2d && g.node(layer).attrs.get(attr::PADS).iter().any(|&p| p != 0) {
        return Err("the convolution behind it pads".into());
    }
    let layer = real_layer(g, layer)?;
    let (w, bias) = (layer.weights.reals().unwrap_or_default(), layer.bias.as_ref().and_then(Parameter::reals));
    let (a, b) = constants::batch_norm(g, n).ok_or_else(|| not_constant(g, n))?;
    let depth = layer.depth().max(1);
    let mut weights = Vec::with_capacity(w.len());
    let mut sums = vec![0.0f64; layer.outputs()];
    for (i, &w) in w.iter().enumerate() {
        let o = i / depth;
        let c = layer.input_channel(o, i % depth);
        weights.push(nearest_f32(f64::from(w) * a[c]));
        sums[o] += f64::from(w) * b[c];
    }
    let bias = sums.iter().enumerate().map(|(o, s)| nearest_f32(s + bias.map_or(0.0, |d| f64::from(d[o])))).collect();
    let [weights, bias] = folded(g, &layer, weights, bias);
    let label = format!("fold-bn: %{} into %{} behind it", g.name_of(y), g.name_of(g.result(layer.node)));
    let Some(mut change) = edit.begin(label) else { return Ok(false) };
    layer.write(&mut change, Some(weights), Some(bias));
    change.set_operand(layer.node, 0, x);
    Ok(true)
}
