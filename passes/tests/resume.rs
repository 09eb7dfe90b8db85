//! A dump holds all that a pipeline needs to go on: after every pass of three networks, one with samples, one without data and one
//! that is quantized already, the graph is printed, read back and taken on by the passes that are left, with nothing but what the
//! user gave. The integer graph in the end is the same; in its text only constants are in another order, that of their creation.

use std::sync::Arc;

use qcc_ir::parse::{no_files, parse};
use qcc_ir::{Graph, Tensor, print, verify};
use qcc_num::random::Random;
use qcc_passes::{Context, Pipeline, RangeTable, Samples, preset};

/// A residual block, a depthwise convolution, and functions that leave a part of their range out.
const BLOCK: &str = "graph @block(%x: tensor<1x2x6x6xf32>) -> (tensor<1x3xf32>) {
  const @w1 : tensor<4x2x3x3xf32> = dense<0.125>
  const @w2 : tensor<4x1x3x3xf32> = dense<0.25>
  const @w3 : tensor<4x4x1x1xf32> = dense<[0.5, -0.25, 0.125, 1.0, -0.5, 0.75, 0.3, -0.1, 0.2, 0.4, -0.9, 0.6, 1.5, -0.7, 0.35, 0.05]>
  const @b3 : tensor<4xf32> = dense<[0.1, -0.2, 0.3, 0.01]>
  const @gamma : tensor<4xf32> = dense<[1.0, 0.05, 1.5, 0.5]>
  const @beta : tensor<4xf32> = dense<[0.0, 0.02, -0.25, 1.0]>
  const @mean : tensor<4xf32> = dense<[0.1, 0.0, -0.1, 0.2]>
  const @var : tensor<4xf32> = dense<[1.0, 0.5, 2.0, 0.75]>
  const @w4 : tensor<3x4xf32> = dense<[1.0, 0.5, -0.25, 1.0, -1.0, 0.5, 1.0, 0.25, 0.5, 0.5, 0.5, 0.5]>
  %c1 = nn.conv2d(%x, @w1) {pads = [1, 1, 1, 1]} : tensor<1x4x6x6xf32>
  %n1 = nn.batch_norm(%c1, @gamma, @beta, @mean, @var) : tensor<1x4x6x6xf32>
  %r1 = nn.relu(%n1) : tensor<1x4x6x6xf32>
  %c2 = nn.conv2d(%r1, @w2) {pads = [1, 1, 1, 1], groups = 4} : tensor<1x4x6x6xf32>
  %h2 = nn.hard_swish(%c2) : tensor<1x4x6x6xf32>
  %c3 = nn.conv2d(%h2, @w3, @b3) : tensor<1x4x6x6xf32>
  %sum = nn.add(%c3, %r1) : tensor<1x4x6x6xf32>
  %pool = nn.reduce_mean(%sum) {axes = [2, 3], keepdims = false} : tensor<1x4xf32>
  %y = nn.linear(%pool, @w4) : tensor<1x3xf32>
  return %y
}
";

/// Layers that no batch normalization tells anything of.
const BLIND: &str = "graph @blind(%x: tensor<1x4xf32>) -> (tensor<1x2xf32>) {
  const @w : tensor<3x4xf32> = dense<[1.0, 0.5, -0.25, 1.0, -1.0, 0.5, 1.0, 0.25, 0.5, 0.5, 0.5, 0.5]>
  const @v : tensor<3x3xf32> = dense<[1.0, 0.0, 0.5, 0.5, -1.0, 1.0, 0.3, 0.3, -0.9]>
  const @u : tensor<2x3xf32> = dense<[0.7, -0.2, 0.55, 0.15, -1.25, 0.9]>
  const @b : tensor<2xf32> = dense<[0.25, -0.5]>
  %l1 = nn.linear(%x, @w) : tensor<1x3xf32>
  %r1 = nn.relu(%l1) : tensor<1x3xf32>
  %l2 = nn.linear(%r1, @v) : tensor<1x3xf32>
  %s2 = nn.sigmoid(%l2) : tensor<1x3xf32>
  %l3 = nn.linear(%s2, @u, @b) : tensor<1x2xf32>
  return %l3
}
";

