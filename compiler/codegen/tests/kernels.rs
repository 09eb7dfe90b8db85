//! Microkernels of every back end against plain loops, bit for bit, with nothing written where nothing belongs.

mod jit;

use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;
use cranelift_module::Module;
use iced_x86::{Decoder, DecoderOptions, EncodingKind, Formatter, GasFormatter, Instruction};
use qcc_codegen::Target;
use qcc_codegen::kernel::decode::{self, DecodeSpec};
use qcc_codegen::kernel::microkernel::{
    self, MEASURED_STEP, Microkernel, MicrokernelSpec, Output, Residual, codes, i16_sums,
};
use qcc_codegen::kernel::peak;
use qcc_codegen::machine::{Dot, VectorShape};
use qcc_codegen::target::Backend;
use qcc_num::requant::{self, Epilogue};

#[cfg(target_arch = "x86_64")]
use jit::baseline;
use jit::{Jit, coded, native};

type Code = unsafe extern "C" fn(
    *const u8,
    *const u8,
    *const i32,
    *const i32,
    *mut u8,
    *const u8,
    usize,
    *const u8,
    *const i32,
);

/// Test values.
struct Random(qcc_num::random::Random);

impl Random {
    fn new(seed: u64) -> Random {
        Random(qcc_num::random::Random::new(seed))
    }

    fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.0.below(high - low + 1)
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.0.bits().is_multiple_of(one_in)
    }
}

/// A microkernel with everything it works on.
#[derive(Debug)]
struct Case {
    spec: MicrokernelSpec,
    rows: usize,
    input: Vec<u8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    mult: Vec<i32>,
    residual: Vec<u8>,
    terms: Vec<i32>,
    output: Vec<u8>,
}

/// What becomes of accumulators that are requantized.
struct RandomRequant {
    epilogue: Epilogue,
    residual: Option<Residual>,
}

impl RandomRequant {
    fn new(
        r: &mut Random,
        channels: usize,
        width: usize,
        slack: impl Fn(&mut Random, usize) -> usize,
    ) -> RandomRequant {
        let residual = r.chance(2).then(|| {
            let pixel_step = channels + r.within(0, 9);
            Residual { mult: r.within(0, 32767) as u16, pixel_step, row_step: width * pixel_step + slack(r, 9) }
        });
        let shl = if r.chance(2) { 0 } else { r.within(1, 12) as u32 };
        let (lo, hi) = if r.chance(2) { (0, 255) } else { (r.within(0, 120) as u8, r.within(121, 255) as u8) };
        let offset = if r.chance(8) { i16::MIN } else { r.within(0, 16000) as i16 };
        let f32_fraction_bits = if residual.is_none() && r.chance(3) { r.within(33, 61) as u32 } else { 0 };
        let (shl, offset) = if f32_fraction_bits > 0 { (shl.min(3), offset % 256) } else { (shl, offset) };
        RandomRequant { epilogue: Epilogue { shl, offset, f32_fraction_bits, lo, hi }, residual }
    }
}

