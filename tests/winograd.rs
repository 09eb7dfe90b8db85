//! Convolutions with fewer multiplications, by forms and by fast inner products: for which layers and targets they are chosen, and that every way gives the
//! interpreter's bits, with one thread and with several, on the greatest numbers too.

use qcc_codegen::program::{Choice, Method};
use qcc_codegen::target::{LEVELS, Level};
use qcc_codegen::{Options, Target, check, emit};
use qcc_interp::Evaluator;
use qcc_ir::{Attrs, Builder, Data, Elem, Graph, Int, Opcode, Tensor, Type, attr};
use qcc_num::random::Random;
use qcc_runtime::{Model, Pool, TensorRef};

fn options(target: Target, method: Option<Method>) -> Options {
    let choice = Choice { method, ..Choice::default() };
    let tuning = method.map(|_| ("y".to_string(), choice)).into_iter().collect();
    Options { tuning, ..Options::new(target, "net") }
}

/// A convolution `%y` of images.
struct Convolution {
    input: [usize; 4],
    outputs: usize,
    kernel: [usize; 2],
    pads: [i64; 4],
    strides: [i64; 2],
    dilations: [i64; 2],
    weights: Vec<i8>,
    /// Whether accumulators are the result; else they are requantized, with a residual if the shapes are the same.
    raw: bool,
}

impl Convolution {
    fn of(input: [usize; 4], outputs: usize, kernel: [usize; 2], weight: impl FnMut(usize) -> i8) -> Convolution {
        let count = outputs * kernel[0] * kernel[1] * input[3];
        let [top, left] = kernel.map(|taps| (taps / 2) as i64);
        let weights = (0..count).map(weight).collect();
        let pads = [top, left, top, left];
        Convolution { input, outputs, kernel, pads, strides: [1, 1], dilations: [1, 1], weights, raw: true }
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new("net");
        let mut b = Builder::new(&mut graph);
        let x = b.add_input("x", Type { dims: self.input.to_vec(), elem: Elem::Int(Int::U8) });
        let dims = [self.outputs, self.kernel[0], self.kernel[1], self.input[3]];
        let w = b.add_const("w", Tensor::new(&dims, Data::I8(self.weights.clone())));
        let i32s = |of: &dyn Fn(i32) -> i32| {
            Tensor::new(&[self.outputs], Data::I32((0..self.outputs as i32).map(of).collect()))
        };
        let bias = b.add_const("b", i32s(&|c| c * 9 - 50));
        let op = if self.raw { Opcode::IConv2d } else { Opcode::QConv2d };
        let attrs = Attrs::new(op)
            .with(attr::PADS, self.pads.to_vec())
            .with(attr::STRIDES, self.strides.to_vec())
            .with(attr::DILATIONS, self.dilations.to_vec())
            .with(attr::GROUPS, 1i64)
            .with(attr::PAD_VALUE, 77);
        let y = if self.raw {
            b.add_inferred(op, &[x, w, bias], attrs, "y", None)
        } else {
            let mult = b.add_const("m", i32s(&|c| 500_000 + 900 * c));
            let attrs = attrs.with(attr::SHL, 1i64).with(attr::OFFSET, 32 + 64 * 120);
            let is_padded = self.kernel == [1, 1] || self.pads.iter().sum::<i64>() > 0;
            let is_same = self.outputs == self.input[3] && is_padded && self.strides == [1, 1];
            let operands = [x, w, bias, mult, x];
            let attrs = if is_same { attrs.with(attr::RESIDUAL_MULT, 9000) } else { attrs };
            b.add_inferred(op, &operands[..if is_same { 5 } else { 4 }], attrs, "y", None)
        };
        b.set_outputs(vec![y.expect("legal")]);
        graph
    }

    /// Inputs that reach the ends of their range, and any.
    fn inputs(&self, random: &mut Random) -> Vec<Tensor> {
        let n = self.input.iter().product();
        let of = |of: &mut dyn FnMut(usize) -> u8| Tensor::new(&self.input, Data::U8((0..n).map(of).collect()));
        vec![of(&mut |_| 255), of(&mut |i| [255, 0][i / self.input[3] % 2]), of(&mut |_| random.bits() as u8)]
    }
}

