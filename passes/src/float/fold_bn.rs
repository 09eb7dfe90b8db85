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

use qcc_ir::{Change, Diags, Edit, Graph, NodeId, Opcode, Tensor, ValueId, attr};

use crate::rewrite::floats;
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

/// Weights with their shape, and the bias.
type Parameters<'g> = (&'g Tensor, &'g [f32], Option<&'g [f32]>);

/// Constant weights and bias of a convolution or linear layer.
fn parameters(g: &Graph, layer: NodeId) -> Result<Parameters<'_>, String> {
    let operands = g.operands(layer);
    let constant = |v: ValueId| floats(g, v).ok_or_else(|| format!("%{} is not constant", g.name_of(v)));
    let (tensor, w) = constant(operands[1])?;
    let bias = operands.get(2).map(|&b| constant(b)).transpose()?.map(|(_, data)| data);
    Ok((tensor, w, bias))
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

/// Sets weights and bias of a layer.
fn set_parameters(change: &mut Change, layer: NodeId, weights: Tensor, bias: Vec<f32>) {
    let g = change.graph();
    let operands = g.operands(layer);
    let w_name = format!("{}.bn", g.name_of(operands[1]));
    let b_name = match operands.get(2) {
        Some(&b) => format!("{}.bn", g.name_of(b)),
        None => format!("{}.bias", g.name_of(g.result(layer))),
    };
    let w = change.add_const(&w_name, weights);
    let b = change.add_const(&b_name, Tensor::f32(&[bias.len()], bias));
    change.set_operands(layer, &[operands[0], w, b]);
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
    let (tensor, w, bias) = parameters(g, layer)?;
    let (a, b) = constants::batch_norm(g, n).ok_or_else(|| not_constant(g, n))?;
    let row = (w.len() / a.len().max(1)).max(1);
    let weights: Vec<f32> = w.iter().enumerate().map(|(i, &w)| (f64::from(w) * a[i / row]) as f32).collect();
    let weights = Tensor::f32(&tensor.dims, weights);
    let bias = (0..a.len()).map(|c| (a[c] * bias.map_or(0.0, |d| f64::from(d[c])) + b[c]) as f32).collect();
    let elem = g.ty(y).elem.clone();
    let label = format!("fold-bn: %{} into %{}", g.name_of(y), g.name_of(x));
    let Some(mut change) = edit.begin(label) else {
        return Ok(false);
    };
    set_parameters(&mut change, layer, weights, bias);
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
    let attrs = &g.node(layer).attrs;
    let convolution = g.op(layer) == Opcode::Conv2d;
    if convolution && attrs.get(attr::PADS).iter().any(|&p| p != 0) {
        return Err("the convolution behind it pads".into());
    }
    let (tensor, w, bias) = parameters(g, layer)?;
    let (a, b) = constants::batch_norm(g, n).ok_or_else(|| not_constant(g, n))?;
    let (outputs, per_group) = (tensor.dims[0], tensor.dims[1]);
    let groups = if convolution { usize::try_from(attrs.get(attr::GROUPS)).unwrap_or(1).max(1) } else { 1 };
    let kernel: usize = tensor.dims[2..].iter().product();
    let mut weights = Vec::with_capacity(w.len());
    let mut sums = vec![0.0f64; outputs];
    for (i, &w) in w.iter().enumerate() {
        let o = i / (per_group * kernel).max(1);
        let group = o / (outputs / groups).max(1);
        let c = group * per_group + i / kernel.max(1) % per_group.max(1);
        weights.push((f64::from(w) * a[c]) as f32);
        sums[o] += f64::from(w) * b[c];
    }
    let weights = Tensor::f32(&tensor.dims, weights);
    let bias = sums.iter().enumerate().map(|(o, s)| (s + bias.map_or(0.0, |d| f64::from(d[o]))) as f32).collect();
    let label = format!("fold-bn: %{} into %{} behind it", g.name_of(y), g.name_of(g.result(layer)));
    let Some(mut change) = edit.begin(label) else {
        return Ok(false);
    };
    set_parameters(&mut change, layer, weights, bias);
    change.set_operand(layer, 0, x);
    Ok(true)
}