/// A description, a number of rows, and the requantization that it has if it has one.
fn random_spec(r: &mut Random) -> (MicrokernelSpec, usize, RandomRequant) {
    let (width, channels) = (if r.chance(3) { r.within(1, 9) } else { r.within(1, 60) }, r.within(1, 64));
    let block_rows = if r.chance(2) { 1 } else { r.within(2, 7) };
    let rows = block_rows * r.within(0, 5usize.div_ceil(block_rows));
    // Pixels that are evenly spaced across rows, as those of a matrix product.
    let even = r.chance(4);
    let slack = |r: &mut Random, most: usize| if even { 0 } else { r.within(0, most) };
    let (k_rows, segments) = (r.within(1, 3), if r.chance(2) { 1 } else { r.within(2, 5) });
    let left_out = if r.chance(2) { [0; 2] } else { [r.within(0, 2), r.within(0, 2)] };
    let run = if r.chance(4) { r.within(40, 140) } else { r.within(1, 40) };
    let stored = if r.chance(5) { 4 } else { 1 };
    let pixel_step = r.within(1, run + 8);
    let segment_step = r.within(1, run + 20);
    let k_row_step = width * pixel_step + slack(r, 90);
    let out_pixel_step = stored * channels + r.within(0, 20);
    let out_row_step = width * out_pixel_step + slack(r, 40);
    let requant = RandomRequant::new(r, channels, width, slack);
    let raw = if r.chance(2) { Output::Raw } else { Output::Measured };
    let output = match stored {
        4 => raw,
        _ => Output::Requant { epilogue: requant.epilogue, residual: requant.residual, acc_bound: None },
    };
    let in_row_step = k_row_step * if even { 1 } else { r.within(1, 2) };
    let pixel_terms = segments == 1 && r.chance(3);
    let spec = MicrokernelSpec {
        width,
        panel_vectors: if r.chance(2) { 0 } else { r.within(1, 4) },
        block_rows,
        prefetch_bytes: if r.chance(2) { 0 } else { r.within(1, 9000) },
        channels,
        k_rows,
        left_out,
        k_row_step,
        segments,
        segment_step,
        run,
        pixel_step,
        in_row_step,
        out_pixel_step,
        out_row_step,
        coded: left_out == [0; 2] && r.chance(2),
        pixel_terms,
        fast_inner: false,
        i16_steps: 0,
        output,
    };
    (spec, rows, requant)
}

/// Biases and multipliers that spread the results over some hundred units; wild ones reach every saturation.
fn random_factors(r: &mut Random, s: &MicrokernelSpec, epilogue: &Epilogue) -> (Vec<i32>, Vec<i32>) {
    let Epilogue { f32_fraction_bits, shl, .. } = *epilogue;
    let wild = r.chance(4);
    let spread = 1i64 << if wild { 31 } else { 14 };
    let point = if f32_fraction_bits > 0 { f32_fraction_bits } else { 38 };
    let typical =
        ((1u64 << (point.min(56) + 7)) / (8_000 * ((s.k_rows * s.segments * s.run) as f64).sqrt() as u64)) >> shl;
    let greatest = if wild { 1 << 31 } else { typical.min(1 << 31) };
    let bias = (0..s.channels).map(|_| (r.0.bits() as i64 % spread) as i32).collect();
    // Next to the quotient by an even number every tie lies within one rounding to single precision.
    let near_ties = f32_fraction_bits > 0 && r.chance(2);
    let mult = (0..s.channels)
        .map(|_| match near_ties {
            true => ((1u64 << f32_fraction_bits) / (2 * r.within(1, 4000) as u64) + r.0.bits() % 3).min((1 << 31) - 1)
                as i32,
            false => (r.0.bits() % greatest) as i32,
        })
        .collect();
    (bias, mult)
}

/// Weights of any value, or of fifteen and zero.
fn random_weights(r: &mut Random, count: usize, few: bool) -> Vec<i8> {
    let values: Vec<i8> = (0..15).map(|_| r.0.bits() as i8).collect();
    let weight = |_| if few { values[r.within(0, 14)] } else { (r.0.bits() % 255) as i8 };
    (0..count).map(weight).collect()
}

impl Case {
    fn random(seed: u64) -> Case {
        let r = &mut Random::new(seed);
        let (spec, rows, requant) = random_spec(r);
        let s = &spec;
        let reach = rows * s.in_row_step
            + s.k_rows * s.k_row_step
            + s.width * s.pixel_step
            + s.segments * s.segment_step
            + s.run
            + 3;
        let (bias, mult) = random_factors(r, s, &requant.epilogue);
        let packed_rows = s.left_out[0] + s.k_rows + s.left_out[1];
        let residual_bytes = rows * requant.residual.map_or(0, |r| r.row_step) + 1;
        let mut case = Case {
            rows,
            input: (0..reach).map(|_| r.0.bits() as u8).collect(),
            weights: random_weights(r, s.channels * packed_rows * s.segments * s.run, s.coded),
            bias,
            mult,
            residual: (0..residual_bytes).map(|_| r.0.bits() as u8).collect(),
            terms: (0..rows * s.width).map(|_| r.0.bits() as i32).collect(),
            output: vec![0xA5; rows * s.out_row_step + 64],
            spec,
        };
        if r.chance(2) {
            let bound = case.accumulators().map(|(_, _, _, acc)| acc.unsigned_abs()).max();
            if let Output::Requant { acc_bound, .. } = &mut case.spec.output {
                *acc_bound = bound;
            }
        }
        case
    }

