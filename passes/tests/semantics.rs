//! Random small networks through the whole route: what the integer graph computes against the float graph, and each integer
//! pass against the graph before it.
//!
//! Each case is made from a seed, which a failure prints with the graph. `QCC_SEED=n` runs that case alone.

use std::collections::HashMap;
use std::sync::Arc;

use qcc_interp::Evaluator;
use qcc_ir::print::{Large, Options, print, print_with};
use qcc_ir::{Attrs, Builder, Data, Graph, Opcode, Tensor, Type, ValueId, attr, verify};
use qcc_num::edge;
use qcc_num::random::Random;
use qcc_passes::{Context, Pipeline, Samples, default_pipeline};

/// Between 0 and 1.
fn uniform(random: &mut Random) -> f32 {
    random.bits() as f32 / u64::MAX as f32
}

/// Numbers that are nearly normal: each the sum of twelve uniforms.
fn normals(random: &mut Random, dims: &[usize], deviation: f32) -> Tensor {
    let mut normal = || (0..12).map(|_| uniform(random)).sum::<f32>() - 6.0;
    Tensor::f32(dims, (0..dims.iter().product()).map(|_| normal() * deviation).collect())
}

/// A float network in the making: its present value is f32 [N, C, H, W].
struct Maker<'g> {
    builder: Builder<'g>,
    random: Random,
    now: ValueId,
}

