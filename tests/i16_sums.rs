//! Layers whose products are summed in 16 bits: for which weights and targets they are, and that the greatest sums are exact on every target.

use qcc_codegen::target::{LEVELS, Level};
use qcc_codegen::{Options, Target, check, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Attrs, Builder, Data, Elem, Graph, Int, Opcode, Tensor, Type, attr, parse};
use qcc_runtime::{Model, TensorRef};

/// Kernel of the step that computes `value`, as `qcc inspect` and `qcc bench --per-layer` show it.
fn kernel(graph: &Graph, target: Target, value: &str) -> String {
    let object = emit::object::compile(graph, &Options::new(target, "net")).expect("compiles");
    let report = check::certify(&object.link("net.so").expect("links")).expect("a model");
    assert!(report.is_float_free(), "{target}: {:?}", report.integer.findings);
    let step = object.manifest.steps.iter().find(|step| step.name == value && step.macs > 0).expect("a step").clone();
    step.kernel
}

/// A convolution of 3 x 3 over 24 channels, whose weights are all `weight`, on `%x` or on what has passed a clamp at `greatest`.
fn layer(weight: i32, greatest: u8) -> Graph {
    let text = format!(
        "graph @net(%x: tensor<1x9x9x24xu8>) -> (tensor<1x9x9x40xi32>) {{
  const @w : tensor<40x3x3x24xi8> = dense<{weight}>
  const @b : tensor<40xi32> = dense<-7>
  %narrow = int.clamp(%x) {{hi = {greatest}}} : tensor<1x9x9x24xu8>
  %y = int.conv2d(%narrow, @w, @b) {{pads = [1, 1, 1, 1], pad_value = 3}} : tensor<1x9x9x40xi32>
  return %y
}}"
    );
    parse::parse(&text, &parse::no_files).expect("a graph")
}

#[test]
fn steps_follow_from_weights_activations_and_target() {
    // A run is 72 bytes, 18 steps, which are cut evenly.
    for (weight, greatest, steps) in [
        (127, 255, None),
        (-127, 255, None),
        (64, 255, Some(1)),
        (63, 255, Some(1)),
        (-31, 255, Some(2)),
        (21, 255, Some(3)),
        (15, 255, Some(4)),
        (7, 255, Some(6)),
        (-3, 255, Some(9)),
        (127, 15, Some(6)),
        (127, 64, Some(2)),
    ] {
        let graph = layer(weight, greatest);
        for &(level, name) in LEVELS {
            let kernel = kernel(&graph, Target::of(level), "y");
            let expected = steps.filter(|_| matches!(level, Level::X86V3 | Level::X86V4));
            let text = expected.map_or(String::new(), |steps| format!(", sums of {steps} steps in 16 bits"));
            assert_eq!(kernel, format!("conv 3x3 24->40 @9x9{text}"), "{weight} at most {greatest}, {name}");
        }
    }
}