    /// Row, pixel, channel and accumulator, by the equation of [`MicrokernelSpec`].
    fn accumulators(&self) -> impl Iterator<Item = (usize, usize, usize, i32)> {
        let s = &self.spec;
        let pixels = (0..self.rows).flat_map(|row| (0..s.width).map(move |x| (row, x)));
        pixels.flat_map(|(row, x)| (0..s.channels).map(move |c| (row, x, c))).map(|(row, x, c)| {
            let mut acc = self.bias[c];
            if s.pixel_terms {
                acc = acc.wrapping_add(self.terms[row * s.width + x]);
            }
            for k in 0..s.k_rows {
                for g in 0..s.segments {
                    let from = row * s.in_row_step + x * s.pixel_step + k * s.k_row_step + g * s.segment_step;
                    let row = c * (s.left_out[0] + s.k_rows + s.left_out[1]) + s.left_out[0] + k;
                    let weights = &self.weights[(row * s.segments + g) * s.run..][..s.run];
                    let products = self.input[from..].iter().zip(weights).map(|(&a, &w)| i32::from(a) * i32::from(w));
                    acc = acc.wrapping_add(products.sum());
                }
            }
            (row, x, c, acc)
        })
    }

    /// The whole output buffer as it should be, and the extrema behind it.
    fn expected(&self) -> Vec<u8> {
        let mut output = self.output.clone();
        let s = &self.spec;
        let mut extrema = [vec![i32::MAX; s.channels], vec![i32::MIN; s.channels]];
        for (row, x, c, acc) in self.accumulators() {
            let pixel = row * s.out_row_step + x * s.out_pixel_step;
            extrema[0][c] = extrema[0][c].min(acc);
            extrema[1][c] = extrema[1][c].max(acc);
            match &s.output {
                Output::Raw | Output::Measured => output[pixel + 4 * c..][..4].copy_from_slice(&acc.to_le_bytes()),
                Output::Requant { epilogue, residual, .. } => {
                    let term = residual.map_or(0, |r| {
                        requant::residual_term(self.residual[row * r.row_step + x * r.pixel_step + c], r.mult)
                    });
                    output[pixel + c] = epilogue.apply(acc, self.mult[c], term);
                }
            }
        }
        if s.output == Output::Measured {
            output.extend(extrema.iter().flatten().flat_map(|x| x.to_le_bytes()));
        }
        output
    }

    /// The whole output buffer as the code of `kernel` leaves it, and the extrema behind it.
    fn run(&self, code: Code, kernel: &Microkernel) -> Vec<u8> {
        let mut output = self.output.clone();
        let weights = kernel.pack_weights(&self.weights);
        assert_eq!(weights.len(), kernel.packed_bytes());
        let bias = kernel.pack_channels(&self.bias);
        let mut mult = kernel.pack_multipliers(&self.mult);
        if self.spec.output == Output::Measured {
            mult = vec![0; MEASURED_STEP / 2];
        }
        let (input, residual) = (self.input.as_ptr(), self.residual.as_ptr());
        // SAFETY: the buffers were sized from the description, with the slack that a microkernel may read.
        unsafe {
            code(
                input,
                weights.as_ptr(),
                bias.as_ptr(),
                mult.as_mut_ptr(),
                output.as_mut_ptr(),
                residual,
                self.rows / self.spec.block_rows,
                input,
                self.terms.as_ptr(),
            )
        };
        if self.spec.output == Output::Measured {
            let halves = mult.chunks(MEASURED_STEP / 4);
            output.extend(halves.flat_map(|h| &h[..self.spec.channels]).flat_map(|x| x.to_le_bytes()));
        }
        output
    }
}

impl Jit {
    fn clif_code(&mut self, kernel: &Microkernel) -> Code {
        let config = self.module.target_config();
        let function = microkernel::emit_clif(kernel, config, &mut self.context).unwrap();
        // SAFETY: the function was made with the signature of a microkernel.
        unsafe { std::mem::transmute::<*const u8, Code>(self.clif(function)) }
    }

