//! Which ONNX operators can be imported: one row each, with the operator sets for which its meaning has been checked and
//! the rule that imports it. An operator set that is newer than a row is refused by name.

use qcc_ir::{Attr, AttrKind, Attrs, Opcode, ValueId};

use onnx_protobuf::NodeProto;

use super::site::Site;
use super::{
    constants, contrib, conv, conv_transpose, decompose, einsum, elementwise, gemm, order, pool, qoperator, quantize,
    reduce, resize, rnn, scatter, sequence, shape_ops, slice, truth,
};
use crate::fault::{Fault, Outcome};
use crate::model::domain;

/// Newest operator set that was looked through. Rows of operators that it changed end before the change.
const NEWEST: i64 = 28;

/// How a node becomes operations.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// One operation with the same operands; attributes have the same names and defaults.
    Same(Opcode),
    /// One result.
    One(fn(&mut Site) -> Outcome<ValueId>),
    /// Several results.
    Many(fn(&mut Site) -> Outcome<Vec<ValueId>>),
    /// One result, which is a sequence of these tensors.
    Sequence(fn(&mut Site) -> Outcome<Vec<ValueId>>),
    /// One result; a sequence among the operands is replaced by its tensors.
    OfSequence(fn(&mut Site) -> Outcome<ValueId>),
    /// The results of nodes inside: see `branch`.
    Branch,
}

