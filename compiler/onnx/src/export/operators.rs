//! What each operator is in ONNX: the functions to which rows of the table of operators point.

use qcc_ir::attr::{self, Key};
use qcc_ir::attrs::AttrSchema;
use qcc_ir::{Attr, Data, Elem, Opcode};

use super::writer::{Item, Value, Writer};
use crate::rounding::towards_zero;

type Written = Result<(), String>;

pub(super) fn unwritable(op: Opcode) -> String {
    format!("`{}` cannot be written as ONNX", op.name())
}

impl Item<'_> {
    pub(super) fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.result)
    }
}

/// The operator of the same meaning; parameters that are reals have the same names.
pub(crate) fn same(w: &mut Writer, item: Item) -> Written {
    let real = |a: &AttrSchema| match item.attrs.of_schema(a) {
        Some(Attr::Float(v)) => Some((a.name, Value::Float(v))),
        _ => None,
    };
    let attributes = item.attrs.op().info().attrs.iter().filter_map(real).collect();
    w.emit(item.onnx, &item.operands, item.result, attributes);
    Ok(())
}

pub(crate) fn clip(w: &mut Writer, mut item: Item) -> Written {
    let attrs = item.attrs;
    for key in [attr::MIN, attr::MAX] {
        let bound = w.constant(&item.named(key.name()), &[], Data::F32(vec![attrs.get(key)]));
        item.operands.push(bound);
    }
    w.emit(item.onnx, &item.operands, item.result, vec![]);
    Ok(())
}

pub(crate) fn gelu(w: &mut Writer, item: Item) -> Written {
    let approximate = if item.attrs.get(attr::TANH) { "tanh" } else { "none" };
    w.emit(item.onnx, &item.operands, item.result, vec![("approximate", Value::Text(approximate))]);
    Ok(())
}

/// Its own operator is younger than the files that are written.
pub(crate) fn swish(w: &mut Writer, item: Item) -> Written {
    let (scaled, gate) = (w.fresh(&item.named("scaled")), w.fresh(&item.named("gate")));
    let alpha = item.attrs.get(attr::ALPHA);
    let alpha = w.constant(&item.named("alpha"), &[], Data::F32(vec![alpha]));
    w.emit("Mul", &[item.operands[0].clone(), alpha], &scaled, vec![]);
    w.emit("Sigmoid", &[scaled], &gate, vec![]);
    w.emit("Mul", &[item.operands[0].clone(), gate], item.result, vec![]);
    Ok(())
}

pub(crate) fn matmul(w: &mut Writer, item: Item) -> Written {
    let alpha = item.attrs.get(attr::ALPHA);
    if alpha == 1.0 {
        w.emit(item.onnx, &item.operands, item.result, vec![]);
        return Ok(());
    }
    let product = w.fresh(&item.named("product"));
    w.emit(item.onnx, &item.operands, &product, vec![]);
    let alpha = w.constant(&item.named("alpha"), &[], Data::F32(vec![alpha]));
    w.emit("Mul", &[product, alpha], item.result, vec![]);
    Ok(())
}

pub(crate) fn conv(w: &mut Writer, item: Item) -> Written {
    let attrs = item.attrs;
    let ints = |key: Key<Vec<i64>>| (key.name(), Value::Ints(attrs.get(key)));
    let groups = ("group", Value::Int(attrs.get(attr::GROUPS)));
    w.emit(
        item.onnx,
        &item.operands,
        item.result,
        vec![ints(attr::STRIDES), ints(attr::PADS), ints(attr::DILATIONS), groups],
    );
    Ok(())
}

/// `Gemm` of matrices, and a product with transposed weights elsewhere.
pub(crate) fn linear(w: &mut Writer, item: Item) -> Written {
    if w.g.ty(w.g.result(item.node)).rank() == 2 {
        w.emit(item.onnx, &item.operands, item.result, vec![("transB", Value::Int(1))]);
        return Ok(());
    }
    let (turned, product) = (w.fresh(&item.named("weights")), w.fresh(&item.named("product")));
    w.emit("Transpose", &[item.operands[1].clone()], &turned, vec![("perm", Value::Ints(vec![1, 0]))]);
    let result = if item.operands.len() > 2 { product.as_str() } else { item.result };
    w.emit("MatMul", &[item.operands[0].clone(), turned], result, vec![]);
    if let Some(bias) = item.operands.get(2) {
        w.emit("Add", &[product.clone(), bias.clone()], item.result, vec![]);
    }
    Ok(())
}

pub(crate) fn pool(w: &mut Writer, item: Item) -> Written {
    let attributes = pool_attributes(w, &item);
    w.emit(item.onnx, &item.operands, item.result, attributes);
    Ok(())
}

pub(super) fn pool_attributes(w: &Writer, item: &Item) -> Vec<(&'static str, Value)> {
    let attrs = item.attrs;
    let ints = |key| Value::Ints(attrs.get(key));
    let mut attributes =
        vec![("kernel_shape", ints(attr::KERNEL)), ("strides", ints(attr::STRIDES)), ("pads", ints(attr::PADS))];
    // ONNX Runtime's quantized mean knows none.
    if attrs.get(attr::DILATIONS) != [1, 1] {
        attributes.push(("dilations", ints(attr::DILATIONS)));
    }
    if w.g.op(item.node) == Opcode::AveragePool {
        attributes.push(("count_include_pad", Value::Int(attrs.get(attr::COUNT_INCLUDE_PAD).into())));
    }
    attributes
}