impl Maker<'_> {
    fn dims(&self, v: ValueId) -> Vec<usize> {
        self.builder.graph().ty(v).dims.clone()
    }

    fn add(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs) -> ValueId {
        let name = op.name().split('.').nth(1).unwrap();
        self.builder.add_inferred(op, operands, attrs, name, None).expect("the generator makes legal operations")
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.builder.add_const("c", tensor)
    }

    fn conv(&mut self, x: ValueId, outputs: usize, kernel: usize, stride: usize, groups: usize) -> ValueId {
        let inputs = self.dims(x)[1] / groups;
        let deviation = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let w = normals(&mut self.random, &[outputs, inputs, kernel, kernel], deviation);
        let mut operands = vec![x, self.constant(w)];
        if self.random.below(2) == 0 {
            let bias = normals(&mut self.random, &[outputs], 0.3);
            operands.push(self.constant(bias));
        }
        let pad = (kernel / 2) as i64;
        let attrs = Attrs::new(Opcode::Conv2d)
            .with(attr::STRIDES, vec![stride as i64; 2])
            .with(attr::PADS, vec![pad; 4])
            .with(attr::GROUPS, groups as i64);
        self.add(Opcode::Conv2d, &operands, attrs)
    }

    fn norm(&mut self, x: ValueId) -> ValueId {
        let c = self.dims(x)[1];
        let random = &mut self.random;
        let gamma = Tensor::f32(&[c], (0..c).map(|_| 0.5 + uniform(random)).collect());
        let (beta, mean) = (normals(random, &[c], 0.2), normals(random, &[c], 0.2));
        let var = Tensor::f32(&[c], (0..c).map(|_| 0.5 + uniform(random)).collect());
        let mut operands = vec![x];
        operands.extend([gamma, beta, mean, var].map(|t| self.constant(t)));
        self.add(Opcode::BatchNorm, &operands, Attrs::new(Opcode::BatchNorm))
    }

    fn activation(&mut self, x: ValueId) -> ValueId {
        let op = self.random.pick(&[
            Opcode::Relu,
            Opcode::Relu,
            Opcode::Clip,
            Opcode::HardSwish,
            Opcode::Sigmoid,
            Opcode::LeakyRelu,
            Opcode::Swish,
        ]);
        let attrs = Attrs::new(op);
        let attrs = if op == Opcode::Clip { attrs.with(attr::MIN, 0.0f32).with(attr::MAX, 6.0f32) } else { attrs };
        self.add(op, &[x], attrs)
    }

    /// One more block.
    fn step(&mut self) {
        let x = self.now;
        let [n, c, h, w] = self.dims(x)[..] else { panic!("rank 4") };
        self.now = match self.random.below(10) {
            0..3 => {
                let outputs = self.random.pick(&[4, 8, 12]);
                let (kernel, stride) =
                    (self.random.pick(&[1, 3]), if h > 3 { self.random.pick(&[1, 1, 2]) } else { 1 });
                let y = self.conv(x, outputs, kernel, stride, 1);
                let y = if self.random.below(2) == 0 { self.norm(y) } else { y };
                self.activation(y)
            }
            3 => {
                let y = self.conv(x, c, 3, 1, c);
                let y = self.norm(y);
                self.activation(y)
            }
            4 | 5 => {
                let y = self.conv(x, c, 3, 1, 1);
                let sum = self.add(Opcode::Add, &[y, x], Attrs::new(Opcode::Add));
                if self.random.below(2) == 0 { self.activation(sum) } else { sum }
            }
            6 => {
                let y = self.norm(x);
                let y = self.activation(y);
                let y = self.conv(y, 4, 3, 1, 1);
                self.add(Opcode::Concat, &[x, y], Attrs::new(Opcode::Concat).with(attr::AXIS, 1))
            }
            7 if h > 2 => {
                let op = self.random.pick(&[Opcode::MaxPool, Opcode::AveragePool]);
                let attrs = Attrs::new(op).with(attr::KERNEL, vec![3, 3]).with(attr::STRIDES, vec![2, 2]);
                self.add(op, &[x], attrs.with(attr::PADS, vec![1, 1, 1, 1]))
            }
            8 => {
                // Squeeze and excite (Hu et al. 2018).
                let mean = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]);
                let y = self.add(Opcode::ReduceMean, &[x], mean);
                let y = self.conv(y, 4, 1, 1, 1);
                let y = self.add(Opcode::Relu, &[y], Attrs::new(Opcode::Relu));
                let y = self.conv(y, c, 1, 1, 1);
                let y = self.add(Opcode::Sigmoid, &[y], Attrs::new(Opcode::Sigmoid));
                self.add(Opcode::Mul, &[x, y], Attrs::new(Opcode::Mul))
            }
            _ => {
                let scale = normals(&mut self.random, &[1, c, 1, 1], 0.5);
                let scale = self.constant(scale);
                let op = self.random.pick(&[Opcode::Mul, Opcode::Add, Opcode::Sub]);
                let y = self.add(op, &[x, scale], Attrs::new(op));
                let bounds = vec![0, 0, 0, 0];
                let attrs = Attrs::new(Opcode::Slice).with(attr::STARTS, bounds).with(attr::STEPS, vec![1; 4]);
                let ends = vec![n as i64, c as i64, h as i64, (w - usize::from(w > 3)) as i64];
                self.add(Opcode::Slice, &[y], attrs.with(attr::ENDS, ends))
            }
        };
    }

    fn head(&mut self) -> Vec<ValueId> {
        let x = self.now;
        let [n, c, h, w] = self.dims(x)[..] else { panic!("rank 4") };
        let flat = if self.random.below(2) == 0 {
            let attrs = Attrs::new(Opcode::ReduceMean).with(attr::AXES, vec![2, 3]).with(attr::KEEPDIMS, false);
            self.add(Opcode::ReduceMean, &[x], attrs)
        } else {
            let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, vec![n as i64, (c * h * w) as i64]);
            self.add(Opcode::Reshape, &[x], attrs)
        };
        let k = self.dims(flat)[1];
        let w = normals(&mut self.random, &[10, k], (1.0 / k as f32).sqrt());
        let bias = normals(&mut self.random, &[10], 0.1);
        let operands = [flat, self.constant(w), self.constant(bias)];
        let logits = self.add(Opcode::Linear, &operands, Attrs::new(Opcode::Linear));
        match self.random.below(4) {
            0 => vec![self.add(Opcode::Softmax, &[logits], Attrs::new(Opcode::Softmax).with(attr::AXIS, 1))],
            1 => vec![logits, x],
            _ => vec![logits],
        }
    }
}

fn network(seed: u64) -> Graph {
    let mut graph = Graph::new("random");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[1, 3, 8, 8]));
    let mut maker = Maker { builder, random: Random::new(seed), now: x };
    maker.now = maker.conv(x, 8, 3, 1, 1);
    for _ in 0..2 + maker.random.below(6) {
        maker.step();
    }
    let outputs = maker.head();
    maker.builder.set_outputs(outputs);
    verify(&graph).unwrap();
    graph
}

fn inputs(seed: u64, count: usize) -> Vec<Vec<Tensor>> {
    let mut random = Random::new(seed ^ 0xABCD);
    (0..count).map(|_| vec![normals(&mut random, &[1, 3, 8, 8], 1.0)]).collect()
}