    fn machine_code(&mut self, kernel: &Microkernel, backend: Backend) -> Code {
        let code = microkernel::machine_code(kernel, backend).unwrap().expect("a back end that makes machine code");
        // SAFETY: as above.
        unsafe { std::mem::transmute::<*const u8, Code>(self.bytes(&code)) }
    }
}

/// Back ends with sums of 16 bits that run on this CPU.
fn with_i16_sums() -> Vec<Backend> {
    let mut all: Vec<Backend> = Target::all_runnable().iter().filter_map(Target::i16_sums_backend).collect();
    all.dedup();
    all
}

fn check(
    seeds: std::ops::Range<u64>,
    case: impl Fn(u64) -> Case,
    shape: &'static VectorShape,
    isa: impl Fn() -> OwnedTargetIsa,
    make: impl Fn(&mut Jit, &Microkernel) -> Code,
) {
    for seed in seeds {
        let mut case = case(seed);
        let mut jit = Jit::new(isa());
        case.spec.coded &= Microkernel::new(case.spec.clone(), shape).pairs_up();
        let kernel = Microkernel::new(case.spec.clone(), shape);
        let got = case.run(make(&mut jit, &kernel), &kernel);
        let want = case.expected();
        if let Some(at) = (0..want.len()).find(|&i| got[i] != want[i]) {
            let (row, rest) = (at / case.spec.out_row_step, at % case.spec.out_row_step);
            let (pixel, byte) = (rest / case.spec.out_pixel_step, rest % case.spec.out_pixel_step);
            panic!(
                "seed {seed}: row {row} pixel {pixel} byte {byte}: {} for {}; {} rows of {:?}",
                got[at], want[at], case.rows, case.spec
            );
        }
        // SAFETY: nothing of the module is in use any more.
        unsafe { jit.module.free_memory() };
    }
}

