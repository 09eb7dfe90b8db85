//! The kernels of convolutions with fewer multiplications, of every back end against plain loops, bit for bit, with nothing written where nothing belongs.

mod jit;

use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_module::Module;
use qcc_codegen::kernel::microkernel::{Output, Residual};
use qcc_codegen::kernel::winograd::weights::Panel;
use qcc_codegen::kernel::winograd::{self, Form, InputSpec, Kernel, OutputSpec, ProductSpec};
use qcc_codegen::machine::VectorShape;
use qcc_codegen::target::Backend;
use qcc_num::random::Random;
use qcc_num::requant::{self, Epilogue};

#[cfg(target_arch = "x86_64")]
use jit::baseline;
use jit::{Jit, coded, native};

type Code = unsafe extern "C" fn(*const u8, *mut u8, *mut u8, *mut u8, *const u8, *mut u8);

/// A panel of a convolution with everything it works on.
#[derive(Debug)]
struct Case {
    form: Form,
    inputs: usize,
    channels: usize,
    vectors: usize,
    /// Row and column of the first result of each tile.
    tiles: Vec<[usize; 2]>,
    in_steps: [usize; 2],
    out_steps: [usize; 2],
    input: Vec<u8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    mult: Vec<i32>,
    residual: Vec<u8>,
    output: Output,
}

/// Rows and columns of results.
const IMAGE: [usize; 2] = [9, 11];

impl Case {
    fn random(seed: u64, shape: &VectorShape) -> Case {
        let r = &mut Random::new(seed);
        let within = |r: &mut Random, low: usize, high: usize| low + r.below(high - low + 1);
        let kernel = r.pick(&[[3, 3], [3, 3], [3, 3], [1, 3], [3, 1]]);
        let form = r.pick(&Form::of_kernel(kernel));
        let (inputs, vectors) = (within(r, 1, 70), within(r, 1, shape.max_vectors));
        let channels = (vectors - 1) * shape.lanes + within(r, 1, shape.lanes);
        let count = within(r, 1, 15);
        let tile = form.tile();
        let tiles = (0..count).map(|_| [0, 1].map(|axis| r.below(IMAGE[axis] - tile[axis] + 1))).collect();
        let pixel = inputs + r.below(9);
        let in_steps = [(IMAGE[1] + 2) * pixel + r.below(40), pixel];
        let narrowed = r.below(4) > 0;
        let out_pixel = channels * if narrowed { 1 } else { 4 } + r.below(9);
        let out_steps = [IMAGE[1] * out_pixel + r.below(40), out_pixel];
        // Numbers at the ends of their ranges now and then: every sum and every transform reaches its greatest magnitude.
        let extreme = r.below(3) == 0;
        let sign = r.below(3);
        let weight = |r: &mut Random| match (extreme, sign) {
            (false, _) => r.within(-128, 127) as i8,
            (true, 0) => 127,
            (true, 1) => -128,
            (true, _) => r.pick(&[-128, 127]),
        };
        let taps = kernel[0] * kernel[1] * inputs;
        let shl = r.pick(&[0, 0, 1, 4]);
        let epilogue = Epilogue { shl, offset: r.below(16000) as i16, f32_fraction_bits: 0, lo: 3, hi: 250 };
        let residual = (narrowed && r.below(2) == 0).then(|| Residual {
            mult: r.below(32768) as u16,
            pixel_step: out_steps[1],
            row_step: out_steps[0],
        });
        let weights: Vec<i8> = (0..channels * taps).map(|_| weight(r)).collect();
        let greatest = (1u64 << 38 >> shl) / (200 * 127 * taps as u64).max(1);
        Case {
            form,
            inputs,
            channels,
            vectors,
            tiles,
            in_steps,
            out_steps,
            input: (0..(IMAGE[0] + 2) * in_steps[0] + 64)
                .map(|_| if extreme { r.pick(&[0, 255]) } else { r.bits() as u8 })
                .collect(),
            weights,
            bias: (0..channels).map(|_| r.within(-40_000, 40_000) as i32).collect(),
            mult: (0..channels).map(|_| r.below(greatest.min(1 << 31) as usize) as i32).collect(),
            residual: (0..IMAGE[0] * out_steps[0]).map(|_| r.bits() as u8).collect(),
            output: match narrowed {
                true => Output::Requant { epilogue, residual, acc_bound: None },
                false => Output::Raw,
            },
        }
    }

