//! What each operator is in ONNX: the functions to which rows of the table of operators point.

use qcc_ir::attr::{self, Key};
use qcc_ir::attrs::AttrSchema;
use qcc_ir::{Attr, Data, Opcode};

use super::writer::{Item, Value, Writer};

type Written = Result<(), String>;

pub(super) fn unwritable(op: Opcode) -> String {
    format!("`{}` cannot be written as ONNX", op.name())
}

impl Item<'_> {
    fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.real)
    }
}

/// The operator of the same meaning; parameters that are reals have the same names.
pub(crate) fn same(w: &mut Writer, item: Item) -> Written {
    let node = w.g.node(item.node);
    let real = |a: &AttrSchema| match node.attrs.of_schema(a) {
        Some(Attr::Float(v)) => Some((a.name, Value::Float(v))),
        _ => None,
    };
    let attributes = node.op.info().attrs.iter().filter_map(real).collect();
    w.emit(item.onnx, &item.operands, item.real, attributes);
    Ok(())
}

pub(crate) fn clip(w: &mut Writer, mut item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
    for key in [attr::MIN, attr::MAX] {
        let bound = w.constant(item.named(key.name()), &[], Data::F32(vec![attrs.get(key)]));
        item.operands.push(bound);
    }
    w.emit(item.onnx, &item.operands, item.real, vec![]);
    Ok(())
}

pub(crate) fn gelu(w: &mut Writer, item: Item) -> Written {
    let approximate = if w.g.node(item.node).attrs.get(attr::TANH) { "tanh" } else { "none" };
    w.emit(item.onnx, &item.operands, item.real, vec![("approximate", Value::Text(approximate))]);
    Ok(())
}

/// Its own operator is younger than the files that are written.
pub(crate) fn swish(w: &mut Writer, item: Item) -> Written {
    let (scaled, gate) = (item.named("scaled"), item.named("gate"));
    let alpha = w.g.node(item.node).attrs.get(attr::ALPHA);
    let alpha = w.constant(item.named("alpha"), &[], Data::F32(vec![alpha]));
    w.emit("Mul", &[item.operands[0].clone(), alpha], &scaled, vec![]);
    w.emit("Sigmoid", &[scaled], &gate, vec![]);
    w.emit("Mul", &[item.operands[0].clone(), gate], item.real, vec![]);
    Ok(())
}

pub(crate) fn matmul(w: &mut Writer, item: Item) -> Written {
    let alpha = w.g.node(item.node).attrs.get(attr::ALPHA);
    if alpha == 1.0 {
        w.emit(item.onnx, &item.operands, item.real, vec![]);
        return Ok(());
    }
    let product = item.named("product");
    w.emit(item.onnx, &item.operands, &product, vec![]);
    let alpha = w.constant(item.named("alpha"), &[], Data::F32(vec![alpha]));
    w.emit("Mul", &[product, alpha], item.real, vec![]);
    Ok(())
}

pub(crate) fn conv(w: &mut Writer, item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
    let ints = |key: Key<Vec<i64>>| (key.name(), Value::Ints(attrs.get(key)));
    let groups = ("group", Value::Int(attrs.get(attr::GROUPS)));
    w.emit(
        item.onnx,
        &item.operands,
        item.real,
        vec![ints(attr::STRIDES), ints(attr::PADS), ints(attr::DILATIONS), groups],
    );
    Ok(())
}

/// `Gemm` of matrices, and a product with transposed weights elsewhere.
pub(crate) fn linear(w: &mut Writer, item: Item) -> Written {
    if w.g.ty(w.g.result(item.node)).rank() == 2 {
        w.emit(item.onnx, &item.operands, item.real, vec![("transB", Value::Int(1))]);
        return Ok(());
    }
    let (turned, product) = (item.named("weights"), item.named("product"));
    w.emit("Transpose", &[item.operands[1].clone()], &turned, vec![("perm", Value::Ints(vec![1, 0]))]);
    let result = if item.operands.len() > 2 { product.as_str() } else { item.real };
    w.emit("MatMul", &[item.operands[0].clone(), turned], result, vec![]);
    if let Some(bias) = item.operands.get(2) {
        w.emit("Add", &[product.clone(), bias.clone()], item.real, vec![]);
    }
    Ok(())
}

pub(crate) fn pool(w: &mut Writer, item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
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
    w.emit(item.onnx, &item.operands, item.real, attributes);
    Ok(())
}

pub(crate) fn reduce(w: &mut Writer, mut item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
    let axes = list(w, &item, "axes", attrs.get(attr::AXES));
    item.operands.push(axes);
    w.emit(item.onnx, &item.operands, item.real, vec![("keepdims", Value::Int(attrs.get(attr::KEEPDIMS).into()))]);
    Ok(())
}

pub(crate) fn layer_norm(w: &mut Writer, item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
    let epsilon = Value::Float(attrs.get(attr::EPSILON));
    let attributes = vec![("axis", Value::Int(attrs.get(attr::AXIS))), ("epsilon", epsilon)];
    w.emit(item.onnx, &item.operands, item.real, attributes);
    Ok(())
}

/// What has an axis and nothing else.
pub(crate) fn along_axis(w: &mut Writer, item: Item) -> Written {
    let axis = Value::Int(w.g.node(item.node).attrs.get(attr::AXIS));
    w.emit(item.onnx, &item.operands, item.real, vec![("axis", axis)]);
    Ok(())
}

/// What takes its result's shape as an operand.
pub(crate) fn shaped(w: &mut Writer, mut item: Item) -> Written {
    let shape = w.g.node(item.node).attrs.get(attr::SHAPE);
    let shape = list(w, &item, "shape", shape);
    item.operands.push(shape);
    w.emit(item.onnx, &item.operands, item.real, vec![]);
    Ok(())
}

pub(crate) fn transpose(w: &mut Writer, item: Item) -> Written {
    let perm = Value::Ints(w.g.node(item.node).attrs.get(attr::PERM));
    w.emit(item.onnx, &item.operands, item.real, vec![("perm", perm)]);
    Ok(())
}

pub(crate) fn slice(w: &mut Writer, mut item: Item) -> Written {
    let attrs = &w.g.node(item.node).attrs;
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
    w.emit(item.onnx, &item.operands, item.real, vec![]);
    Ok(())
}

pub(crate) fn pad(w: &mut Writer, mut item: Item) -> Written {
    let (g, attrs) = (w.g, &w.g.node(item.node).attrs);
    let pads = list(w, &item, "pads", attrs.get(attr::PADS));
    // On quantized types the value is a code.
    let code = attrs.get(attr::VALUE);
    let value = g.ty(g.result(item.node)).uniform().map_or(code, |u| (code - u.zero_point() as f32) * u.scale());
    let value = w.constant(item.named("value"), &[], Data::F32(vec![value]));
    item.operands.extend([pads, value]);
    w.emit(item.onnx, &item.operands, item.real, vec![]);
    Ok(())
}

/// What ONNX does at positions outside is not defined.
pub(crate) fn gather(w: &mut Writer, item: Item) -> Written {
    match w.g.node(item.node).attrs.get(attr::WRAP) {
        true => along_axis(w, item),
        false => Err(unwritable(Opcode::Gather)),
    }
}

/// A list of integers that an operator takes as an operand.
fn list(w: &mut Writer, item: &Item, name: &str, values: Vec<i64>) -> String {
    w.constant(item.named(name), &[values.len()], Data::I64(values))
}
