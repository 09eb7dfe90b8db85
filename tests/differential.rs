//! Random integer graphs: the interpreter, the JIT of every target that runs here, and the shared object, with one thread and
//! with several, must give the same bytes.
//!
//! Each case is made from a seed; a failure prints it with the smallest graph that still differs. `QCC_SEED=n` runs that case alone, `QCC_CASES=n` so many
//! of each kind, from `QCC_FIRST=n` on.

#[path = "differential/graphs.rs"]
mod graphs;
#[path = "differential/shrink.rs"]
mod shrink;

use qcc_codegen::{Options, Target, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Data, Graph, Tensor, for_data, print};
use qcc_num::random::Random;
use qcc_runtime::{Model, Pool, TensorRef};

use graphs::{random_graph, random_low_bits, random_matrices};
use shrink::shrink;

fn options(graph: &Graph, target: Target) -> Options {
    let float_interface = graph.outputs().iter().all(|&v| graph.ty(v).uniform().is_some());
    Options { float_interface, ..Options::new(target, "random") }
}

/// Output bytes of a compiled model.
fn outputs_of(model: &Model, inputs: &[Tensor], pool: Option<&Pool>) -> Vec<Vec<u8>> {
    let views: Vec<_> = inputs.iter().map(|t| for_data!(&t.data, v => TensorRef::new(&t.dims, v))).collect();
    let session = model.session();
    let mut session = match pool {
        Some(pool) => session.with_pool(pool),
        None => session,
    };
    let outputs = session.run(&views).expect("the model runs");
    outputs.iter().map(|t| t.bytes().to_vec()).collect()
}

/// Whether code in memory of any target differs from the interpreter.
fn differs(graph: &Graph, inputs: &[Tensor]) -> bool {
    let Ok(wanted) = Evaluator::new(graph).run(inputs) else { return false };
    let wanted: Vec<Vec<u8>> = wanted.iter().map(|t| t.data.to_bytes()).collect();
    Target::all_runnable().into_iter().any(|target| {
        let options = Options { float_interface: false, ..options(graph, target) };
        emit::jit::compile(graph, &options).is_ok_and(|jit| outputs_of(&jit.model, inputs, None) != wanted)
    })
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
            let said = |at| format!("output {i}[{at}] is {}, the interpreter says {}", got[at], wanted[at]);
            let small = || shrink(&graph, std::slice::from_ref(&input), &differs);
            assert!(wrong.is_none(), "seed {seed}, {what}: {}\n{}", said(wrong.unwrap_or(0)), small());
        }
        assert_eq!(got.len(), wanted.len());
    };
    for target in Target::all_runnable() {
        let options = options(&graph, target);
        let what = target.to_string();
        let jit = emit::jit::compile(&graph, &options)
            .unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}\n{}", print::print(&graph)));
        same(&format!("JIT {what}"), outputs_of(&jit.model, std::slice::from_ref(&input), None));
        same(&format!("JIT {what} with threads"), outputs_of(&jit.model, std::slice::from_ref(&input), Some(pool)));
        let mut choose = |task: &qcc_codegen::program::TaskInfo| {
            let choice = task.choices.get(random.below(task.choices.len().max(1)))?;
            Some((task.name.clone(), *choice))
        };
        let tuning = jit.tasks.iter().filter_map(&mut choose).collect();
        let tuned = Options { tuning, ..options.clone() };
        let jit = emit::jit::compile(&graph, &tuned).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(
            &format!("JIT {what}, {:?}", tuned.tuning),
            outputs_of(&jit.model, std::slice::from_ref(&input), Some(pool)),
        );
        let object = emit::object::compile(&graph, &options).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        let path = folder.join(format!("{seed}-{target}.so"));
        std::fs::write(&path, object.link("random.so").unwrap_or_else(|e| panic!("seed {seed}: {e}")))
            .expect("temporary file");
        let model = Model::load(&path).unwrap_or_else(|e| panic!("seed {seed}, {what}: {e}"));
        same(&format!("shared object {what}"), outputs_of(&model, std::slice::from_ref(&input), None));
        std::fs::remove_file(&path).expect("temporary file");
    }
}

fn check_many(make: fn(u64) -> Graph, cases: u64) {
    let pool = Pool::new(3).expect("threads");
    let folder = tempfile::tempdir().expect("temporary folder");
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    if let Some(seed) = number("QCC_SEED") {
        return check(make, seed, &pool, folder.path());
    }
    let (first, cases) = (number("QCC_FIRST").unwrap_or(0), number("QCC_CASES").unwrap_or(cases));
    (first..first + cases).for_each(|seed| check(make, seed, &pool, folder.path()));
    println!("{cases} graphs from seed {first} on: no differing byte");
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
