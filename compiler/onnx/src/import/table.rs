//! ONNX operators: one row each, with the operator sets for which its meaning has been checked, the rule that imports it, and,
//! where an operator of a graph is written as it, the function that does so. An operator set that is newer than a row is
//! refused by name.

use qcc_ir::{Attr, AttrKind, Attrs, Opcode, ValueId};

use onnx_protobuf::NodeProto;

use super::site::Site;
use super::{
    attention, blocks, boolean, cast, compare, constants, contrib, contrib_attention, conv, conv_transpose, decompose,
    einsum, elementwise, gemm, one_hot, order, pool, qoperator, quantize, reduce, resize, rnn, rotary, scatter, select,
    sequence, shape_ops, slice,
};
use crate::export::writer::Write;
use crate::export::{operators, positions};
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

/// An ONNX operator.
pub(crate) struct Row {
    name: &'static str,
    oldest: i64,
    newest: i64,
    rule: Rule,
    /// The operator of graphs that is written as this one, and how.
    written: Option<(Opcode, Write)>,
}

/// Name, oldest and newest operator set, and rule. What is imported as the same operation is written so too.
const fn row(name: &'static str, oldest: i64, newest: i64, rule: Rule) -> Row {
    let written: Option<(Opcode, Write)> = match rule {
        Same(op) => Some((op, operators::same)),
        One(_) | Many(_) | Sequence(_) | OfSequence(_) | Branch => None,
    };
    Row { name, oldest, newest, rule, written }
}

impl Row {
    const fn writes(mut self, op: Opcode, write: Write) -> Row {
        self.written = Some((op, write));
        self
    }
}

use Rule::{Branch, Many, OfSequence, One, Same, Sequence};