fn run(model: &Model, input: &Tensor, pool: Option<&Pool>) -> Vec<u8> {
    let session = model.session();
    let mut session = match pool {
        Some(pool) => session.with_pool(pool),
        None => session,
    };
    let outputs = session.run(&[TensorRef::new(&input.dims, input.as_u8().expect("u8"))]).expect("the model runs");
    outputs[0].bytes().to_vec()
}

/// Runs a layer in every way on every target, and says in how many beside the direct one.
fn check_all(layer: &Convolution, pool: &Pool, random: &mut Random) -> usize {
    let graph = layer.graph();
    let wanted: Vec<(Tensor, Vec<u8>)> = layer
        .inputs(random)
        .into_iter()
        .map(|input| {
            let results = Evaluator::new(&graph).run(std::slice::from_ref(&input)).expect("evaluates");
            (input, results[0].data.to_bytes())
        })
        .collect();
    let mut forms = 0;
    for target in Target::all_runnable() {
        let direct = emit::jit::compile(&graph, &options(target, Some(Method::Direct))).expect("compiles");
        let choices =
            direct.tasks.iter().find(|task| task.name == "y" && task.macs > 0).expect("a task").choices.clone();
        let methods = choices.into_iter().filter_map(|choice| choice.method);
        for method in methods.chain([Method::Direct]) {
            let jit = emit::jit::compile(&graph, &options(target, Some(method))).expect("compiles");
            let kernel = &jit.tasks.iter().find(|task| task.name == "y" && task.macs > 0).expect("a task").kernel;
            let name = match method {
                Method::Direct => "",
                Method::Winograd(_) => ", F(",
                Method::FastInner => ", fast inner products",
            };
            let others: &[&str] = match method {
                Method::Direct => &[", F(", ", fast inner products"],
                Method::Winograd(_) => &[],
                Method::FastInner => &[", F("],
            };
            assert!(kernel.contains(name) && !others.iter().any(|other| kernel.contains(other)), "{target}: {kernel}");
            forms += usize::from(method != Method::Direct);
            for (input, wanted) in &wanted {
                for pool in [None, Some(pool)] {
                    let got = run(&jit.model, input, pool);
                    let wrong = got.iter().zip(wanted).filter(|(a, b)| a != b).count();
                    assert_eq!((got.len(), wrong), (wanted.len(), 0), "{target}: {kernel}, {:?}", layer.input);
                }
            }
        }
    }
    forms
}

#[test]
fn every_form_gives_the_interpreters_bits() {
    let pool = Pool::new(3).expect("threads");
    let mut random = Random::new(20);
    let shapes: [([usize; 4], usize, [usize; 2]); 10] = [
        ([1, 4, 4, 16], 16, [3, 3]),
        ([1, 9, 7, 20], 20, [3, 3]),
        ([2, 14, 14, 24], 40, [3, 3]),
        ([3, 6, 5, 3], 70, [3, 3]),
        ([1, 30, 33, 8], 33, [3, 3]),
        ([1, 7, 7, 130], 130, [3, 3]),
        ([1, 9, 17, 40], 36, [1, 3]),
        ([2, 17, 9, 36], 20, [3, 1]),
        ([1, 1, 12, 16], 8, [1, 3]),
        ([1, 3, 5, 17], 9, [3, 3]),
    ];
    for (index, (input, outputs, kernel)) in shapes.into_iter().enumerate() {
        let mut weights = Random::new(index as u64);
        let mut layer = Convolution::of(input, outputs, kernel, |_| weights.within(-127, 127) as i8);
        layer.raw = index % 3 == 0;
        if index == 4 {
            layer.pads = [0, 0, 0, 0];
        }
        assert!(check_all(&layer, &pool, &mut random) >= Target::all_runnable().len(), "{input:?}");
    }
}