    /// The whole output as it should be.
    fn expected(&self) -> Vec<u8> {
        let mut output = vec![0xA5; IMAGE[0] * self.out_steps[0] + 64];
        let [height, width] = [self.form.rows.taps(), self.form.columns.taps()];
        for &[first_row, first_column] in &self.tiles {
            for (a, b) in (0..self.form.tile()[0]).flat_map(|a| (0..self.form.tile()[1]).map(move |b| (a, b))) {
                let (row, column) = (first_row + a, first_column + b);
                for channel in 0..self.channels {
                    let mut acc = self.bias[channel];
                    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                        let from = (row + y) * self.in_steps[0] + (column + x) * self.in_steps[1];
                        let weights = &self.weights[((channel * height + y) * width + x) * self.inputs..];
                        let pairs = self.input[from..][..self.inputs].iter().zip(weights);
                        acc += pairs.map(|(&x, &w)| i32::from(x) * i32::from(w)).sum::<i32>();
                    }
                    let at = row * self.out_steps[0] + column * self.out_steps[1];
                    match &self.output {
                        Output::Requant { epilogue, residual, .. } => {
                            let term =
                                residual.map_or(0, |r| requant::residual_term(self.residual[at + channel], r.mult));
                            output[at + channel] = epilogue.apply(acc, self.mult[channel], term);
                        }
                        Output::Raw | Output::Measured => {
                            output[at + 4 * channel..][..4].copy_from_slice(&acc.to_le_bytes());
                        }
                    }
                }
            }
        }
        output
    }

    /// What transforms, multiplies, and transforms back.
    fn kernels(&self, shape: &VectorShape) -> [Kernel; 3] {
        let (form, vector) = (self.form, 4 * shape.lanes);
        let pairs = self.inputs.div_ceil(2).next_multiple_of(shape.lanes);
        let (from_step, to_step) = (self.tiles.len() * 4 * pairs + 64, self.tiles.len() * self.vectors * vector + 32);
        let input = InputSpec {
            form,
            vectors: pairs / shape.lanes,
            row_step: self.in_steps[0],
            pixel_step: self.in_steps[1],
            position_step: from_step,
        };
        let product = ProductSpec {
            positions: form.points(),
            tiles: self.tiles.len(),
            pairs,
            vectors: self.vectors,
            from_step,
            to_step,
            fast_inner: false,
        };
        let output = OutputSpec {
            form,
            vectors: self.vectors,
            channels: self.channels,
            position_step: to_step,
            pixel_step: self.out_steps[1],
            row_step: self.out_steps[0],
            output: self.output.clone(),
        };
        [Kernel::Input(input), Kernel::Product(product), Kernel::Output(output)]
    }

    /// The whole output as the kernels leave it.
    fn run(&self, shape: &VectorShape, mut code: impl FnMut(&Kernel) -> Code) -> Vec<u8> {
        let (form, vector) = (self.form, 4 * shape.lanes);
        let kernels = self.kernels(shape);
        let [
            Kernel::Input(InputSpec { position_step: from_step, .. }),
            Kernel::Product(ProductSpec { pairs, to_step, .. }),
            _,
        ] = kernels
        else {
            unreachable!("three kernels in order")
        };
        let tile_bytes = 4 * pairs;
        let [input, product, finish] = kernels.map(|kernel| code(&kernel));
        let narrowed = matches!(self.output, Output::Requant { .. });
        let panel = Panel { vectors: self.vectors, channels: self.channels, narrowed, fast_inner: false };
        let weights = panel.pack_weights(form, shape, &self.weights, self.inputs, pairs);
        assert_eq!(weights.len(), panel.weight_bytes(form, shape, pairs));
        let (bias, mult) = (panel.pack_channels(shape, &self.bias), panel.pack_multipliers(shape, &self.mult));
        let mut activations = vec![0xA5u8; form.points() * from_step];
        let mut products = vec![0xA5u8; form.points() * to_step];
        let mut work = vec![0xA5u8; form.points().max(OutputSpec::work_vectors(form, self.vectors)) * vector];
        let mut output = vec![0xA5; IMAGE[0] * self.out_steps[0] + 64];
        let none = std::ptr::null_mut();
        // SAFETY: the buffers were sized from the descriptions, with the slack that kernels may read.
        unsafe {
            for (index, tile) in self.tiles.iter().enumerate() {
                let from = self.input.as_ptr().add(tile[0] * self.in_steps[0] + tile[1] * self.in_steps[1]);
                input(from, activations.as_mut_ptr().add(index * tile_bytes), work.as_mut_ptr(), none, none, none);
            }
            let packed = weights.as_ptr().cast_mut();
            product(activations.as_ptr(), packed, products.as_mut_ptr(), none, none, none);
            for (index, tile) in self.tiles.iter().enumerate() {
                let at = tile[0] * self.out_steps[0] + tile[1] * self.out_steps[1];
                let from = products.as_ptr().add(index * self.vectors * vector);
                let (bias, mult) = (bias.as_ptr().cast::<u8>(), mult.as_ptr().cast::<u8>());
                let residual = self.residual.as_ptr().wrapping_add(at);
                finish(
                    from,
                    bias.cast_mut(),
                    mult.cast_mut(),
                    output.as_mut_ptr().add(at),
                    residual,
                    work.as_mut_ptr(),
                );
            }
        }
        output
    }
}