/// ONNX operator of the default domain, oldest and newest operator set, rule.
pub(crate) struct Row(&'static str, i64, i64, Rule);

use Rule::{Branch, Many, OfSequence, One, Same, Sequence};

/// All operators that can be imported, in alphabetical order.
#[rustfmt::skip]
pub(crate) static ROWS: &[Row] = &[
    Row("Abs", 6, NEWEST, Same(Opcode::Abs)),
    Row("Acos", 7, NEWEST, Same(Opcode::Acos)),
    Row("Acosh", 9, NEWEST, Same(Opcode::Acosh)),
    Row("Add", 7, NEWEST, Same(Opcode::Add)),
    Row("And", 7, NEWEST, One(truth::and)),
    Row("ArgMax", 1, NEWEST, One(order::arg_max)),
    Row("ArgMin", 1, NEWEST, One(order::arg_min)),
    Row("Asin", 7, NEWEST, Same(Opcode::Asin)),
    Row("Asinh", 9, NEWEST, Same(Opcode::Asinh)),
    Row("Atan", 7, NEWEST, Same(Opcode::Atan)),
    Row("Atanh", 9, NEWEST, Same(Opcode::Atanh)),
    Row("AveragePool", 7, NEWEST, One(pool::average_pool)),
    Row("BatchNormalization", 7, NEWEST, Many(decompose::batch_norm)),
    Row("Cast", 6, NEWEST, One(constants::cast)),
    Row("CastLike", 15, NEWEST, One(constants::cast_like)),
    Row("Ceil", 6, NEWEST, Same(Opcode::Ceil)),
    Row("Celu", 12, 27, Same(Opcode::Celu)),
    Row("Clip", 6, NEWEST, One(elementwise::clip)),
    Row("Concat", 4, NEWEST, One(shape_ops::concat)),
    Row("ConcatFromSequence", 11, NEWEST, OfSequence(sequence::concat)),
    Row("Constant", 1, NEWEST, One(constants::value)),
    Row("ConstantOfShape", 9, NEWEST, One(constants::constant_of_shape)),
    Row("Conv", 1, NEWEST, One(conv::conv)),
    Row("ConvInteger", 10, NEWEST, One(qoperator::conv)),
    Row("ConvTranspose", 1, NEWEST, One(conv_transpose::conv_transpose)),
    Row("Cos", 7, NEWEST, Same(Opcode::Cos)),
    Row("Cosh", 9, NEWEST, Same(Opcode::Cosh)),
    Row("CumSum", 11, NEWEST, One(reduce::running_sum)),
    Row("DepthToSpace", 1, NEWEST, One(shape_ops::depth_to_space)),
    Row("DequantizeLinear", 10, NEWEST, One(quantize::dequantize_linear)),
    Row("Div", 7, NEWEST, Same(Opcode::Div)),
    Row("Dropout", 7, NEWEST, Many(elementwise::dropout)),
    Row("DynamicQuantizeLinear", 11, NEWEST, Many(qoperator::dynamic)),
    Row("Einsum", 12, NEWEST, One(einsum::einsum)),
    Row("Elu", 6, NEWEST, Same(Opcode::Elu)),
    Row("Equal", 7, NEWEST, One(constants::equal)),
    Row("Erf", 9, NEWEST, Same(Opcode::Erf)),
    Row("Exp", 6, NEWEST, Same(Opcode::Exp)),
    Row("Expand", 8, NEWEST, One(shape_ops::expand)),
    Row("Flatten", 1, NEWEST, One(shape_ops::flatten)),
    Row("Floor", 6, NEWEST, Same(Opcode::Floor)),
    Row("GRU", 7, NEWEST, Many(rnn::gru)),
    Row("Gather", 1, NEWEST, One(shape_ops::gather)),
    Row("GatherElements", 11, NEWEST, One(scatter::gather_elements)),
    Row("GatherND", 11, NEWEST, One(scatter::gather_nd)),
    Row("Gelu", 20, NEWEST, One(elementwise::gelu)),
    Row("Gemm", 7, NEWEST, One(gemm::gemm)),
    Row("GlobalAveragePool", 1, NEWEST, One(pool::global_average_pool)),
    Row("GlobalMaxPool", 1, NEWEST, One(pool::global_max_pool)),
    Row("Greater", 7, NEWEST, One(constants::greater)),
    Row("GreaterOrEqual", 12, NEWEST, One(constants::greater_or_equal)),
    Row("GroupNormalization", 18, NEWEST, One(decompose::group_norm)),
    Row("HardSigmoid", 6, NEWEST, Same(Opcode::HardSigmoid)),
    Row("HardSwish", 14, NEWEST, Same(Opcode::HardSwish)),
    Row("Identity", 1, NEWEST, One(elementwise::identity)),
    Row("If", 1, NEWEST, Branch),
    Row("InstanceNormalization", 6, NEWEST, One(decompose::instance_norm)),
    Row("IsNaN", 9, NEWEST, One(truth::is_nan)),
    Row("LRN", 1, NEWEST, One(decompose::local_response)),
    Row("LSTM", 7, NEWEST, Many(rnn::lstm)),
    Row("LayerNormalization", 17, NEWEST, Many(decompose::layer_norm)),
    Row("LeakyRelu", 6, NEWEST, Same(Opcode::LeakyRelu)),
    Row("Less", 7, NEWEST, One(constants::less)),
    Row("LessOrEqual", 12, NEWEST, One(constants::less_or_equal)),
    Row("Log", 6, NEWEST, Same(Opcode::Log)),
    Row("LogSoftmax", 1, NEWEST, One(reduce::log_softmax)),
    Row("LpNormalization", 1, NEWEST, One(decompose::lp_norm)),
    Row("LpPool", 2, NEWEST, One(pool::lp_pool)),
    Row("MatMul", 1, NEWEST, One(gemm::matmul)),
    Row("MatMulInteger", 10, NEWEST, One(qoperator::matmul)),
    Row("Max", 6, NEWEST, One(elementwise::max)),
    Row("MaxPool", 1, NEWEST, Many(pool::max_pool)),
    Row("Mean", 6, NEWEST, One(elementwise::mean)),
    Row("MeanVarianceNormalization", 9, NEWEST, One(decompose::mean_variance_norm)),
    Row("Min", 6, NEWEST, One(elementwise::min)),
    Row("Mish", 18, NEWEST, Same(Opcode::Mish)),
    Row("Mod", 10, 27, One(constants::modulo)),
    Row("Mul", 7, NEWEST, Same(Opcode::Mul)),
    Row("Neg", 6, NEWEST, Same(Opcode::Neg)),
    Row("NonZero", 9, NEWEST, One(constants::non_zero)),
    Row("Not", 1, NEWEST, One(truth::not)),
    Row("Or", 7, NEWEST, One(truth::or)),
    Row("PRelu", 7, NEWEST, Same(Opcode::PRelu)),
    Row("Pad", 2, NEWEST, One(shape_ops::pad)),
    Row("Pow", 7, NEWEST, One(elementwise::pow)),
    Row("QLinearConv", 10, NEWEST, One(quantize::conv)),
    Row("QLinearMatMul", 10, NEWEST, One(quantize::matmul)),
    Row("QuantizeLinear", 10, NEWEST, One(quantize::quantize_linear)),
    Row("RMSNormalization", 23, NEWEST, Many(contrib::rms_norm)),
    Row("RNN", 7, NEWEST, Many(rnn::rnn)),
    Row("Range", 11, NEWEST, One(constants::range)),
    Row("Reciprocal", 6, NEWEST, Same(Opcode::Reciprocal)),
    Row("ReduceL1", 1, NEWEST, One(reduce::l1)),
    Row("ReduceL2", 1, NEWEST, One(reduce::l2)),
    Row("ReduceLogSum", 1, NEWEST, One(reduce::log_sum)),
    Row("ReduceLogSumExp", 1, NEWEST, One(reduce::log_sum_exp)),
    Row("ReduceMax", 1, NEWEST, One(reduce::max)),
    Row("ReduceMean", 1, NEWEST, One(reduce::mean)),
    Row("ReduceMin", 1, NEWEST, One(reduce::min)),
    Row("ReduceProd", 1, NEWEST, One(constants::reduce_product)),
    Row("ReduceSum", 1, NEWEST, One(reduce::sum)),
    Row("ReduceSumSquare", 1, NEWEST, One(reduce::sum_square)),
    Row("Relu", 6, NEWEST, Same(Opcode::Relu)),
    Row("Reshape", 5, NEWEST, One(shape_ops::reshape)),
    Row("Resize", 10, NEWEST, One(resize::resize)),
    Row("Round", 11, NEWEST, Same(Opcode::Round)),
    Row("Scatter", 9, 10, One(scatter::scatter_elements)),
    Row("ScatterElements", 11, NEWEST, One(scatter::scatter_elements)),
    Row("ScatterND", 11, NEWEST, One(scatter::scatter_nd)),
    Row("Selu", 6, NEWEST, Same(Opcode::Selu)),
    Row("SequenceAt", 11, NEWEST, OfSequence(sequence::at)),
    Row("SequenceConstruct", 11, NEWEST, Sequence(sequence::construct)),
    Row("SequenceLength", 11, NEWEST, OfSequence(sequence::length)),
    Row("Shape", 1, NEWEST, One(constants::shape)),
    Row("Shrink", 9, NEWEST, Same(Opcode::Shrink)),
    Row("Sigmoid", 6, NEWEST, Same(Opcode::Sigmoid)),
    Row("Sign", 9, NEWEST, Same(Opcode::Sign)),
    Row("Sin", 7, NEWEST, Same(Opcode::Sin)),
    Row("Sinh", 9, NEWEST, Same(Opcode::Sinh)),
    Row("Size", 1, NEWEST, One(constants::size)),
    Row("Slice", 1, NEWEST, One(slice::slice)),
    Row("Softmax", 1, NEWEST, One(reduce::softmax)),
    Row("Softplus", 1, NEWEST, Same(Opcode::Softplus)),
    Row("Softsign", 1, NEWEST, Same(Opcode::Softsign)),
    Row("SpaceToDepth", 1, NEWEST, One(shape_ops::space_to_depth)),
    Row("Split", 2, NEWEST, Many(slice::split)),
    Row("SplitToSequence", 11, NEWEST, Sequence(sequence::split)),
    Row("Sqrt", 6, NEWEST, Same(Opcode::Sqrt)),
    Row("Squeeze", 1, NEWEST, One(shape_ops::squeeze)),
    Row("Sub", 7, NEWEST, Same(Opcode::Sub)),
    Row("Sum", 6, NEWEST, One(elementwise::sum)),
    Row("Swish", 24, NEWEST, Same(Opcode::Swish)),
    Row("Tan", 7, NEWEST, Same(Opcode::Tan)),
    Row("Tanh", 6, NEWEST, Same(Opcode::Tanh)),
    Row("ThresholdedRelu", 10, NEWEST, Same(Opcode::ThresholdedRelu)),
    Row("Tile", 6, NEWEST, One(shape_ops::tile)),
    Row("TopK", 1, NEWEST, Many(order::top_k)),
    Row("Transpose", 1, NEWEST, One(shape_ops::transpose)),
    Row("Trilu", 14, NEWEST, One(elementwise::trilu)),
    Row("Unsqueeze", 1, NEWEST, One(shape_ops::unsqueeze)),
    Row("Upsample", 7, 9, One(resize::upsample)),
    Row("Where", 9, NEWEST, One(constants::select)),
    Row("Xor", 7, NEWEST, One(truth::xor)),
];

/// The domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// Operators of the domain `com.microsoft`, in alphabetical order: those that ONNX Runtime's quantizer and optimizer write.
#[rustfmt::skip]
pub(crate) static MICROSOFT: &[Row] = &[
    Row("BiasGelu", 1, 1, One(contrib::gelu)),
    Row("DequantizeLinear", 1, 1, One(quantize::dequantize_linear)),
    Row("EmbedLayerNormalization", 1, 1, Many(contrib::embed_layer_norm)),
    Row("FastGelu", 1, 1, One(contrib::fast_gelu)),
    Row("FusedConv", 1, 1, One(contrib::fused_conv)),
    Row("FusedGemm", 1, 1, One(contrib::fused_gemm)),
    Row("FusedMatMul", 1, 1, One(contrib::fused_matmul)),
    Row("Gelu", 1, 1, One(contrib::gelu)),
    Row("QGemm", 1, 1, One(qoperator::gemm)),
    Row("QLinearAdd", 1, 1, One(qoperator::add)),
    Row("QLinearAveragePool", 1, 1, One(qoperator::average_pool)),
    Row("QLinearConcat", 1, 1, One(qoperator::concat)),
    Row("QLinearGlobalAveragePool", 1, 1, One(qoperator::global_average_pool)),
    Row("QLinearLeakyRelu", 1, 1, One(qoperator::leaky_relu)),
    Row("QLinearMul", 1, 1, One(qoperator::mul)),
    Row("QLinearReduceMean", 1, 1, One(qoperator::reduce_mean)),
    Row("QLinearSigmoid", 1, 1, One(qoperator::sigmoid)),
    Row("QLinearSoftmax", 1, 1, One(qoperator::softmax)),
    Row("QLinearWhere", 1, 1, One(qoperator::select)),
    Row("QuantizeLinear", 1, 1, One(quantize::quantize_linear)),
    Row("QuickGelu", 1, 1, One(contrib::quick_gelu)),
    Row("SkipLayerNormalization", 1, 1, Many(contrib::skip_layer_norm)),
];

/// An ONNX operator that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Importable {
    /// Its domain, empty for the default one.
    pub domain: &'static str,
    /// Name in the domain.
    pub name: &'static str,
    /// Oldest and newest operator set for which its meaning has been checked.
    pub opsets: (i64, i64),
    /// What it becomes, where that is one operator with the same operands and attributes.
    pub same: Option<Opcode>,
}

