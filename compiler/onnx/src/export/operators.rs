//! What each operator is in ONNX.

use qcc_ir::{Class, Data, NodeId, Opcode};

use super::{Value, Writer};

/// Functions of one value: the ONNX operator, and the attributes that have the same names.
const UNARY: &[(Opcode, &str, &[&str])] = &[
    (Opcode::Relu, "Relu", &[]),
    (Opcode::LeakyRelu, "LeakyRelu", &["alpha"]),
    (Opcode::Elu, "Elu", &["alpha"]),
    (Opcode::Selu, "Selu", &["alpha", "gamma"]),
    (Opcode::Celu, "Celu", &["alpha"]),
    (Opcode::ThresholdedRelu, "ThresholdedRelu", &["alpha"]),
    (Opcode::Sigmoid, "Sigmoid", &[]),
    (Opcode::HardSigmoid, "HardSigmoid", &["alpha", "beta"]),
    (Opcode::HardSwish, "HardSwish", &[]),
    (Opcode::Tanh, "Tanh", &[]),
    (Opcode::Softplus, "Softplus", &[]),
    (Opcode::Softsign, "Softsign", &[]),
    (Opcode::Mish, "Mish", &[]),
    (Opcode::Erf, "Erf", &[]),
    (Opcode::Exp, "Exp", &[]),
    (Opcode::Log, "Log", &[]),
    (Opcode::Sqrt, "Sqrt", &[]),
    (Opcode::Reciprocal, "Reciprocal", &[]),
    (Opcode::Neg, "Neg", &[]),
    (Opcode::Abs, "Abs", &[]),
    (Opcode::Floor, "Floor", &[]),
    (Opcode::Ceil, "Ceil", &[]),
    (Opcode::Round, "Round", &[]),
    (Opcode::Sin, "Sin", &[]),
    (Opcode::Cos, "Cos", &[]),
    (Opcode::Tan, "Tan", &[]),
    (Opcode::Asin, "Asin", &[]),
    (Opcode::Acos, "Acos", &[]),
    (Opcode::Atan, "Atan", &[]),
    (Opcode::Sinh, "Sinh", &[]),
    (Opcode::Cosh, "Cosh", &[]),
    (Opcode::Asinh, "Asinh", &[]),
    (Opcode::Acosh, "Acosh", &[]),
    (Opcode::Atanh, "Atanh", &[]),
    (Opcode::Shrink, "Shrink", &["lambd", "bias"]),
    (Opcode::Sign, "Sign", &[]),
];

/// Functions of two values.
const BINARY: &[(Opcode, &str)] = &[
    (Opcode::Add, "Add"),
    (Opcode::Sub, "Sub"),
    (Opcode::Mul, "Mul"),
    (Opcode::Div, "Div"),
    (Opcode::Min, "Min"),
    (Opcode::Max, "Max"),
    (Opcode::Pow, "Pow"),
    (Opcode::PRelu, "PRelu"),
];

/// Writes the node `n` on the real values `operands`; its result is named `real`.
pub(super) fn write(w: &mut Writer, n: NodeId, operands: Vec<String>, real: &str) -> Result<(), String> {
    let g = w.g;
    let op = g.op(n);
    let attrs = &g.node(n).attrs;
    if let Some((_, onnx, names)) = UNARY.iter().find(|row| row.0 == op) {
        let attributes = names.iter().map(|&name| (name, Value::Float(attrs.float(name)))).collect();
        w.emit(onnx, &operands, real, attributes);
        return Ok(());
    }
    if let Some((_, onnx)) = BINARY.iter().find(|row| row.0 == op) {
        w.emit(onnx, &operands, real, vec![]);
        return Ok(());
    }
    if matches!(op.info().class, Class::Move(_)) {
        return movement(w, n, operands, real);
    }
    computation(w, n, operands, real)
}