fn check(
    seeds: std::ops::Range<u64>,
    shape: &'static VectorShape,
    isa: impl Fn() -> OwnedTargetIsa,
    make: impl Fn(&mut Jit, &Kernel) -> *const u8,
) {
    for seed in seeds {
        let case = Case::random(seed, shape);
        let mut jit = Jit::new(isa());
        let got = case.run(shape, |kernel| {
            // SAFETY: the function was made with this signature.
            unsafe { std::mem::transmute::<*const u8, Code>(make(&mut jit, kernel)) }
        });
        let want = case.expected();
        let wrong = got.iter().zip(&want).position(|(a, b)| a != b);
        if let Some(at) = wrong {
            let (form, inputs, channels) = (case.form, case.inputs, case.channels);
            panic!("seed {seed}: [{at}] is {} for {}: {form}, {inputs} -> {channels}", got[at], want[at]);
        }
        assert_eq!(got.len(), want.len());
        // SAFETY: nothing of the module is in use any more.
        unsafe { jit.module.free_memory() };
    }
}

fn clif(jit: &mut Jit, kernel: &Kernel) -> *const u8 {
    let function = winograd::emit_clif(kernel, jit.module.target_config(), &mut jit.context);
    jit.clif(function)
}

#[test]
fn clif_equals_the_reference() {
    check(0..40, &VectorShape::CLIF, native, clif);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn clif_without_vnni_equals_the_reference() {
    check(0..20, &VectorShape::CLIF, baseline, clif);
}

#[test]
fn machine_code_equals_the_reference() {
    for backend in coded() {
        println!("{backend:?}");
        check(0..300, backend.shape(), native, |jit, kernel| {
            let code = winograd::machine_code(kernel, backend).unwrap().expect("a back end that makes machine code");
            jit.bytes(&code)
        });
    }
}

/// What no machine here can run is at least assembled: no tile wants more registers than there are.
#[test]
fn all_kernels_assemble() {
    use qcc_codegen::machine::Dot;
    for backend in [Backend::Avx512, Backend::Ymm(Dot::Vex), Backend::Ymm(Dot::Evex), Backend::Ymm(Dot::I16Pairs)] {
        for seed in 0..60 {
            let shape = backend.shape();
            for kernel in Case::random(seed, shape).kernels(shape) {
                let code = winograd::machine_code(&kernel, backend).unwrap().expect("machine code");
                assert!(!code.is_empty());
            }
        }
    }
}