/// The float tensors as the graph's inputs want them, quantized where they are.
fn quantized(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let one = |(&v, t): (&ValueId, &Tensor)| match graph.ty(v).uniform() {
        Some(u) => {
            let (z, scale) = (u.zero_point() as i32, u.scale());
            let codes = t.as_f32().unwrap().iter().map(|&x| edge::quantize(x, scale, z, 0, 255) as u8).collect();
            Tensor::new(&t.dims, Data::U8(codes))
        }
        None => t.clone(),
    };
    graph.inputs().iter().zip(inputs).map(one).collect()
}

/// Outputs as floats.
fn outputs(graph: &Graph, inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let results = Evaluator::new(graph).run(&quantized(graph, inputs)).unwrap();
    let one = |(&v, t): (&ValueId, Tensor)| match (graph.ty(v).uniform(), &t.data) {
        (Some(u), Data::U8(codes)) => {
            codes.iter().map(|&q| edge::dequantize(i32::from(q), u.scale(), u.zero_point() as i32)).collect()
        }
        _ => t.as_f32().unwrap().to_vec(),
    };
    graph.outputs().iter().zip(results).map(one).collect()
}

/// Signal to quantization noise, in decibel.
fn sqnr(reference: &[f32], found: &[f32]) -> f64 {
    let signal: f64 = reference.iter().map(|&x| f64::from(x).powi(2)).sum();
    let noise: f64 = reference.iter().zip(found).map(|(&a, &b)| f64::from(a - b).powi(2)).sum();
    10.0 * (signal / noise.max(1e-30)).log10()
}

