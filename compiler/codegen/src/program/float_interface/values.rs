//! Which inputs and outputs are real numbers at the interface, and how they are quantized.

use std::sync::Arc;

use qcc_ir::{Diag, Graph, Int, Type, Uniform, ValueId, diag::Code};
use qcc_num::dynamic::SCALE_SUFFIX;

/// Bytes of a float.
pub const FLOAT: usize = 4;

/// Inputs or outputs that are real numbers at the interface, and for each the position of its dynamic scale, if it has one.
/// Scales follow all other values.
pub fn real_values(graph: &Graph, values: &[ValueId]) -> Vec<(ValueId, Option<usize>)> {
    let scale_of = |v: ValueId| {
        let name = format!("{}{SCALE_SUFFIX}", graph.name_of(v));
        let is_scale = |s: &ValueId| *graph.ty(*s) == Type::int(Int::I32, &[2]) && graph.name_of(*s) == name;
        values.iter().position(is_scale).filter(|_| graph.ty(v).uniform().is_some())
    };
    let scales: Vec<Option<usize>> = values.iter().map(|&v| scale_of(v)).collect();
    let is_scale = |i: usize| scales.contains(&Some(i));
    (0..values.len()).filter(|&i| !is_scale(i)).map(|i| (values[i], scales[i])).collect()
}

/// The quantization of a value at the boundary, as the float interface needs it.
pub fn boundary(graph: &Graph, v: ValueId) -> Result<Arc<Uniform>, Diag> {
    let value = graph.value(v);
    match value.ty.uniform() {
        Some(u) if matches!(u.storage(), Int::U8 | Int::I8 | Int::I16) && u.axis.is_none() => Ok(u.clone()),
        _ => Err(Diag::new(Code::TARGET, format!("%{} of type {} has no float interface", value.name, value.ty))
            .help("compile with --io int")),
    }
}

/// Why a model with this graph cannot take and give floats: the first input or output that is not their quantization.
pub fn refusal(graph: &Graph) -> Option<Diag> {
    let mut sides = [graph.inputs(), graph.outputs()].into_iter();
    sides.find_map(|side| real_values(graph, side).into_iter().find_map(|(v, _)| boundary(graph, v).err()))
}
