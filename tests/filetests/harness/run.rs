//! `//@ run`: a graph evaluated by every engine that can run it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use qcc_codegen::{Options, Target, emit};
use qcc_interp::Evaluator;
use qcc_ir::ops::Dialect;
use qcc_ir::parse::{no_files, parse};
use qcc_ir::print::dense;
use qcc_ir::{Data, Def, Elem, Graph, Opcode, Tensor, Type, for_data};
use qcc_runtime::{Model, Pool, TensorRef};

use super::case::RunLine;

/// A way to evaluate a graph.
struct Engine {
    name: &'static str,
    /// Whether the engine can run the graph at all.
    accepts: fn(&Graph) -> bool,
    run: fn(&Graph, &[Tensor]) -> Result<Vec<Tensor>, String>,
}

/// The interpreter defines what is right; all others must give the same bits.
const ENGINES: &[Engine] = &[
    Engine { name: "interpreter", accepts: |_| true, run: interpret },
    Engine { name: "machine code", accepts: is_integer_only, run: execute },
];

fn interpret(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    Evaluator::new(graph).run(inputs).map_err(|e| e.to_string())
}

/// Whether there are no real numbers, and operators that are left when all passes have run: positions in windows are refused there.
fn is_integer_only(graph: &Graph) -> bool {
    let stored = |e: &Elem| e.storage().is_some() || *e == Elem::Bool;
    graph.values().all(|v| stored(&graph.ty(v).elem))
        && graph
            .order()
            .iter()
            .map(|&n| graph.op(n))
            .all(|op| matches!(op.info().dialect(), Dialect::Int | Dialect::Tensor) && op != Opcode::MaxPoolIndex)
}

/// Ways in which code runs.
pub const MODES: [&str; 3] = ["in memory", "3 threads", "shared object"];

/// How often an operator ran in each of [`MODES`], by its name and the target.
pub type Table = BTreeMap<(&'static str, String), [usize; MODES.len()]>;

static EXECUTED: Mutex<Table> = Mutex::new(BTreeMap::new());

/// What has run so far.
pub fn executed() -> Table {
    EXECUTED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Every target that runs here, in every mode; all must agree.
fn execute(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut first: Option<Vec<Tensor>> = None;
    let pool = Pool::new(3).map_err(|e| e.to_string())?;
    for target in Target::all_runnable() {
        for (mode, name) in MODES.iter().enumerate() {
            let found = execute_in(graph, inputs, target, mode, &pool).map_err(|e| format!("{target}, {name}: {e}"))?;
            if first.as_ref().is_some_and(|f| *f != found) {
                return Err(format!("{target}, {name}, differs from what ran before it"));
            }
            first.get_or_insert(found);
            let mut executed = EXECUTED.lock().unwrap_or_else(PoisonError::into_inner);
            for n in graph.order() {
                executed.entry((graph.op(n).name(), target.to_string())).or_default()[mode] += 1;
            }
        }
    }
    Ok(first.unwrap_or_default())
}

/// One target in one mode.
fn execute_in(
    graph: &Graph,
    inputs: &[Tensor],
    target: Target,
    mode: usize,
    pool: &Pool,
) -> Result<Vec<Tensor>, String> {
    let options = Options::new(target, "filetest");
    let model = if mode == 2 {
        let object = emit::object::compile(graph, &options).map_err(|e| e.to_string())?;
        let file = tempfile::Builder::new().suffix(".so").tempfile().map_err(|e| e.to_string())?;
        std::fs::write(file.path(), object.link("filetest.so").map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
        Model::load(file.path()).map_err(|e| e.to_string())?
    } else {
        emit::jit::compile(graph, &options).map_err(|e| e.to_string())?.model
    };
    let views: Vec<_> = inputs.iter().map(|t| for_data!(&t.data, v => TensorRef::new(&t.dims, v))).collect();
    let session = model.session();
    let mut session = if mode == 1 { session.with_pool(pool) } else { session };
    let outputs = session.run(&views).map_err(|e| e.to_string())?;
    let tensor = |(t, &v): (&qcc_runtime::Tensor, &qcc_ir::ValueId)| {
        let data = Data::from_bytes(&graph.ty(v).elem, t.bytes()).ok_or("an output has too few bytes")?;
        Ok(Tensor::new(t.dims(), data))
    };
    outputs.iter().zip(graph.outputs()).map(tensor).collect()
}

/// Runs the graph on the inputs of the line and compares with its outputs.
pub fn check(graph: &Graph, line: &RunLine) -> Result<(), String> {
    let types = |values: &[qcc_ir::ValueId]| values.iter().map(|&v| graph.ty(v).clone()).collect::<Vec<_>>();
    let fault = |message: String| format!("//@ {}\n{message}", line.text);
    let inputs = tensors(&line.inputs, &types(graph.inputs())).map_err(fault)?;
    let wanted = tensors(&line.outputs, &types(graph.outputs())).map_err(fault)?;
    let mut reference: Option<Vec<Tensor>> = None;
    for engine in ENGINES.iter().filter(|e| (e.accepts)(graph)) {
        let found = (engine.run)(graph, &inputs).map_err(|e| fault(format!("{}: {e}", engine.name)))?;
        let as_wanted = found.len() == wanted.len() && found.iter().zip(&wanted).all(|(f, w)| close(f, w, line.within));
        let as_reference = reference.as_ref().is_none_or(|r| *r == found);
        if !as_wanted || !as_reference {
            let found: Vec<_> = found.iter().map(|t| dense(&t.data)).collect();
            return Err(fault(format!("{} gives {}", engine.name, found.join(", "))));
        }
        reference.get_or_insert(found);
    }
    Ok(())
}

/// Tensors written as `dense<[..]>, dense<[..]>`, of these types.
pub fn tensors(text: &str, types: &[Type]) -> Result<Vec<Tensor>, String> {
    let parts: Vec<_> = text.split("dense<").skip(1).map(|p| p.trim().trim_end_matches(',')).collect();
    if parts.len() != types.len() {
        return Err(format!("expected {} tensors, found {} in `{text}`", types.len(), parts.len()));
    }
    let declared = parts.iter().zip(types).enumerate();
    let lines: String = declared.map(|(i, (part, ty))| format!("const @c{i} : {ty} = dense<{part}\n")).collect();
    let graph = parse(&format!("graph @values() -> () {{\n{lines}return }}"), &no_files).map_err(|e| e.to_string())?;
    let values: Vec<_> = graph.values().collect();
    let constant = |v| match graph.def(v) {
        Def::Const(tensor) => Some(tensor.as_ref().clone()),
        Def::Input(_) | Def::Node(..) => None,
    };
    Ok(values.into_iter().filter_map(constant).collect())
}

/// Equal, or floats that differ by no more than `within`; one NaN is as good as another.
fn close(found: &Tensor, wanted: &Tensor, within: f32) -> bool {
    match (&found.data, &wanted.data) {
        (Data::F32(f), Data::F32(w)) => {
            let near = |(f, w): (&f32, &f32)| f == w || (f - w).abs() <= within || f.is_nan() && w.is_nan();
            found.dims == wanted.dims && f.len() == w.len() && f.iter().zip(w).all(near)
        }
        _ => found == wanted,
    }
}
