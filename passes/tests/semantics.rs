//! Random small networks through the whole route: what the integer graph computes against the float graph, and each integer
//! pass against the graph before it.
//!
//! Each case is made from a seed, which a failure prints with the graph. `QCC_SEED=n` runs that case alone.

#[path = "semantics/networks.rs"]
mod networks;

use std::collections::HashMap;
use std::sync::Arc;

use qcc_interp::Evaluator;
use qcc_ir::print::{Large, Options, print, print_with};
use qcc_ir::{Data, Graph, Tensor, ValueId, attr};
use qcc_num::edge;
use qcc_passes::{Context, Pipeline, Samples, default_pipeline};

use networks::{inputs, network};

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
