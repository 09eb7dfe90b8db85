//! Whole graphs: order, observation, lifetimes, threads and refused inputs.

use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Builder, Graph, Int, Opcode, Tensor, Type, ValueId, attr, infer_dims};

use crate::support::Random;

/// Adds an operation with defaults and a float result.
fn add(builder: &mut Builder, op: Opcode, operands: &[ValueId], attrs: Attrs, name: &str) -> ValueId {
    let types: Vec<Type> = operands.iter().map(|&v| builder.graph().ty(v).clone()).collect();
    let dims = infer_dims(op, &attrs, &types.iter().collect::<Vec<_>>()).unwrap();
    builder.add(op, operands, attrs, name, Type::f32(&dims), None)
}

fn plain(builder: &mut Builder, op: Opcode, operands: &[ValueId], name: &str) -> ValueId {
    add(builder, op, operands, Attrs::new(op), name)
}

/// `y = relu(x) - c`, with a branch that nothing needs.
fn small() -> Graph {
    let mut graph = Graph::new("small");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[2]));
    let c = builder.add_const("c", Tensor::f32(&[2], vec![1.0, 2.0]));
    let r = plain(&mut builder, Opcode::Relu, &[x], "r");
    plain(&mut builder, Opcode::Neg, &[r], "dead");
    let y = plain(&mut builder, Opcode::Sub, &[r, c], "y");
    builder.set_outputs(vec![y, x, y, c]);
    graph
}

#[test]
fn values_are_observed_in_order_and_outputs_may_repeat() {
    let graph = small();
    let evaluator = Evaluator::new(&graph);
    let x = Tensor::f32(&[2], vec![-3.0, 5.0]);
    let mut seen = Vec::new();
    let mut observe = |v: ValueId, t: &Tensor| seen.push((graph.name_of(v).to_string(), t.as_f32().unwrap().to_vec()));
    let outputs = evaluator.run_observed(std::slice::from_ref(&x), &mut observe).unwrap();
    let expected = [("x", [-3.0, 5.0]), ("r", [0.0, 5.0]), ("dead", [0.0, -5.0]), ("y", [-1.0, 3.0])];
    assert_eq!(seen, expected.map(|(name, data)| (name.to_string(), data.to_vec())));
    let y = Tensor::f32(&[2], vec![-1.0, 3.0]);
    assert_eq!(outputs, [y.clone(), x, y, Tensor::f32(&[2], vec![1.0, 2.0])]);
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let evaluator = Evaluator::new(&small());
    let x = Tensor::f32(&[2], vec![0.0; 2]);
    let code = |inputs: &[Tensor]| evaluator.run(inputs).unwrap_err().code;
    assert_eq!(code(&[]), Code::DATA);
    assert_eq!(code(&[x.clone(), x]), Code::DATA);
    assert_eq!(code(&[Tensor::new(&[2], qcc_ir::Data::U8(vec![1, 2]))]), Code::DATA);
    let fault = evaluator.run(&[Tensor::f32(&[1, 2], vec![0.0; 2])]).unwrap_err();
    assert_eq!(fault.code, Code::DATA);
    assert_eq!(fault.message, "input %x is tensor<1x2xf32> and not tensor<2xf32>");
}

#[test]
fn a_fault_names_its_node() {
    let mut graph = Graph::new("fault");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::int(Int::I64, &[1]));
    let zero = builder.add_const("zero", crate::support::i64s(&[1], &[0]));
    let y = builder.add(Opcode::Div, &[x, zero], Attrs::new(Opcode::Div), "y", Type::int(Int::I64, &[1]), None);
    builder.set_outputs(vec![y]);
    let fault = Evaluator::new(&graph).run(&[crate::support::i64s(&[1], &[4])]).unwrap_err();
    assert_eq!(fault.place.node.as_deref(), Some("%y = nn.div"));
}

/// A chain that uses every parallel loop: convolutions of all kinds, pools, normalization, a matrix product.
fn network(r: &Random) -> Graph {
    let mut graph = Graph::new("network");
    let mut builder = Builder::new(&mut graph);
    let e = &mut builder;
    let weights = |e: &mut Builder, dims: &[usize]| e.add_const("w", r.floats(dims));
    let x = e.add_input("x", Type::f32(&[2, 3, 33, 31]));
    let ones = [1usize, 1, 1, 1];
    let w = weights(e, &[32, 3, 3, 3]);
    let pads = |op| Attrs::new(op).with(attr::PADS, ones.as_slice());
    let v = add(e, Opcode::Conv2d, &[x, w], pads(Opcode::Conv2d).with(attr::STRIDES, vec![2, 2]), "stem");
    let a = plain(e, Opcode::Relu, &[v], "a");
    let w = weights(e, &[32, 1, 3, 3]);
    let d = add(e, Opcode::Conv2d, &[a, w], pads(Opcode::Conv2d).with(attr::GROUPS, 32), "depthwise");
    let w = weights(e, &[32, 16, 3, 3]);
    let g = add(e, Opcode::Conv2d, &[a, w], pads(Opcode::Conv2d).with(attr::GROUPS, 2), "grouped");
    let s = plain(e, Opcode::Add, &[d, g], "sum");
    let w = weights(e, &[64, 32, 1, 1]);
    let p = plain(e, Opcode::Conv2d, &[s, w], "pointwise");
    let m = add(e, Opcode::MaxPool, &[p], pads(Opcode::MaxPool).with(attr::KERNEL, vec![3, 3]), "max");
    let q = add(e, Opcode::AveragePool, &[m], pads(Opcode::AveragePool).with(attr::KERNEL, vec![3, 3]), "average");
    let c: Vec<ValueId> = (0..3).map(|_| weights(e, &[64])).collect();
    let var = e.add_const("var", Tensor::f32(&[64], vec![0.7; 64]));
    let n = plain(e, Opcode::BatchNorm, &[q, c[0], c[1], c[2], var], "bn");
    let t = plain(e, Opcode::Tanh, &[n], "tanh");
    let mean = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]).with(attr::KEEPDIMS, false);
    let f = add(e, Opcode::ReduceMean, &[t], mean, "mean");
    let w = weights(e, &[100, 64]);
    let y = plain(e, Opcode::Linear, &[f, w], "logits");
    let z = add(e, Opcode::Softmax, &[y], Attrs::new(Opcode::Softmax).with(attr::AXIS, 1), "probabilities");
    builder.set_outputs(vec![z, t]);
    graph
}

#[test]
fn threads_and_repetition_do_not_change_a_bit() {
    let r = Random::new(11);
    let evaluator = Evaluator::new(&network(&r));
    let samples: Vec<Tensor> = (0..4).map(|_| r.floats(&[2, 3, 33, 31])).collect();
    let run = |e: &Evaluator, x: &Tensor| e.run(std::slice::from_ref(x)).unwrap();
    let alone: Vec<_> = samples.iter().map(|x| run(&evaluator, x)).collect();
    for threads in [2, 3, 8] {
        let parallel = evaluator.clone().with_threads(threads);
        for (x, want) in samples.iter().zip(&alone) {
            assert!(run(&parallel, x) == *want, "{threads} threads");
        }
    }
    std::thread::scope(|s| {
        let tasks: Vec<_> = samples.iter().map(|x| s.spawn(|| run(&evaluator, x))).collect();
        for (task, want) in tasks.into_iter().zip(&alone) {
            assert!(task.join().unwrap() == *want);
        }
    });
}