/// Windows of all kinds on whole vectors of channels: points and more, strides, dilations, images, rows without and with a halo, few and many outputs.
#[test]
fn fast_inner_products_give_the_interpreters_bits() {
    let pool = Pool::new(3).expect("threads");
    let mut random = Random::new(24);
    let v3 = Target::of(Level::X86V3);
    let shapes = [
        ([1, 5, 7, 16], 16, [1, 1], [1, 1], [1, 1]),
        ([2, 9, 8, 32], 70, [1, 1], [1, 1], [1, 1]),
        ([1, 9, 8, 48], 9, [1, 1], [2, 2], [1, 1]),
        ([1, 1, 130, 64], 64, [1, 1], [1, 1], [1, 1]),
        ([2, 9, 9, 32], 33, [3, 3], [2, 2], [1, 1]),
        ([1, 17, 13, 16], 20, [1, 7], [1, 1], [1, 1]),
        ([1, 17, 13, 16], 130, [7, 1], [1, 1], [1, 1]),
        ([1, 12, 11, 48], 64, [5, 5], [1, 1], [1, 1]),
        ([1, 12, 70, 16], 17, [3, 2], [2, 1], [3, 1]),
        ([1, 1, 1, 1024], 5, [1, 1], [1, 1], [1, 1]),
        ([1, 7, 7, 528], 72, [1, 1], [1, 1], [1, 1]),
        ([3, 6, 6, 16], 16, [3, 3], [1, 1], [1, 1]),
    ];
    for (index, (input, outputs, kernel, strides, dilations)) in shapes.into_iter().enumerate() {
        let mut weights = Random::new(index as u64);
        let extreme = index == 6;
        let weight = |i| if extreme { [-128, 127][i % 2] } else { weights.within(-128, 127) as i8 };
        let layer = Convolution::of(input, outputs, kernel, weight);
        let layer = Convolution { strides, dilations, raw: index % 3 == 0, ..layer };
        let tuned = emit::object::compile(&layer.graph(), &options(v3, Some(Method::FastInner)));
        assert!(tuned.is_ok(), "{input:?}: {:?}", tuned.err());
        check_all(&layer, &pool, &mut random);
    }
}

/// Weights at the ends of their range: of one sign, of both by channel, by row and by column, so that transforms reach their extremes.
#[test]
fn the_greatest_numbers_are_exact() {
    let pool = Pool::new(2).expect("threads");
    let mut random = Random::new(21);
    let depth = 3 * 3 * 40;
    let signs: [fn(usize) -> bool; 5] =
        [|_| false, |_| true, |i| i / 40 % 2 == 0, |i| i / 120 % 2 == 0, |i| i.is_multiple_of(2)];
    let weight = |i: usize| if signs[i / depth % signs.len()](i % depth) { -128 } else { 127 };
    let layer = Convolution::of([1, 9, 9, 40], 25, [3, 3], weight);
    assert!(check_all(&layer, &pool, &mut random) > 0);
}

/// The kernel of `%y` where nothing is said of it.
fn chosen(layer: &Convolution, target: Target) -> String {
    let object = emit::object::compile(&layer.graph(), &options(target, None)).expect("compiles");
    let report = check::certify(&object.link("net.so").expect("links")).expect("a model");
    assert!(report.is_float_free(), "{target}: {:?}", report.integer.findings);
    object.manifest.steps.iter().find(|step| step.name == "y" && step.macs > 0).expect("a step").kernel.clone()
}

#[test]
fn the_form_follows_from_shape_weights_and_target() {
    let avx2 = Target::of(Level::X86V3);
    let mut random = Random::new(22);
    let mut of = |input, outputs, kernel, most: i64| {
        Convolution::of(input, outputs, kernel, |_| random.within(-most, most) as i8)
    };
    let large = of([1, 28, 28, 128], 128, [3, 3], 107);
    assert_eq!(chosen(&large, avx2), "conv 3x3 128->128 @28x28, F(4x4, 3x3), fast inner products");
    // Nine weights that leave transformed activations no room in 16 bits.
    let mut heavy = of([1, 28, 28, 128], 128, [3, 3], 107);
    (0..9).for_each(|tap| heavy.weights[tap * 128 + 5] = 108);
    assert_eq!(chosen(&heavy, avx2), "conv 3x3 128->128 @28x28, F(4x4, 3x3)");
    // Few weights: nothing to spare. Weights of 4 bits: sums in 16 bits are faster. A row: tiles of two rows do not fit.
    assert_eq!(chosen(&of([1, 28, 28, 3], 64, [3, 3], 127), avx2), "conv 3x3 3->64 @28x28");
    assert!(!chosen(&of([1, 28, 28, 128], 128, [3, 3], 7), avx2).contains("F("));
    assert!(!chosen(&of([1, 1, 28, 128], 128, [3, 3], 127), avx2).contains("F("));
    // Sums that 32 bits do not hold 64 times over: a form with a smaller factor.
    let positive = Convolution::of([1, 14, 14, 160], 64, [3, 3], |i| 120 - (i % 17) as i8);
    let kernel = chosen(&positive, avx2);
    assert!(kernel.contains("F(") && !kernel.contains("F(4x4"), "{kernel}");
}