/// All operators that can be imported, by name.
pub fn importable() -> impl Iterator<Item = Importable> {
    let rows = |domain, rows: &'static [Row]| {
        rows.iter().map(move |&Row(name, oldest, newest, rule)| {
            let same = match rule {
                Same(op) => Some(op),
                One(_) | Many(_) | Sequence(_) | OfSequence(_) | Branch => None,
            };
            Importable { domain, name, opsets: (oldest, newest), same }
        })
    };
    rows("", ROWS).chain(rows(CONTRIB, MICROSOFT))
}

impl Rule {
    /// Imports a node: its results, in order.
    pub(crate) fn apply(self, site: &mut Site) -> Outcome<Vec<ValueId>> {
        match self {
            Same(op) => same(site, op).map(|v| vec![v]),
            One(rule) | OfSequence(rule) => rule(site).map(|v| vec![v]),
            Many(rule) | Sequence(rule) => rule(site),
            Branch => Err(Fault::unsupported("nodes inside nodes")),
        }
    }
}

fn same(site: &mut Site, op: Opcode) -> Outcome<ValueId> {
    let mut attrs = Attrs::new(op);
    for schema in op.info().attrs {
        let value = match schema.kind {
            AttrKind::Int => site.attrs.int(schema.name)?.map(Attr::Int),
            AttrKind::Ints => site.attrs.ints(schema.name)?.map(|v| Attr::Ints(v.to_vec())),
            AttrKind::Float => site.attrs.float(schema.name)?.map(Attr::Float),
            AttrKind::Bool => site.attrs.int(schema.name)?.map(|v| Attr::Bool(v != 0)),
        };
        if let Some(value) = value {
            attrs.try_set(schema.name, value).map_err(Fault::shape)?;
        }
    }
    let operands = site.all_operands()?;
    site.emit(op, &operands, attrs, "")
}