/// What is neither a function of one value nor of two.
fn computation(w: &mut Writer, n: NodeId, mut operands: Vec<String>, real: &str) -> Result<(), String> {
    let g = w.g;
    let (op, attrs) = (g.op(n), &g.node(n).attrs);
    let ints = |name: &str| Value::Ints(attrs.ints(name));
    match op {
        Opcode::Clip => {
            for name in ["min", "max"] {
                let bound = w.constant(format!("{real}.{name}"), &[], Data::F32(vec![attrs.float(name)]));
                operands.push(bound);
            }
            w.emit("Clip", &operands, real, vec![]);
        }
        Opcode::Gelu => {
            let approximate = if attrs.bool("tanh") { "tanh" } else { "none" };
            w.emit("Gelu", &operands, real, vec![("approximate", Value::Text(approximate))]);
        }
        Opcode::Swish => {
            let (scaled, gate) = (format!("{real}.scaled"), format!("{real}.gate"));
            let alpha = w.constant(format!("{real}.alpha"), &[], Data::F32(vec![attrs.float("alpha")]));
            w.emit("Mul", &[operands[0].clone(), alpha], &scaled, vec![]);
            w.emit("Sigmoid", &[scaled], &gate, vec![]);
            w.emit("Mul", &[operands[0].clone(), gate], real, vec![]);
        }
        Opcode::MatMul if attrs.float("alpha") == 1.0 => w.emit("MatMul", &operands, real, vec![]),
        Opcode::MatMul => {
            let product = format!("{real}.product");
            w.emit("MatMul", &operands, &product, vec![]);
            let alpha = w.constant(format!("{real}.alpha"), &[], Data::F32(vec![attrs.float("alpha")]));
            w.emit("Mul", &[product, alpha], real, vec![]);
        }
        Opcode::Conv2d => {
            let groups = Value::Int(attrs.int("groups"));
            let attributes = vec![
                ("strides", ints("strides")),
                ("pads", ints("pads")),
                ("dilations", ints("dilations")),
                ("group", groups),
            ];
            w.emit("Conv", &operands, real, attributes);
        }
        Opcode::Linear if g.ty(g.result(n)).rank() == 2 => {
            w.emit("Gemm", &operands, real, vec![("transB", Value::Int(1))]);
        }
        Opcode::Linear => {
            let (turned, product) = (format!("{real}.weights"), format!("{real}.product"));
            w.emit("Transpose", &[operands[1].clone()], &turned, vec![("perm", Value::Ints(vec![1, 0]))]);
            let result = if operands.len() > 2 { product.as_str() } else { real };
            w.emit("MatMul", &[operands[0].clone(), turned], result, vec![]);
            if let Some(bias) = operands.get(2) {
                w.emit("Add", &[product.clone(), bias.clone()], real, vec![]);
            }
        }
        Opcode::MaxPool | Opcode::AveragePool => {
            let mut attributes =
                vec![("kernel_shape", ints("kernel")), ("strides", ints("strides")), ("pads", ints("pads"))];
            // ONNX Runtime's quantized mean knows none.
            if attrs.ints("dilations") != [1, 1] {
                attributes.push(("dilations", ints("dilations")));
            }
            if op == Opcode::AveragePool {
                attributes.push(("count_include_pad", Value::Int(attrs.bool("count_include_pad").into())));
            }
            let onnx = if op == Opcode::MaxPool { "MaxPool" } else { "AveragePool" };
            w.emit(onnx, &operands, real, attributes);
        }
        Opcode::ReduceMean | Opcode::ReduceSum | Opcode::ReduceMax | Opcode::ReduceMin => {
            let onnx = match op {
                Opcode::ReduceMean => "ReduceMean",
                Opcode::ReduceSum => "ReduceSum",
                Opcode::ReduceMax => "ReduceMax",
                _ => "ReduceMin",
            };
            let axes = list(w, real, "axes", attrs.ints("axes"));
            operands.push(axes);
            w.emit(onnx, &operands, real, vec![("keepdims", Value::Int(attrs.bool("keepdims").into()))]);
        }
        Opcode::BatchNorm => {
            w.emit("BatchNormalization", &operands, real, vec![("epsilon", Value::Float(attrs.float("epsilon")))]);
        }
        Opcode::LayerNorm => {
            let epsilon = Value::Float(attrs.float("epsilon"));
            let attributes = vec![("axis", Value::Int(attrs.int("axis"))), ("epsilon", epsilon)];
            w.emit("LayerNormalization", &operands, real, attributes);
        }
        Opcode::Softmax => w.emit("Softmax", &operands, real, vec![("axis", Value::Int(attrs.int("axis")))]),
        other => return Err(format!("`{}` cannot be written as ONNX", other.name())),
    }
    Ok(())
}

fn movement(w: &mut Writer, n: NodeId, mut operands: Vec<String>, real: &str) -> Result<(), String> {
    let g = w.g;
    let (op, attrs) = (g.op(n), &g.node(n).attrs);
    match op {
        Opcode::Reshape | Opcode::Expand => {
            let shape = list(w, real, "shape", attrs.ints("shape"));
            operands.push(shape);
            w.emit(if op == Opcode::Reshape { "Reshape" } else { "Expand" }, &operands, real, vec![]);
        }
        Opcode::Transpose => w.emit("Transpose", &operands, real, vec![("perm", Value::Ints(attrs.ints("perm")))]),
        Opcode::Concat => w.emit("Concat", &operands, real, vec![("axis", Value::Int(attrs.int("axis")))]),
        Opcode::Slice => {
            let rank = attrs.ints("starts").len() as i64;
            for (name, values) in [
                ("starts", attrs.ints("starts")),
                ("ends", attrs.ints("ends")),
                ("axes", (0..rank).collect()),
                ("steps", attrs.ints("steps")),
            ] {
                let values = list(w, real, name, values);
                operands.push(values);
            }
            w.emit("Slice", &operands, real, vec![]);
        }
        Opcode::Pad => {
            let pads = list(w, real, "pads", attrs.ints("pads"));
            // On quantized types the value is a code.
            let code = attrs.float("value");
            let value = g.ty(g.result(n)).uniform().map_or(code, |u| (code - u.zero_point() as f32) * u.scale());
            let value = w.constant(format!("{real}.value"), &[], Data::F32(vec![value]));
            operands.extend([pads, value]);
            w.emit("Pad", &operands, real, vec![]);
        }
        // What ONNX does at positions outside is not defined.
        Opcode::Gather if attrs.bool("wrap") => {
            w.emit("Gather", &operands, real, vec![("axis", Value::Int(attrs.int("axis")))])
        }
        other => return Err(format!("`{}` cannot be written as ONNX", other.name())),
    }
    Ok(())
}

/// A list of integers that an operator takes as an operand.
fn list(w: &mut Writer, real: &str, name: &str, values: Vec<i64>) -> String {
    w.constant(format!("{real}.{name}"), &[values.len()], Data::I64(values))
}