/// All operators that can be imported, in alphabetical order.
#[rustfmt::skip]
pub(crate) static ROWS: &[Row] = &[
    row("Abs", 6, NEWEST, Same(Opcode::Abs)),
    row("Acos", 7, NEWEST, Same(Opcode::Acos)),
    row("Acosh", 9, NEWEST, Same(Opcode::Acosh)),
    row("Add", 7, NEWEST, Same(Opcode::Add)),
    row("And", 7, NEWEST, One(boolean::and)),
    row("ArgMax", 1, NEWEST, One(order::arg_max)).writes(Opcode::ArgMax, positions::arg_max),
    row("ArgMin", 1, NEWEST, One(order::arg_min)),
    row("Asin", 7, NEWEST, Same(Opcode::Asin)),
    row("Asinh", 9, NEWEST, Same(Opcode::Asinh)),
    row("Atan", 7, NEWEST, Same(Opcode::Atan)),
    row("Atanh", 9, NEWEST, Same(Opcode::Atanh)),
    row("Attention", 23, NEWEST, Many(attention::attention)),
    row("AveragePool", 7, NEWEST, One(pool::average_pool)).writes(Opcode::AveragePool, operators::pool),
    row("BatchNormalization", 7, NEWEST, Many(decompose::batch_norm)).writes(Opcode::BatchNorm, operators::same),
    row("Cast", 6, NEWEST, One(cast::cast)).writes(Opcode::CastTo, positions::cast),
    row("CastLike", 15, NEWEST, One(cast::cast_like)),
    row("Ceil", 6, NEWEST, Same(Opcode::Ceil)),
    row("Celu", 12, 27, Same(Opcode::Celu)),
    row("Clip", 6, NEWEST, One(elementwise::clip)).writes(Opcode::Clip, operators::clip),
    row("Concat", 4, NEWEST, One(shape_ops::concat)).writes(Opcode::Concat, operators::along_axis),
    row("ConcatFromSequence", 11, NEWEST, OfSequence(sequence::concat)),
    row("Constant", 1, NEWEST, One(constants::value)),
    row("ConstantOfShape", 9, NEWEST, One(constants::constant_of_shape)),
    row("Conv", 1, NEWEST, One(conv::conv)).writes(Opcode::Conv2d, operators::conv),
    row("ConvInteger", 10, NEWEST, One(qoperator::conv_integer)),
    row("ConvTranspose", 1, NEWEST, One(conv_transpose::conv_transpose)),
    row("Cos", 7, NEWEST, Same(Opcode::Cos)),
    row("Cosh", 9, NEWEST, Same(Opcode::Cosh)),
    row("CumSum", 11, NEWEST, One(reduce::running_sum)),
    row("DepthToSpace", 1, NEWEST, One(shape_ops::depth_to_space)),
    row("DequantizeLinear", 10, NEWEST, One(quantize::dequantize_linear)),
    row("Div", 7, NEWEST, Same(Opcode::Div)),
    row("Dropout", 7, NEWEST, Many(elementwise::dropout)),
    row("DynamicQuantizeLinear", 11, NEWEST, Many(quantize::dynamic)),
    row("Einsum", 12, NEWEST, One(einsum::einsum)),
    row("Elu", 6, NEWEST, Same(Opcode::Elu)),
    row("Equal", 7, NEWEST, One(compare::equal)),
    row("Erf", 9, NEWEST, Same(Opcode::Erf)),
    row("Exp", 6, NEWEST, Same(Opcode::Exp)),
    row("Expand", 8, NEWEST, One(shape_ops::expand)).writes(Opcode::Expand, operators::shaped),
    row("Flatten", 1, NEWEST, One(shape_ops::flatten)),
    row("Floor", 6, NEWEST, Same(Opcode::Floor)),
    row("GRU", 7, NEWEST, Many(rnn::gru)),
    row("Gather", 1, NEWEST, One(shape_ops::gather)).writes(Opcode::Gather, positions::gather),
    row("GatherElements", 11, NEWEST, One(scatter::gather_elements)),
    row("GatherND", 11, NEWEST, One(scatter::gather_nd)),
    row("Gelu", 20, NEWEST, One(elementwise::gelu)).writes(Opcode::Gelu, operators::gelu),
    row("Gemm", 7, NEWEST, One(gemm::gemm)).writes(Opcode::Linear, operators::linear),
    row("GlobalAveragePool", 1, NEWEST, One(pool::global_average_pool)),
    row("GlobalMaxPool", 1, NEWEST, One(pool::global_max_pool)),
    row("Greater", 7, NEWEST, One(compare::greater)),
    row("GreaterOrEqual", 12, NEWEST, One(compare::greater_or_equal)),
    row("GroupNormalization", 18, NEWEST, One(decompose::group_norm)),
    row("HardSigmoid", 6, NEWEST, Same(Opcode::HardSigmoid)),
    row("HardSwish", 14, NEWEST, Same(Opcode::HardSwish)),
    row("Identity", 1, NEWEST, One(elementwise::identity)),
    row("If", 1, NEWEST, Branch),
    row("InstanceNormalization", 6, NEWEST, One(decompose::instance_norm)),
    row("IsNaN", 9, NEWEST, One(boolean::is_nan)),
    row("LRN", 1, NEWEST, One(decompose::local_response)),
    row("LSTM", 7, NEWEST, Many(rnn::lstm)),
    row("LayerNormalization", 1, NEWEST, Many(decompose::layer_norm)).writes(Opcode::LayerNorm, operators::layer_norm),
    row("LeakyRelu", 6, NEWEST, Same(Opcode::LeakyRelu)),
    row("Less", 7, NEWEST, One(compare::less)),
    row("LessOrEqual", 12, NEWEST, One(compare::less_or_equal)),
    row("Log", 6, NEWEST, Same(Opcode::Log)),
    row("LogSoftmax", 1, NEWEST, One(reduce::log_softmax)),
    row("LpNormalization", 1, NEWEST, One(decompose::lp_norm)),
    row("LpPool", 2, NEWEST, One(pool::lp_pool)),
    row("MatMul", 1, NEWEST, One(gemm::matmul)).writes(Opcode::MatMul, operators::matmul),
    row("MatMulInteger", 10, NEWEST, One(qoperator::matmul_integer)),
    row("Max", 6, NEWEST, One(elementwise::max)).writes(Opcode::Max, operators::same),
    row("MaxPool", 1, NEWEST, Many(pool::max_pool)).writes(Opcode::MaxPool, operators::pool),
    row("Mean", 6, NEWEST, One(elementwise::mean)),
    row("MeanVarianceNormalization", 9, NEWEST, One(decompose::mean_variance_norm)),
    row("Min", 6, NEWEST, One(elementwise::min)).writes(Opcode::Min, operators::same),
    row("Mish", 18, NEWEST, Same(Opcode::Mish)),
    row("Mod", 10, 27, One(constants::modulo)),
    row("Mul", 7, NEWEST, Same(Opcode::Mul)),
    row("Neg", 6, NEWEST, Same(Opcode::Neg)),
    row("NonZero", 9, NEWEST, One(constants::non_zero)),
    row("Not", 1, NEWEST, One(boolean::not)),
    row("OneHot", 9, NEWEST, One(one_hot::one_hot)),
    row("Or", 7, NEWEST, One(boolean::or)),
    row("PRelu", 7, NEWEST, Same(Opcode::PRelu)),
    row("Pad", 2, NEWEST, One(shape_ops::pad)).writes(Opcode::Pad, operators::pad),
    row("Pow", 7, NEWEST, One(elementwise::pow)).writes(Opcode::Pow, operators::same),
    row("QLinearConv", 10, NEWEST, One(qoperator::qlinear_conv)),
    row("QLinearMatMul", 10, NEWEST, One(qoperator::qlinear_matmul)),
    row("QuantizeLinear", 10, NEWEST, One(quantize::quantize_linear)),
    row("RMSNormalization", 23, NEWEST, Many(contrib::rms_norm)),
    row("RNN", 7, NEWEST, Many(rnn::rnn)),
    row("Range", 11, NEWEST, One(constants::range)),
    row("Reciprocal", 6, NEWEST, Same(Opcode::Reciprocal)),
    row("ReduceL1", 1, NEWEST, One(reduce::l1)),
    row("ReduceL2", 1, NEWEST, One(reduce::l2)),
    row("ReduceLogSum", 1, NEWEST, One(reduce::log_sum)),
    row("ReduceLogSumExp", 1, NEWEST, One(reduce::log_sum_exp)),
    row("ReduceMax", 1, NEWEST, One(reduce::max)).writes(Opcode::ReduceMax, operators::reduce),
    row("ReduceMean", 1, NEWEST, One(reduce::mean)).writes(Opcode::ReduceMean, operators::reduce),
    row("ReduceMin", 1, NEWEST, One(reduce::min)).writes(Opcode::ReduceMin, operators::reduce),
    row("ReduceProd", 1, NEWEST, One(constants::reduce_product)),
    row("ReduceSum", 1, NEWEST, One(reduce::sum)).writes(Opcode::ReduceSum, operators::reduce),
    row("ReduceSumSquare", 1, NEWEST, One(reduce::sum_square)),
    row("Relu", 6, NEWEST, Same(Opcode::Relu)),
    row("Reshape", 5, NEWEST, One(shape_ops::reshape)).writes(Opcode::Reshape, operators::shaped),
    row("Resize", 10, NEWEST, One(resize::resize)),
    row("RotaryEmbedding", 23, NEWEST, One(rotary::embedding)),
    row("Round", 11, NEWEST, Same(Opcode::Round)),
    row("Scatter", 9, 10, One(scatter::scatter_elements)),
    row("ScatterElements", 11, NEWEST, One(scatter::scatter_elements)),
    row("ScatterND", 11, NEWEST, One(scatter::scatter_nd)),
    row("Selu", 6, NEWEST, Same(Opcode::Selu)),
    row("SequenceAt", 11, NEWEST, OfSequence(sequence::at)),
    row("SequenceConstruct", 11, NEWEST, Sequence(sequence::construct)),
    row("SequenceLength", 11, NEWEST, OfSequence(sequence::length)),
    row("Shape", 1, NEWEST, One(constants::shape)),
    row("Shrink", 9, NEWEST, Same(Opcode::Shrink)),
    row("Sigmoid", 6, NEWEST, Same(Opcode::Sigmoid)),
    row("Sign", 9, NEWEST, Same(Opcode::Sign)),
    row("SimplifiedLayerNormalization", 1, NEWEST, Many(contrib::rms_norm)),
    row("Sin", 7, NEWEST, Same(Opcode::Sin)),
    row("Sinh", 9, NEWEST, Same(Opcode::Sinh)),
    row("Size", 1, NEWEST, One(constants::size)),
    row("Slice", 1, NEWEST, One(slice::slice)).writes(Opcode::Slice, operators::slice),
    row("Softmax", 1, NEWEST, One(reduce::softmax)).writes(Opcode::Softmax, operators::along_axis),
    row("Softplus", 1, NEWEST, Same(Opcode::Softplus)),
    row("Softsign", 1, NEWEST, Same(Opcode::Softsign)),
    row("SpaceToDepth", 1, NEWEST, One(shape_ops::space_to_depth)),
    row("Split", 2, NEWEST, Many(slice::split)),
    row("SplitToSequence", 11, NEWEST, Sequence(sequence::split)),
    row("Sqrt", 6, NEWEST, Same(Opcode::Sqrt)),
    row("Squeeze", 1, NEWEST, One(shape_ops::squeeze)),
    row("Sub", 7, NEWEST, Same(Opcode::Sub)),
    row("Sum", 6, NEWEST, One(elementwise::sum)),
    row("Swish", 24, NEWEST, Same(Opcode::Swish)).writes(Opcode::Swish, operators::swish),
    row("Tan", 7, NEWEST, Same(Opcode::Tan)),
    row("Tanh", 6, NEWEST, Same(Opcode::Tanh)),
    row("ThresholdedRelu", 10, NEWEST, Same(Opcode::ThresholdedRelu)),
    row("Tile", 6, NEWEST, One(shape_ops::tile)),
    row("TopK", 1, NEWEST, Many(order::top_k)).writes(Opcode::TopK, positions::top_k),
    row("Transpose", 1, NEWEST, One(shape_ops::transpose)).writes(Opcode::Transpose, operators::transpose),
    row("Trilu", 14, NEWEST, One(elementwise::trilu)),
    row("Unsqueeze", 1, NEWEST, One(shape_ops::unsqueeze)),
    row("Upsample", 7, 9, One(resize::upsample)),
    row("Where", 9, NEWEST, One(select::select)).writes(Opcode::Where, positions::select),
    row("Xor", 7, NEWEST, One(boolean::xor)),
];