pub(crate) fn reduce(w: &mut Writer, mut item: Item) -> Written {
    let attrs = item.attrs;
    let axes = list(w, &item, "axes", attrs.get(attr::AXES));
    item.operands.push(axes);
    w.emit(item.onnx, &item.operands, item.result, vec![("keepdims", Value::Int(attrs.get(attr::KEEPDIMS).into()))]);
    Ok(())
}

/// `LayerNormalization` where scale and bias have the shape of what is normalized; elsewhere its parts.
pub(crate) fn layer_norm(w: &mut Writer, item: Item) -> Written {
    let (g, attrs) = (w.g, item.attrs);
    let (axis, epsilon) = (attrs.get(attr::AXIS), attrs.get(attr::EPSILON));
    let operands = g.operands(item.node);
    let dims = &g.ty(operands[0]).dims;
    let normalized = usize::try_from(axis).ok().and_then(|axis| dims.get(axis..)).unwrap_or_default();
    let centered = attrs.get(attr::CENTERED);
    if centered && operands[1..].iter().all(|&v| g.ty(v).dims == normalized) {
        let attributes = vec![("axis", Value::Int(axis)), ("epsilon", Value::Float(epsilon))];
        w.emit(item.onnx, &item.operands, item.result, attributes);
        return Ok(());
    }
    let axes = list(w, &item, "axes", (axis..).take(normalized.len()).collect());
    let epsilon = w.constant(&item.named("epsilon"), &[], Data::F32(vec![epsilon]));
    let x = &item.operands[0];
    let centred = if centered {
        let mean = step(w, &item, "ReduceMean", "mean", &[x, &axes]);
        step(w, &item, "Sub", "centred", &[x, &mean])
    } else {
        x.clone()
    };
    let squares = step(w, &item, "Mul", "squares", &[&centred, &centred]);
    let variance = step(w, &item, "ReduceMean", "variance", &[&squares, &axes]);
    let shifted = step(w, &item, "Add", "shifted", &[&variance, &epsilon]);
    let deviation = step(w, &item, "Sqrt", "deviation", &[&shifted]);
    let normal = step(w, &item, "Div", "normal", &[&centred, &deviation]);
    let scaled = step(w, &item, "Mul", "scaled", &[&normal, &item.operands[1]]);
    w.emit("Add", &[scaled, item.operands[2].clone()], item.result, vec![]);
    Ok(())
}

/// A node on the way to a result; gives the name of its own.
pub(super) fn step(w: &mut Writer, item: &Item, op: &str, part: &str, operands: &[&String]) -> String {
    let name = w.fresh(&item.named(part));
    let operands: Vec<String> = operands.iter().map(|&name| name.clone()).collect();
    w.emit(op, &operands, &name, vec![]);
    name
}

/// What has an axis and nothing else.
pub(crate) fn along_axis(w: &mut Writer, item: Item) -> Written {
    let axis = Value::Int(item.attrs.get(attr::AXIS));
    w.emit(item.onnx, &item.operands, item.result, vec![("axis", axis)]);
    Ok(())
}

/// What takes its result's shape as an operand.
pub(crate) fn shaped(w: &mut Writer, mut item: Item) -> Written {
    let shape = item.attrs.get(attr::SHAPE);
    let shape = list(w, &item, "shape", shape);
    item.operands.push(shape);
    w.emit(item.onnx, &item.operands, item.result, vec![]);
    Ok(())
}

pub(crate) fn transpose(w: &mut Writer, item: Item) -> Written {
    let perm = Value::Ints(item.attrs.get(attr::PERM));
    w.emit(item.onnx, &item.operands, item.result, vec![("perm", perm)]);
    Ok(())
}

pub(crate) fn slice(w: &mut Writer, mut item: Item) -> Written {
    let attrs = item.attrs;
    let axes = (0..).zip(attrs.get(attr::STARTS)).map(|(axis, _)| axis).collect();
    for (name, values) in [
        ("starts", attrs.get(attr::STARTS)),
        ("ends", attrs.get(attr::ENDS)),
        ("axes", axes),
        ("steps", attrs.get(attr::STEPS)),
    ] {
        let values = list(w, &item, name, values);
        item.operands.push(values);
    }
    w.emit(item.onnx, &item.operands, item.result, vec![]);
    Ok(())
}

pub(crate) fn pad(w: &mut Writer, mut item: Item) -> Written {
    let (g, attrs) = (w.g, item.attrs);
    let pads = list(w, &item, "pads", attrs.get(attr::PADS));
    // On quantized types the value is a code.
    let code = attrs.get(attr::VALUE);
    let ty = g.ty(g.result(item.node));
    let value = match &ty.elem {
        Elem::Uniform(u) => Data::F32(vec![(code - u.zero_point() as f32) * u.scale()]),
        Elem::Int(int) => Data::integers(*int, [towards_zero(code.into())]),
        Elem::Bool => return Err(unwritable(Opcode::Pad)),
        Elem::F32 | Elem::Calibrated(_) => Data::F32(vec![code]),
    };
    let value = w.constant(&item.named("value"), &[], value);
    item.operands.extend([pads, value]);
    w.emit(item.onnx, &item.operands, item.result, vec![]);
    Ok(())
}

/// A list of integers that an operator takes as an operand.
pub(super) fn list(w: &mut Writer, item: &Item, name: &str, values: Vec<i64>) -> String {
    w.constant(&item.named(name), &[values.len()], Data::I64(values))
}