#[test]
fn fast_inner_products_follow_from_shape_weights_and_target() {
    let mut random = Random::new(25);
    let mut of = |input: [usize; 4], outputs, kernel| {
        Convolution::of(input, outputs, kernel, |_| random.within(-127, 127) as i8)
    };
    let point = of([1, 14, 14, 512], 256, [1, 1]);
    for &(level, name) in LEVELS {
        let expected = if level == Level::X86V3 { ", fast inner products" } else { "" };
        assert_eq!(chosen(&point, Target::of(level)), format!("conv 1x1 512->256 @14x14{expected}"), "{name}");
    }
    let avx2 = Target::of(Level::X86V3);
    assert!(chosen(&of([1, 17, 17, 160], 192, [1, 7]), avx2).ends_with("fast inner products"));
    // Channels that are no whole vectors; activations that few outputs read.
    assert_eq!(chosen(&of([1, 14, 14, 520], 256, [1, 1]), avx2), "conv 1x1 520->256 @14x14");
    assert_eq!(chosen(&of([1, 56, 56, 64], 8, [1, 1]), avx2), "conv 1x1 64->8 @56x56");
}

/// The extrema of accumulators are taken where they are made: with scales of each run a layer stays direct.
#[test]
fn measured_layers_stay_direct() {
    let weights: Vec<String> = (0..64 * 64).map(|i| (i * 37 % 255 - 127).to_string()).collect();
    let text = format!(
        "graph @net(%x: tensor<1x8x8x64xu8>) -> (tensor<1x8x8x64xi32>, tensor<2x1x64xi32>) {{
  const @w : tensor<64x1x1x64xi8> = dense<[{}]>
  const @b : tensor<64xi32> = dense<3>
  %y = int.conv2d(%x, @w, @b) : tensor<1x8x8x64xi32>
  %e = int.extrema(%y) {{rows = 64}} : tensor<2x1x64xi32>
  return %y, %e
}}",
        weights.join(", ")
    );
    let graph = qcc_ir::parse::parse(&text, &qcc_ir::parse::no_files).expect("a graph");
    let object = emit::object::compile(&graph, &options(Target::of(Level::X86V3), None)).expect("compiles");
    let step = object.manifest.steps.iter().find(|step| step.name == "y" && step.macs > 0).expect("a step");
    assert_eq!(step.kernel, "conv 1x1 64->64 @8x8");
}

#[test]
fn a_form_that_cannot_be_is_refused() {
    let mut random = Random::new(23);
    let layer = Convolution::of([1, 3, 9, 16], 16, [3, 3], |_| random.within(-127, 127) as i8);
    for tile in [[4, 4], [3, 3], [1, 4], [0, 0]] {
        let fault = emit::object::compile(&layer.graph(), &options(Target::native(), Some(Method::Winograd(tile))));
        let text = fault.err().expect("refused").to_string();
        assert!(text.contains("the tuning of `y`") && text.contains("--tune"), "{text}");
    }
    let narrow = Convolution::of([1, 3, 9, 20], 16, [3, 3], |_| random.within(-127, 127) as i8);
    let fault = emit::object::compile(&narrow.graph(), &options(Target::of(Level::X86V3), Some(Method::FastInner)));
    assert!(fault.err().expect("refused").to_string().contains("fast inner products are not possible here"));
}