/// The domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// Operators of the domain `com.microsoft`, in alphabetical order: those that ONNX Runtime's quantizer and optimizer write.
#[rustfmt::skip]
pub(crate) static MICROSOFT: &[Row] = &[
    row("Attention", 1, 1, Many(contrib_attention::attention)),
    row("BiasGelu", 1, 1, One(contrib::gelu)),
    row("DequantizeLinear", 1, 1, One(quantize::dequantize_linear)),
    row("DynamicQuantizeLSTM", 1, 1, Many(rnn::dynamic_lstm)),
    row("DynamicQuantizeMatMul", 1, 1, One(contrib_attention::dynamic_matmul)),
    row("EmbedLayerNormalization", 1, 1, Many(contrib::embed_layer_norm)),
    row("FastGelu", 1, 1, One(contrib::fast_gelu)),
    row("FusedConv", 1, 1, One(contrib::fused_conv)),
    row("FusedGemm", 1, 1, One(contrib::fused_gemm)),
    row("FusedMatMul", 1, 1, One(contrib::fused_matmul)),
    row("GatherBlockQuantized", 1, 1, One(blocks::gather)),
    row("Gelu", 1, 1, One(contrib::gelu)),
    row("GroupQueryAttention", 1, 1, Many(contrib_attention::group_query)),
    row("LayerNormalization", 1, 1, Many(decompose::layer_norm)),
    row("MatMulIntegerToFloat", 1, 1, One(contrib_attention::matmul_integer_to_float)),
    row("MatMulNBits", 1, 1, One(blocks::matmul)),
    row("MultiHeadAttention", 1, 1, Many(contrib_attention::multi_head)),
    row("QAttention", 1, 1, Many(contrib_attention::quantized_attention)),
    row("QGemm", 1, 1, One(qoperator::gemm)),
    row("QLinearAdd", 1, 1, One(qoperator::add)),
    row("QLinearAveragePool", 1, 1, One(qoperator::average_pool)),
    row("QLinearConcat", 1, 1, One(qoperator::concat)),
    row("QLinearGlobalAveragePool", 1, 1, One(qoperator::global_average_pool)),
    row("QLinearLeakyRelu", 1, 1, One(qoperator::leaky_relu)),
    row("QLinearMul", 1, 1, One(qoperator::mul)),
    row("QLinearReduceMean", 1, 1, One(qoperator::reduce_mean)),
    row("QLinearSigmoid", 1, 1, One(qoperator::sigmoid)),
    row("QLinearSoftmax", 1, 1, One(qoperator::softmax)),
    row("QLinearWhere", 1, 1, One(qoperator::select)),
    row("QuantizeLinear", 1, 1, One(quantize::quantize_linear)),
    row("QuickGelu", 1, 1, One(contrib::quick_gelu)),
    row("RotaryEmbedding", 1, 1, One(rotary::contrib_embedding)),
    row("SimplifiedLayerNormalization", 1, 1, Many(contrib::rms_norm)),
    row("SkipLayerNormalization", 1, 1, Many(contrib::skip_layer_norm)),
    row("SkipSimplifiedLayerNormalization", 1, 1, Many(contrib::skip_rms_norm)),
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
        rows.iter().map(move |&Row { name, oldest, newest, rule, .. }| {
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

/// Parameters that are reals have the same names; others are not ONNX's.
fn same(site: &mut Site, op: Opcode) -> Outcome<ValueId> {
    let mut attrs = Attrs::new(op);
    for schema in op.info().attrs.iter().filter(|a| a.kind == AttrKind::Float) {
        if let Some(value) = site.attrs.float(schema.name)? {
            attrs.try_set(schema.name, Attr::Float(value)).map_err(Fault::shape)?;
        }
    }
    let operands = site.all_operands()?;
    if matches!(op, Opcode::Add | Opcode::Sub | Opcode::Mul)
        && let Some(y) = elementwise::of_products(site, op, &operands)?
    {
        return Ok(y);
    }
    site.emit(op, &operands, attrs, "")
}

/// The ONNX operator as which an operator of graphs is written, and how.
pub(crate) fn written(op: Opcode) -> Option<(&'static str, Write)> {
    let own = ROWS.iter().find_map(|row| row.written.filter(|(own, _)| *own == op).map(|(_, write)| (row.name, write)));
    own.or_else(|| positions::second(op))
}

/// The rule for a node of a model whose operator set for the node's domain is `opset`.
pub(crate) fn find(node: &NodeProto, opset: Option<i64>) -> Outcome<Rule> {
    let op = &node.op_type;
    let own = domain(&node.domain);
    let microsoft = MICROSOFT.binary_search_by(|row| row.name.cmp(op)).ok().filter(|_| own == CONTRIB);
    if let Some(i) = microsoft {
        return Ok(MICROSOFT[i].rule);
    }
    if !own.is_empty() {
        return Err(Fault::unsupported(format!("operator {op} of domain `{own}` is not supported"))
            .help("export the model with operators of the default ONNX domain only"));
    }
    let opset = opset.ok_or_else(|| Fault::shape("the model names no operator set of the default domain"))?;
    let Ok(i) = ROWS.binary_search_by(|row| row.name.cmp(op)) else {
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
    let Row { oldest, newest, rule, .. } = ROWS[i];
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
        assert!(ROWS.is_sorted_by(|a, b| a.name < b.name));
        assert!(MICROSOFT.is_sorted_by(|a, b| a.name < b.name));
        assert!(ROWS.iter().all(|row| row.oldest <= row.newest && row.newest <= NEWEST));
    }

    #[test]
    fn operators_are_written_in_one_way() {
        let written: Vec<Opcode> = ROWS.iter().filter_map(|row| row.written.map(|(op, _)| op)).collect();
        let once = |op| written.iter().filter(|&&other| other == op).count() == 1;
        assert!(written.iter().all(|&op| once(op)));
        // What is younger than the files that are written is not written as itself.
        let newest = crate::export::OPSET;
        assert!(ROWS.iter().all(|row| row.written.is_none() || row.oldest <= newest || row.name == "Swish"));
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