/// The rule for a node of a model whose operator set for the node's domain is `opset`.
pub(crate) fn find(node: &NodeProto, opset: Option<i64>) -> Outcome<Rule> {
    let op = &node.op_type;
    let own = domain(&node.domain);
    let microsoft = MICROSOFT.binary_search_by(|row| row.0.cmp(op)).ok().filter(|_| own == CONTRIB);
    if let Some(i) = microsoft {
        return Ok(MICROSOFT[i].3);
    }
    if !own.is_empty() {
        return Err(Fault::unsupported(format!("operator {op} of domain `{own}` is not supported"))
            .help("export the model with operators of the default ONNX domain only"));
    }
    let opset = opset.ok_or_else(|| Fault::shape("the model names no operator set of the default domain"))?;
    let Ok(i) = ROWS.binary_search_by(|row| row.0.cmp(op)) else {
        let help = match op.as_str() {
            "Loop" | "Scan" => "control flow cannot be compiled; export the model with fixed shapes and options",
            "NonMaxSuppression" | "NonZero" | "Compress" | "Unique" => {
                "the size of its result is known at run time only; end the model in front of it, with --outputs VALUE,.., and do the rest in the host"
            }
            op if op.starts_with("Sequence") || op.ends_with("Sequence") || op.starts_with("Optional") => {
                "of sequences, only those can be compiled whose tensors are known; export the model without sequences and optional values"
            }
            op if op.starts_with("String") || op.starts_with("Regex") || op == "TfIdfVectorizer" => {
                "texts cannot be compiled; cut the model behind it and give the numbers"
            }
            op if op.starts_with("Random") || matches!(op, "Bernoulli" | "Multinomial") => {
                "a compiled model computes the same from the same; give random numbers as an input"
            }
            op if op.starts_with("Adam") || matches!(op, "Momentum" | "Adagrad" | "Gradient") => {
                "training is not compiled; export the model for inference"
            }
            _ => {
                "replace it by supported operators when exporting the model, or end the model in front of it, with --outputs VALUE,.."
            }
        };
        return Err(Fault::unsupported(format!("operator {op} is not supported")).help(help));
    };
    let Row(_, oldest, newest, rule) = ROWS[i];
    match opset {
        _ if opset < oldest => Err(Fault::shape(format!("operator {op} does not exist before operator set {oldest}"))),
        _ if opset > newest && op == "Upsample" => Err(Fault::shape("operator Upsample ends with operator set 9")),
        _ if opset > newest => Err(Fault::unsupported(format!("operator {op} of operator set {opset} is not known"))
            .help(format!("export the model with operator set {newest} or older"))),
        _ => Ok(rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted() {
        assert!(ROWS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(MICROSOFT.is_sorted_by(|a, b| a.0 < b.0));
        assert!(ROWS.iter().all(|row| row.1 <= row.2 && row.2 <= NEWEST));
    }

    #[test]
    fn versions_are_checked() {
        let of = |op: &str, opset| {
            let node = NodeProto { op_type: op.into(), ..NodeProto::new() };
            find(&node, Some(opset)).err().map(|f| f.message)
        };
        assert_eq!(of("Relu", 13), None);
        assert!(of("HardSwish", 13).is_some_and(|m| m.contains("does not exist before operator set 14")));
        assert!(of("Relu", 99).is_some_and(|m| m.contains("operator set 99 is not known")));
        assert!(of("Nonsense", 13).is_some_and(|m| m.contains("Nonsense is not supported")));
    }
}