/// Operators between casts, with weights without a sign, and an output that is not quantized.
const QUANTIZED: &str = "graph @quantized(%x: tensor<1x2xf32>) -> (tensor<1x2xf32>) {
  const @w : tensor<2x2x!quant.uniform<u8:f32, 0.5:100>> = dense<[1, 250, 3, 104]>
  const @v : tensor<2x2x!quant.uniform<i8:f32, 0.25>> = dense<[1, -2, 3, -4]>
  const @b : tensor<2xf32> = dense<[0.5, -0.25]>
  %x.q = quant.qcast(%x) : tensor<1x2x!quant.uniform<i8:f32, 0.03125:5>>
  %x.dq = quant.dcast(%x.q) : tensor<1x2xf32>
  %w.dq = quant.dcast(@w) : tensor<2x2xf32>
  %l1 = nn.linear(%x.dq, %w.dq, @b) : tensor<1x2xf32>
  %r1 = nn.relu(%l1) : tensor<1x2xf32>
  %r1.q = quant.qcast(%r1) : tensor<1x2x!quant.uniform<u8:f32, 0.75>>
  %r1.dq = quant.dcast(%r1.q) : tensor<1x2xf32>
  %v.dq = quant.dcast(@v) : tensor<2x2xf32>
  %y = nn.linear(%r1.dq, %v.dq) : tensor<1x2xf32>
  return %y
}
";

fn read(text: &str) -> Graph {
    let graph = parse(text, &no_files).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify(&graph).unwrap_or_else(|e| panic!("{e}\n{text}"));
    graph
}

fn samples(graph: &Graph) -> Arc<dyn Samples> {
    let mut random = Random::new(7);
    let mut number = || (random.below(2001) as f32 - 1000.0) / 500.0;
    let mut tensor = |dims: &[usize]| Tensor::f32(dims, (0..dims.iter().product()).map(|_| number()).collect());
    let one = |_| graph.inputs().iter().map(|&v| tensor(&graph.ty(v).dims)).collect::<Vec<_>>();
    Arc::new((0..8).map(one).collect::<Vec<_>>())
}

/// The text with its constants in the order of their names.
fn sorted(graph: &Graph) -> String {
    let text = print(graph);
    let (mut constants, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with("  const "));
    constants.sort_unstable();
    [rest, constants].concat().join("\n")
}

/// Runs the passes one after the other, and those behind each on its dump.
fn resumes(text: &str, pipeline: &str, given: &Context) {
    let passes: Vec<&str> = pipeline.split(", ").collect();
    let mut graph = read(text);
    let mut dumps = Vec::new();
    let mut observe = |step: &qcc_passes::Step| {
        dumps.push(print(step.graph));
        Ok(())
    };
    let whole = Pipeline::parse(pipeline).expect("a pipeline");
    let run = whole.run_observed(&mut graph, &mut given.clone(), usize::MAX, &mut observe);
    run.unwrap_or_else(|e| panic!("{e}\n{text}"));
    let (wanted, count) = (sorted(&graph), dumps.len());
    assert_eq!(count, passes.len());
    for (i, dump) in dumps.iter().enumerate().take(count - 1) {
        let mut resumed = read(dump);
        let rest = Pipeline::parse(&passes[i + 1..].join(", ")).expect("a pipeline");
        let result = rest.run(&mut resumed, &mut given.clone());
        result.unwrap_or_else(|e| panic!("after {}: {e}\n{dump}", passes[i]));
        assert_eq!(sorted(&resumed), wanted, "after {}:\n{dump}", passes[i]);
    }
}

#[test]
fn with_samples() {
    let graph = read(BLOCK);
    let given = Context { samples: Some(samples(&graph)), ..Context::default() };
    resumes(BLOCK, preset("-O2").expect("a preset"), &given);
    let wide = Context { precision: [("c3".to_string(), qcc_passes::Precision::FINER)].into(), ..given };
    resumes(BLOCK, preset("-O2").expect("a preset"), &wide);
}

/// The ranges that samples gave, as a table: rows name values that passes remove.
#[test]
fn with_a_range_table() {
    let mut graph = read(BLOCK);
    let mut cx = Context { samples: Some(samples(&graph)), ..Context::default() };
    let passes = "canonicalize, fold-constants, calibrate";
    Pipeline::parse(passes).expect("a pipeline").run(&mut graph, &mut cx).expect("ranges");
    let ranges: Option<RangeTable> = cx.ranges;
    assert!(ranges.as_ref().is_some_and(|table| table.values.contains_key("n1")));
    resumes(BLOCK, preset("-O2").expect("a preset"), &Context { ranges, ..Context::default() });
}

#[test]
fn without_data() {
    for text in [BLIND, BLOCK] {
        resumes(text, preset("-O1").expect("a preset"), &Context::default());
    }
}

#[test]
fn already_quantized() {
    resumes(QUANTIZED, preset("-Oq").expect("a preset"), &Context::default());
}