#[test]
fn clif_equals_the_reference() {
    check(0..150, Case::random, &VectorShape::CLIF, native, Jit::clif_code);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn clif_without_vnni_equals_the_reference() {
    check(0..60, Case::random, &VectorShape::CLIF, baseline, Jit::clif_code);
}

#[test]
fn machine_code_equals_the_reference() {
    for backend in coded() {
        println!("{backend:?}");
        check(0..400, Case::random, backend.shape(), native, |jit, kernel| jit.machine_code(kernel, backend));
    }
}

impl Case {
    /// A random case whose products are summed in 16 bits, as many steps as its weights allow or fewer. Activations are the greatest or the
    /// least in places, and weights are of one sign in whole groups of some lanes, so that sums reach both ends of 16 bits.
    fn of_i16_sums(seed: u64) -> Case {
        let mut case = Case::random(seed);
        let r = &mut Random::new(seed ^ 0x5EED);
        case.spec.pixel_terms = false;
        let steps = r.within(1, 16);
        let (run, channels) = (case.spec.run, case.spec.channels);
        let magnitude = (128 / (2 * steps)).max(1);
        let per_run = case.weights.len() / run;
        for at in 0..per_run {
            let sign = r.within(0, 3);
            for weight in &mut case.weights[at * run..][..run] {
                let w = r.within(0, magnitude) as i8;
                *weight = match sign {
                    0 => magnitude as i8,
                    1 => -(magnitude as i8),
                    _ if r.chance(2) => -w,
                    _ => w,
                };
            }
        }
        let greatest = r.chance(2);
        case.input.iter_mut().filter(|_| greatest).for_each(|x| *x |= if r.chance(4) { 0 } else { u8::MAX });
        let weights = case.weights.chunks(case.weights.len() / channels);
        case.spec.coded = false;
        case.spec.i16_steps =
            i16_sums::longest(weights, run, u8::MAX, steps).expect("the magnitude is for so many steps");
        if let Output::Requant { acc_bound, .. } = &mut case.spec.output {
            *acc_bound = None;
        }
        case
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn sums_in_16_bits_equal_the_reference() {
    for backend in with_i16_sums() {
        println!("{backend:?}");
        check(0..400, Case::of_i16_sums, backend.shape(), native, |jit, kernel| jit.machine_code(kernel, backend));
    }
}

/// The code for AVX-VNNI, which few machines run, is that for AVX-512-VNNI on ymm registers, which tests run: instruction by
/// instruction, but for the encoding of the dot.
#[test]
#[cfg(target_arch = "x86_64")]
fn both_encodings_of_the_256_bit_dot_are_one_kernel() {
    for seed in 0..50 {
        let kernel = Microkernel::new(Case::random(seed).spec, &VectorShape::AVX_VNNI);
        let code = |dot| microkernel::machine_code(&kernel, Backend::Ymm(dot)).unwrap().expect("machine code");
        let (vex, evex) = (instructions(&code(Dot::Vex)), instructions(&code(Dot::Evex)));
        assert_eq!(vex.len(), evex.len(), "seed {seed}");
        let mut dots = 0;
        for (a, b) in vex.iter().zip(&evex) {
            assert_eq!(a.1, b.1, "seed {seed}");
            if a.0 != b.0 {
                dots += 1;
                assert!(a.1.starts_with("vpdpbusd"), "seed {seed}: {} is encoded in two ways", a.1);
                assert_eq!((a.0, b.0), (EncodingKind::VEX, EncodingKind::EVEX), "seed {seed}: {}", a.1);
            }
        }
        assert!(dots > 0, "seed {seed}: no dot");
    }
}

/// Encoding and text of each instruction, the targets of jumps as the number of the instruction there.
#[cfg(target_arch = "x86_64")]
fn instructions(code: &[u8]) -> Vec<(EncodingKind, String)> {
    let all: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).iter().collect();
    let number = |address: u64| all.iter().position(|i| i.ip() == address).expect("a jump to an instruction");
    let text = |i: &Instruction| match i.near_branch_target() {
        0 => {
            let mut text = String::new();
            GasFormatter::new().format(i, &mut text);
            text
        }
        target => format!("{:?} {}", i.mnemonic(), number(target)),
    };
    all.iter().map(|i| (i.code().encoding(), text(i))).collect()
}

/// Short rows and few channels: tiles with several chains, panels of one vector, single lanes.
#[test]
#[cfg(target_arch = "x86_64")]
fn small_tiles_equal_the_reference() {
    let mut jit = Jit::new(native());
    let sizes =
        [(1, 1, 1), (1, 64, 512), (2, 17, 33), (3, 16, 64), (1, 48, 100), (5, 33, 7), (7, 64, 513), (1, 40, 68)];
    for (coded_weights, (width, channels, run)) in [false, true].into_iter().flat_map(|c| sizes.map(|s| (c, s))) {
        let mut case = Case::random(1);
        case.rows = 2;
        case.spec.output = if channels % 2 == 0 { Output::Measured } else { Output::Raw };
        let s = &mut case.spec;
        (s.width, s.block_rows, s.channels, s.k_rows, s.segments, s.run) = (width, 1, channels, 1, 1, run);
        s.left_out = [0; 2];
        (s.pixel_step, s.in_row_step, s.out_pixel_step, s.out_row_step) =
            (run, width * run, 4 * channels, 4 * width * channels);
        let r = &mut Random::new(width as u64);
        case.input = (0..2 * width * run + 3).map(|_| r.0.bits() as u8).collect();
        case.spec.coded = coded_weights;
        case.weights = random_weights(r, channels * run, coded_weights);
        case.bias = (0..channels as i32).collect();
        case.terms = (0..2 * width).map(|_| r.0.bits() as i32).collect();
        case.mult = case.bias.clone();
        case.output = vec![0xA5; 2 * width * channels * 4 + 64];
        let kernel = Microkernel::new(case.spec.clone(), &VectorShape::CLIF);
        assert_eq!(case.run(jit.clif_code(&kernel), &kernel), case.expected(), "CLIF, {width} x {channels} x {run}");
        for backend in coded() {
            let kernel = Microkernel::new(case.spec.clone(), backend.shape());
            assert_eq!(
                case.run(jit.machine_code(&kernel, backend), &kernel),
                case.expected(),
                "{backend:?}, {width} x {channels} x {run}"
            );
        }
    }
}

/// Decoded codes are the packed weights that they were made of, on every back end and in both forms.
#[test]
#[cfg(target_arch = "x86_64")]
fn decoding_equals_the_packed_weights() {
    let mut jit = Jit::new(native());
    for seed in 0..40 {
        let mut case = Case::random(seed);
        let s = &mut case.spec;
        (s.coded, s.width, s.block_rows) = (false, 100, 1);
        let r = &mut Random::new(seed);
        case.weights = random_weights(r, case.weights.len(), true);
        for backend in coded().into_iter().chain([Backend::Clif]) {
            let (shape, bytes) = (backend.shape(), r.chance(2));
            let kernel = Microkernel::new(case.spec.clone(), shape);
            let all = kernel.packed_bytes();
            let Some(weight_bytes) =
                kernel.weight_bytes().filter(|&w| if bytes { w == 1 } else { w == shape.weight_bytes })
            else {
                continue;
            };
            let unit = codes::unit(shape, weight_bytes);
            let mut stored = kernel.pack_codes(&case.weights, unit).expect("few values");
            let spec = DecodeSpec { bytes };
            let code = match decode::machine_code(&spec, backend).unwrap() {
                Some(code) => jit.bytes(&code),
                None => {
                    let config = jit.module.target_config();
                    let function = decode::emit_clif(&spec, config, &mut jit.context);
                    jit.clif(function)
                }
            };
            assert_eq!(stored.len(), codes::HEADER + (all / weight_bytes).div_ceil(2 * unit) * unit);
            let pairs = (all / weight_bytes).div_ceil(2 * unit).next_multiple_of(decode::PAIRS);
            stored.resize(codes::HEADER + pairs * unit, 0);
            let mut decoded = vec![0xA5; 2 * pairs * unit * weight_bytes + 8];
            // SAFETY: the function has this signature, and the buffers are as long as its pairs say.
            unsafe {
                let decode = std::mem::transmute::<*const u8, unsafe extern "C" fn(*const u8, *mut u8, usize)>(code);
                decode(stored.as_ptr(), decoded.as_mut_ptr(), pairs / decode::PAIRS);
            }
            assert_eq!(decoded[..all], kernel.pack_weights(&case.weights), "seed {seed}, {backend:?}, bytes {bytes}");
            assert_eq!(decoded[decoded.len() - 8..], [0xA5; 8], "seed {seed}, {backend:?}: written beyond the end");
        }
    }
}

#[test]
fn impossible_descriptions_are_refused() {
    let good = Case::random(3).spec;
    assert!(good.validate().is_ok());
    for bad in [
        MicrokernelSpec { channels: 0, ..good.clone() },
        MicrokernelSpec { channels: 65, ..good.clone() },
        MicrokernelSpec { run: 0, ..good.clone() },
        MicrokernelSpec { block_rows: 0, ..good.clone() },
        MicrokernelSpec { coded: true, left_out: [1, 0], ..good.clone() },
        MicrokernelSpec { pixel_step: 1 << 30, ..good.clone() },
    ] {
        assert!(bad.validate().is_err(), "{bad:?}");
    }
}

/// The loop that measures the peak runs and ends.
#[test]
#[cfg(target_arch = "x86_64")]
fn peak_loops_run() {
    let mut jit = Jit::new(native());
    let function = peak::emit_clif(jit.module.target_config(), &mut FunctionBuilderContext::new());
    let mut loops = vec![(Backend::Clif, jit.clif(function))];
    for backend in coded().into_iter().chain(with_i16_sums()) {
        let code = peak::machine_code(backend).unwrap().expect("a back end that makes machine code");
        loops.push((backend, jit.bytes(&code)));
    }
    for (backend, code) in loops {
        // SAFETY: the function takes one count and touches no memory.
        let run = unsafe { std::mem::transmute::<*const u8, unsafe extern "C" fn(usize)>(code) };
        let (count, start) = (1_000_000, std::time::Instant::now());
        // SAFETY: as above.
        unsafe { run(count) };
        let macs = peak::macs_per_iteration(backend.shape()) as f64 * count as f64;
        println!("peak of {backend:?}: {:.0} GMAC/s", macs / start.elapsed().as_nanos() as f64);
    }
}
