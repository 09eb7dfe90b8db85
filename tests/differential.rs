//! Random integer graphs: the interpreter, the JIT of every target that runs here, and the shared object, with one thread and
//! with several, must give the same bytes.
//!
//! Each case is made from a seed; a failure prints it with the graph. `QCC_SEED=n` runs that case alone.

#[path = "differential/graphs.rs"]
mod graphs;

use qcc_codegen::{Options, Target, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Builder, Data, Graph, Int, Tensor, ValueId, print};
use qcc_num::random::Random;
use qcc_runtime::{Model, Pool, TensorRef};

use graphs::{random_graph, random_low_bits, random_matrices};

fn options(graph: &Graph, target: Target) -> Options {
    let float_interface = graph.outputs().iter().all(|&v| graph.ty(v).uniform().is_some());
    Options { float_interface, ..Options::new(target, "random") }
}

/// Output bytes of a compiled model.
fn outputs_of(model: &Model, input: &Tensor, pool: Option<&Pool>) -> Vec<Vec<u8>> {
    let bytes = input.as_u8().expect("u8 input");
    let session = model.session();
    let mut session = match pool {
        Some(pool) => session.with_pool(pool),
        None => session,
    };
    let outputs = session.run(&[TensorRef::new(&input.dims, bytes)]).expect("the model runs");
    outputs.iter().map(|t| t.bytes().to_vec()).collect()
}

/// The first operation that differs from the interpreter when it is the graph's only output.
fn first_difference(graph: &Graph, input: &Tensor) -> String {
    let bytes = |v: &ValueId| graph.ty(*v).elem.storage() == Some(Int::U8);
    for v in graph.order().into_iter().map(|n| graph.result(n)).filter(bytes) {
        let mut alone = graph.clone();
        let mut builder = Builder::new(&mut alone);
        builder.set_outputs(vec![v]);
        builder.remove_dead();
        let wanted = Evaluator::new(&alone).run(std::slice::from_ref(input)).expect("ran before");
        let wanted = wanted[0].as_u8().expect("u8");
        for target in Target::all_runnable() {
            let options = Options { float_interface: false, ..options(&alone, target) };
            let jit = emit::jit::compile(&alone, &options).expect("compiled before");
            let got = outputs_of(&jit.model, input, None).remove(0);
            if let Some(at) = got.iter().zip(wanted).position(|(a, b)| a != b) {
                let node = alone.producer(v).expect("computed");
                let operands: Vec<_> = alone.operands(node).iter().map(|&v| alone.ty(v).to_string()).collect();
                let text = print::node_text(&alone, node);
                return format!("first in [{at}] ({} for {}) of {text} on {operands:?}", got[at], wanted[at]);
            }
        }
    }
    "nowhere when every value is the only output".to_string()
}

fn check(make: fn(u64) -> Graph, seed: u64, pool: &Pool, folder: &std::path::Path) {
    let graph = make(seed);
    qcc_ir::verify::verify(&graph).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", print::print(&graph)));
    let ty = graph.ty(graph.inputs()[0]);
    let mut random = Random::new(seed ^ 0xABCD);
    let input = Tensor::new(&ty.dims, Data::U8((0..ty.elements()).map(|_| random.below(256) as u8).collect()));
    let wanted =
        Evaluator::new(&graph).run(std::slice::from_ref(&input)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let wanted: Vec<Vec<u8>> = wanted.iter().map(|t| t.as_u8().expect("u8 output").to_vec()).collect();
    let same = |what: &str, got: Vec<Vec<u8>>| {
        for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            let wrong = got.iter().zip(wanted).position(|(a, b)| a != b);
            let differs = |at| format!("output {i}[{at}] is {}, the interpreter says {}", got[at], wanted[at]);
            let first = || first_difference(&graph, &input);
            assert!(wrong.is_none(), "seed {seed}, {what}: {}; {}", differs(wrong.unwrap_or(0)), first());
        }
        assert_eq!(got.len(), wanted.len());
    };
    for target in Target::all_runnable() {
        let options = options(&graph, target);
        let what = target.to_string();
        let jit = emit::jit::compile(&graph, &options)
            .unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}\n{}", print::print(&graph)));
        same(&format!("JIT {what}"), outputs_of(&jit.model, &input, None));
        same(&format!("JIT {what} with threads"), outputs_of(&jit.model, &input, Some(pool)));
        let mut choose = |task: &qcc_codegen::program::TaskInfo| {
            let choice = task.choices.get(random.below(task.choices.len().max(1)))?;
            Some((task.name.clone(), *choice))
        };
        let tuning = jit.tasks.iter().filter_map(&mut choose).collect();
        let tuned = Options { tuning, ..options.clone() };
        let jit = emit::jit::compile(&graph, &tuned).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(&format!("JIT {what}, {:?}", tuned.tuning), outputs_of(&jit.model, &input, Some(pool)));
        let object = emit::object::compile(&graph, &options).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        let path = folder.join(format!("{seed}-{target}.so"));
        std::fs::write(&path, object.link("random.so").unwrap_or_else(|e| panic!("seed {seed}: {e}")))
            .expect("temporary file");
        let model = Model::load(&path).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(&format!("shared object {what}"), outputs_of(&model, &input, None));
        std::fs::remove_file(&path).expect("temporary file");
    }
}

fn check_many(make: fn(u64) -> Graph, cases: u64) {
    let pool = Pool::new(3).expect("threads");
    let folder = tempfile::tempdir().expect("temporary folder");
    let one = std::env::var("QCC_SEED").ok().and_then(|s| s.parse().ok());
    match one {
        Some(seed) => check(make, seed, &pool, folder.path()),
        None => (0..cases).for_each(|seed| check(make, seed, &pool, folder.path())),
    }
}

#[test]
fn all_engines_agree_on_random_graphs() {
    check_many(random_graph, 180);
}

#[test]
fn all_engines_agree_on_random_matrices() {
    check_many(random_matrices, 120);
}

#[test]
fn all_engines_agree_on_weights_of_few_values() {
    check_many(random_low_bits, 36);
}