/// The graph for a message: without large constants.
fn text(graph: &Graph) -> String {
    print_with(graph, Options { inline: 0, large: Large::Elide }).unwrap()
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("QCC_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

fn run(graph: &mut Graph, pipeline: &str, cx: &mut Context, seed: u64) {
    let before = text(graph);
    if let Err(e) = Pipeline::parse(pipeline).unwrap().run(graph, cx) {
        panic!("seed {seed}: {pipeline}: {e}\n{before}");
    }
}

fn calibrated(seed: u64) -> Context {
    let samples: Arc<dyn Samples> = Arc::new(inputs(seed, 8));
    Context { samples: Some(samples), threads: 2, ..Context::default() }
}

/// Float passes must not change what a network computes by more than f32 rounding.
#[test]
fn float_passes_keep_the_meaning() {
    for seed in seeds(60) {
        let before = network(seed);
        let mut after = before.clone();
        run(&mut after, "canonicalize, fold-constants, fold-bn, canonicalize", &mut Context::default(), seed);
        for x in inputs(seed, 2) {
            for (a, b) in outputs(&before, &x).iter().zip(outputs(&after, &x)) {
                let db = sqnr(a, &b);
                assert!(db > 90.0, "seed {seed}: {db} dB\n{}\n{}", text(&before), text(&after));
            }
        }
    }
}

/// Every integer pass is exact, but for `fuse-epilogue`, which leaves out a rounding.
#[test]
fn integer_passes_are_exact() {
    for seed in seeds(60) {
        let mut graph = network(seed);
        let mut cx = calibrated(seed);
        let lowered = "canonicalize, fold-constants, fold-bn, canonicalize, calibrate, propagate-ranges, assign-scales, \
                       insert-qdq, cancel-qdq, fuse, lower-to-int";
        run(&mut graph, lowered, &mut cx, seed);
        for pass in ["layout", "merge-requant", "layout, merge-requant"] {
            let before = graph.clone();
            run(&mut graph, pass, &mut cx, seed);
            for x in inputs(seed ^ 1, 3) {
                let x = quantized(&graph, &x);
                let (a, b) = (Evaluator::new(&before).run(&x).unwrap(), Evaluator::new(&graph).run(&x).unwrap());
                assert_eq!(a, b, "seed {seed}: {pass}\n{}\n{}", text(&before), text(&graph));
            }
        }
    }
}

/// All values by name.
fn values(graph: &Graph, inputs: &[Tensor]) -> HashMap<String, Tensor> {
    let mut found = HashMap::new();
    let mut observe = |v: ValueId, t: &Tensor| drop(found.insert(graph.name_of(v).to_string(), t.clone()));
    Evaluator::new(graph).run_observed(inputs, &mut observe).unwrap();
    found
}

/// The summand of `y` that is not the residual, and by how many units taking it into an epilogue may change the sum.
fn summand(graph: &Graph, y: &str, residual: &str) -> (String, i32) {
    let n = graph.producer(graph.find(y).unwrap()).unwrap();
    let names: Vec<_> = graph.operands(n).iter().map(|&v| graph.name_of(v)).collect();
    let i = names.iter().position(|&name| name != residual).unwrap();
    let attrs = &graph.node(n).attrs;
    let f = attrs.get(attr::MULTS)[i] as f64 / (attrs.get(attr::SHIFT) as f64).exp2();
    (names[i].to_string(), (1.0 + f / 2.0) as i32)
}

/// A residual sum in an epilogue is within `1 + f / 2` units of the sum behind it, given the same operands, where the layer
/// did not saturate by itself; without a residual an epilogue is exact.
#[test]
fn epilogues_are_within_one_unit() {
    let mut sums = 0;
    for seed in seeds(60) {
        let mut graph = network(seed);
        let mut cx = calibrated(seed);
        let pipeline = default_pipeline(&graph, &cx);
        let (before, _) = pipeline.split_once(", fuse-epilogue").unwrap();
        run(&mut graph, before, &mut cx, seed);
        let unfused = graph.clone();
        run(&mut graph, "fuse-epilogue", &mut cx, seed);
        for x in inputs(seed ^ 3, 2) {
            let x = quantized(&graph, &x);
            let (old, new) = (values(&unfused, &x), values(&graph, &x));
            for n in graph.order() {
                let names: Vec<_> = graph.operands(n).iter().map(|&v| graph.name_of(v)).collect();
                if names.iter().any(|&v| new.contains_key(v) && old.get(v) != new.get(v)) {
                    continue;
                }
                let residual = names.len() == 5;
                sums += usize::from(residual);
                let y = graph.name_of(graph.result(n));
                let codes = |t: &Tensor| t.as_u8().unwrap().iter().map(|&q| i32::from(q)).collect::<Vec<_>>();
                let (a, b) = (codes(&old[y]), codes(&new[y]));
                let (inner, bound) = if residual { summand(&unfused, y, names[4]) } else { (y.to_string(), 0) };
                let saturated = |i: usize| residual && matches!(old[&inner].as_u8().unwrap()[i], 0 | 255);
                let apart = |i: usize| (a[i] - b[i]).abs();
                let most = (0..a.len()).filter(|&i| !saturated(i)).map(apart).max().unwrap_or(0);
                assert!(most <= bound, "seed {seed}: %{y} differs by {most}\n{}", text(&unfused));
            }
        }
    }
    assert!(sums > 20 || std::env::var("QCC_SEED").is_ok(), "only {sums} residual sums took part");
}

/// The integer network follows the float one, calibrated and without data.
#[test]
fn integers_follow_floats() {
    let mut all = [Vec::new(), Vec::new()];
    for seed in seeds(60) {
        let float = network(seed);
        for (i, mut cx) in [calibrated(seed), Context::default()].into_iter().enumerate() {
            let mut graph = float.clone();
            let pipeline = default_pipeline(&graph, &cx);
            run(&mut graph, &pipeline, &mut cx, seed);
            assert!(!cx.range_source.is_empty());
            for x in inputs(seed ^ 2, 3) {
                let (a, b) = (outputs(&float, &x), outputs(&graph, &x));
                let db = sqnr(&a[0], &b[0]);
                all[i].push(db);
                let least = [12.0, 3.0][i];
                assert!(db > least, "seed {seed}: {db} dB\n{}\n{}", text(&float), text(&graph));
            }
        }
    }
    for (name, mut list) in ["calibrated", "without data"].iter().zip(all) {
        list.sort_by(f64::total_cmp);
        println!("{name}: least {:.1}, median {:.1} dB", list[0], list[list.len() / 2]);
    }
}

/// Two runs print the same text, whatever the number of threads.
#[test]
fn runs_are_deterministic() {
    for seed in seeds(20) {
        let texts: Vec<String> = [1, 2, 3]
            .into_iter()
            .map(|threads| {
                let mut graph = network(seed);
                let mut cx = Context { threads, ..calibrated(seed) };
                let pipeline = default_pipeline(&graph, &cx);
                let mut text = String::new();
                let mut observe = |s: &qcc_passes::Step| {
                    text += &format!("{}\n{}\n{:?}\n", s.text, print(s.graph), s.labels);
                    Ok(())
                };
                Pipeline::parse(&pipeline)
                    .unwrap()
                    .run_observed(&mut graph, &mut cx, usize::MAX, &mut observe)
                    .unwrap();
                text + &cx.ranges.unwrap().to_json()
            })
            .collect();
        assert_eq!(texts[0], texts[1], "seed {seed}");
        assert_eq!(texts[0], texts[2], "seed {seed}");
    }
}