/// Weights that reach both ends of 16 bits in some lanes: all of a group's weights in the first lane, all in the last, half in both signs.
fn extreme_weights(outputs: usize, depth: usize, magnitude: i8) -> Vec<i8> {
    let weight = |c: usize, i: usize| match c % 6 {
        0 => magnitude,
        1 => -magnitude,
        2 if i % 4 < 2 => magnitude,
        3 if i % 4 >= 2 => -magnitude,
        4 => [magnitude, -magnitude][i % 2],
        5 => [magnitude, -magnitude][i / 7 % 2],
        _ => 0,
    };
    (0..outputs).flat_map(|c| (0..depth).map(move |i| weight(c, i))).collect()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_greatest_sums_are_exact() {
    let targets: Vec<Target> =
        Target::all_runnable().into_iter().filter(|target| target.i16_sums_backend().is_some()).collect();
    // 64: pairs of one sign reach 255 * 128; 42, 21, 10: groups of 1, 3 and 6 steps do nearly.
    for (magnitude, [kernel, stride, dilation], [inputs, outputs]) in [
        (64, [1, 1, 1], [64, 96]),
        (42, [3, 1, 1], [20, 33]),
        (32, [3, 2, 1], [16, 64]),
        (21, [3, 1, 2], [18, 70]),
        (10, [1, 2, 1], [130, 17]),
        (7, [3, 1, 1], [31, 64]),
        (4, [1, 1, 1], [64, 65]),
        (3, [5, 1, 1], [7, 24]),
    ] {
        let mut graph = Graph::new("net");
        let mut b = Builder::new(&mut graph);
        let u8s = |dims: &[usize]| Type { dims: dims.to_vec(), elem: Elem::Int(Int::U8) };
        let x = b.add_input("x", u8s(&[1, 11, 9, inputs]));
        let weights = extreme_weights(outputs, kernel * kernel * inputs, magnitude);
        let w = b.add_const("w", Tensor::new(&[outputs, kernel, kernel, inputs], Data::I8(weights)));
        let bias =
            b.add_const("b", Tensor::new(&[outputs], Data::I32((0..outputs as i32).map(|c| c * 9 - 50).collect())));
        let pad = (kernel / 2 * dilation) as i64;
        let attrs = Attrs::new(Opcode::IConv2d)
            .with(attr::PADS, vec![pad; 4])
            .with(attr::STRIDES, vec![stride as i64; 2])
            .with(attr::DILATIONS, vec![dilation as i64; 2])
            .with(attr::PAD_VALUE, 255);
        let y = b.add_inferred(Opcode::IConv2d, &[x, w, bias], attrs, "y", None).expect("legal");
        b.set_outputs(vec![y]);
        let n = 99 * inputs;
        let inputs_of: [Vec<u8>; 4] = [
            vec![255; n],
            (0..n).map(|i| [255, 0][i % 2]).collect(),
            (0..n).map(|i| [255, 0][i / 7 % 2]).collect(),
            (0..n).map(|i| (i * i % 251) as u8).collect(),
        ];
        for input in inputs_of {
            let input = Tensor::new(&[1, 11, 9, inputs], Data::U8(input));
            let wanted = Evaluator::new(&graph).run(std::slice::from_ref(&input)).expect("evaluates").remove(0);
            for &target in &targets {
                let jit = emit::jit::compile(&graph, &Options::new(target, "net")).expect("compiles");
                let text = &jit.tasks.iter().find(|task| task.name == "y" && task.macs > 0).expect("a step").kernel;
                assert!(text.contains("in 16 bits"), "{target}: {text}");
                assert_eq!(run(&jit.model, &input), wanted.data.to_bytes(), "{target}, {magnitude}: {text}");
            }
        }
    }
}

fn run(model: &Model, input: &Tensor) -> Vec<u8> {
    let outputs = model.run(&[TensorRef::new(&input.dims, input.as_u8().expect("u8"))]).expect("the model runs");
    outputs[0].bytes().to_vec()
}

/// Sixteen values without 0: decoded, the lanes behind 29 channels hold one of them, whose sums leave 16 bits, and are nowhere stored.
#[test]
fn lanes_of_no_channel_may_hold_anything() {
    let values = [83, -44, 101, -62, -97, 76, 49, 98, -11, 12, 35, -40, -23, 71, -56, -18];
    let weights = (0..29 * 192).map(|i| values[(i * 7 + i / 192) % 16].to_string()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "graph @net(%x: tensor<1x1x19x96xu8>) -> (tensor<1x1x18x29xi32>) {{
  const @w : tensor<29x1x2x96xi8> = dense<[{weights}]>
  const @b : tensor<29xi32> = dense<5>
  %narrow = int.clamp(%x) {{hi = 15}} : tensor<1x1x19x96xu8>
  %y = int.conv2d(%narrow, @w, @b) : tensor<1x1x18x29xi32>
  return %y
}}"
    );
    let graph = parse::parse(&text, &parse::no_files).expect("a graph");
    assert!(kernel(&graph, Target::of(Level::X86V3), "y").ends_with("steps in 16 bits"));
    let input = Tensor::new(&[1, 1, 19, 96], Data::U8((0..19 * 96).map(|i| (i * 31) as u8).collect()));
    let wanted = Evaluator::new(&graph).run(std::slice::from_ref(&input)).expect("evaluates");
    for target in Target::all_runnable() {
        let jit = emit::jit::compile(&graph, &Options::new(target, "net")).expect("compiles");
        let views = [TensorRef::new(&input.dims, input.as_u8().expect("u8"))];
        let outputs = jit.model.session().run(&views).expect("the model runs");
        assert_eq!(outputs[0].bytes(), wanted[0].data.to_bytes(), "{target}");
    }
}
