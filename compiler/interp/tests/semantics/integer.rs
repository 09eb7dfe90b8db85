//! Integer operators against the equations of `qcc_num`, written a second time in wide integers.

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, attr};

use crate::support::{Random, eval_u8, try_eval};

/// Equations (1) to (4).
fn requantized(acc: i64, mult: i32, shl: u32, residual: i64, offset: i64, (lo, hi): (i64, i64)) -> u8 {
    let sat = |x: i128, bits: u32| x.clamp(-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1);
    let t = (sat(i128::from(acc) << shl, 32) * i128::from(mult)).div_euclid(1 << 32);
    let u = sat(sat(t, 16) + i128::from(residual), 16);
    let v = sat(u + i128::from(offset), 16).div_euclid(64);
    v.clamp(i128::from(lo), i128::from(hi)) as u8
}

/// Equation (5).
fn affine(sum: i64, offset: i64, shift: u32, (lo, hi): (i64, i64)) -> u8 {
    (sum + offset).div_euclid(1 << shift).clamp(lo, hi) as u8
}

/// The input with its padding written out, then the sum over all windows in 64 bits.
fn conv_reference(x: &Tensor, w: &Tensor, bias: &Tensor, attrs: &Attrs) -> Vec<i64> {
    let [n, h, width, c] = x.dims[..] else { panic!("NHWC") };
    let [o, kh, kw, cg] = w.dims[..] else { panic!("OHWI") };
    let (s, p, d) = (attrs.sizes(attr::STRIDES), attrs.sizes(attr::PADS), attrs.sizes(attr::DILATIONS));
    let (ph, pw) = (h + p[0] + p[2], width + p[1] + p[3]);
    let mut padded = vec![attrs.get(attr::PAD_VALUE); n * ph * pw * c];
    for (i, &v) in x.as_u8().unwrap().iter().enumerate() {
        let (channel, column, row, sample) = (i % c, i / c % width, i / c / width % h, i / c / width / h);
        padded[((sample * ph + row + p[0]) * pw + column + p[1]) * c + channel] = i64::from(v);
    }
    let (oh, ow) = ((ph - (kh - 1) * d[0] - 1) / s[0] + 1, (pw - (kw - 1) * d[1] - 1) / s[1] + 1);
    let mut acc: Vec<i64> = (0..n * oh * ow * o).map(|i| i64::from(bias.as_i32().unwrap()[i % o])).collect();
    for (i, &weight) in w.as_i8().unwrap().iter().enumerate() {
        let (ic, kx, ky, oc) = (i % cg, i / cg % kw, i / cg / kw % kh, i / cg / kw / kh);
        let channel = oc / (o * cg / c) * cg + ic;
        for position in 0..n * oh * ow {
            let (ox, oy, sample) = (position % ow, position / ow % oh, position / ow / oh);
            let (y, x) = (oy * s[0] + ky * d[0], ox * s[1] + kx * d[1]);
            acc[position * o + oc] += i64::from(weight) * padded[((sample * ph + y) * pw + x) * c + channel];
        }
    }
    acc
}

#[test]
fn convolution_and_its_epilogue_equal_their_equations() {
    for seed in 0..150 {
        let r = Random::new(seed);
        let groups = [1, 1, 2, 4][r.size(0, 3)];
        let per_group = r.size(1, 5);
        let (kernel, dilations) = ([r.size(1, 3), r.size(1, 3)], [r.size(1, 2), r.size(1, 2)]);
        let pads = [r.size(0, 2), r.size(0, 2), r.size(0, 2), r.size(0, 2)];
        let input = [0, 1].map(|i| (kernel[i] - 1) * dilations[i] + 1 + r.size(0, 5));
        let x = r.u8s(&[r.size(1, 2), input[0], input[1], groups * per_group]);
        let w = r.i8s(&[groups * r.size(1, 3), kernel[0], kernel[1], per_group]);
        let bias = r.i32s(&[w.dims[0]], -9999, 9999);
        let geometry = |op| {
            Attrs::new(op)
                .with(attr::PADS, pads.as_slice())
                .with(attr::DILATIONS, dilations.as_slice())
                .with(attr::GROUPS, groups as i64)
        };
        let (strides, pad_value) = ([r.size(1, 2), r.size(1, 2)], r.int(0, 255));
        let with = |a: Attrs| a.with(attr::STRIDES, strides.as_slice()).with(attr::PAD_VALUE, pad_value);
        let attrs = with(geometry(Opcode::IConv2d));
        let want = conv_reference(&x, &w, &bias, &attrs);
        let got = try_eval(Opcode::IConv2d, attrs, &[&x, &w, &bias], Elem::Int(Int::I32)).unwrap();
        assert_eq!(got.as_i32().unwrap().iter().map(|&a| i64::from(a)).collect::<Vec<_>>(), want, "seed {seed}");

        let (shl, offset, factor) = (r.int(0, 9), r.int(-9000, 9000), r.int(0, 32767));
        let bounds = (r.int(0, 100), r.int(100, 255));
        let mult = r.i32s(if r.size(0, 1) == 0 { &[1] } else { &w.dims[..1] }, 1, i64::from(i32::MAX));
        let residual = r.u8s(&got.dims);
        let epilogue = |a: Attrs| {
            a.with(attr::SHL, shl).with(attr::OFFSET, offset).with(attr::LO, bounds.0).with(attr::HI, bounds.1)
        };
        let value = |i: usize, residual: i64| {
            let m = mult.as_i32().unwrap();
            requantized(want[i], m[i % m.len()], shl as u32, residual, offset, bounds)
        };
        let plain: Vec<u8> = (0..want.len()).map(|i| value(i, 0)).collect();
        let fused = epilogue(with(geometry(Opcode::QConv2d)));
        assert_eq!(eval_u8(Opcode::QConv2d, fused.clone(), &[&x, &w, &bias, &mult]), plain, "seed {seed}");
        assert_eq!(
            eval_u8(Opcode::Requant, epilogue(Attrs::new(Opcode::Requant)), &[&got, &mult]),
            plain,
            "seed {seed}"
        );
        let term = |i: usize| (i64::from(residual.as_u8().unwrap()[i]) * factor).div_euclid(256);
        let summed: Vec<u8> = (0..want.len()).map(|i| value(i, term(i))).collect();
        let fused = fused.with(attr::RESIDUAL_MULT, factor);
        assert_eq!(eval_u8(Opcode::QConv2d, fused, &[&x, &w, &bias, &mult, &residual]), summed, "seed {seed}");
    }
}

#[test]
fn linear_equals_its_equation() {
    for seed in 0..60 {
        let r = Random::new(seed);
        let (m, n, k) = (r.size(1, 4), r.size(1, 90), r.size(1, 99));
        let (x, w, bias) = (r.u8s(&[m, k]), r.i8s(&[n, k]), r.i32s(&[n], -99999, 99999));
        let (mult, residual) = (r.i32s(&[n], 1, i64::from(i32::MAX)), r.u8s(&[m, n]));
        let (offset, factor) = (r.int(-9000, 9000), r.int(0, 32767));
        let mut acc = Vec::new();
        let mut want = Vec::new();
        for (i, o) in (0..m).flat_map(|i| (0..n).map(move |o| (i, o))) {
            let term = |j: usize| i64::from(x.as_u8().unwrap()[i * k + j]) * i64::from(w.as_i8().unwrap()[o * k + j]);
            acc.push(i64::from(bias.as_i32().unwrap()[o]) + (0..k).map(term).sum::<i64>());
            let residual = (i64::from(residual.as_u8().unwrap()[i * n + o]) * factor).div_euclid(256);
            let m = mult.as_i32().unwrap()[o];
            want.push(requantized(acc[i * n + o], m, 2, residual, offset, (0, 200)));
        }
        let got =
            try_eval(Opcode::ILinear, Attrs::new(Opcode::ILinear), &[&x, &w, &bias], Elem::Int(Int::I32)).unwrap();
        assert_eq!(got.as_i32().unwrap().iter().map(|&a| i64::from(a)).collect::<Vec<_>>(), acc, "seed {seed}");
        let attrs = Attrs::new(Opcode::QLinear).with(attr::SHL, 2).with(attr::OFFSET, offset).with(attr::HI, 200);
        let attrs = attrs.with(attr::RESIDUAL_MULT, factor);
        assert_eq!(eval_u8(Opcode::QLinear, attrs, &[&x, &w, &bias, &mult, &residual]), want, "seed {seed}");
    }
}

/// 255 * -128 * 65793 is just below -2^31; partial sums beyond 32 bits are harmless if the whole fits.
#[test]
fn accumulators_are_exact_and_never_wrap() {
    let k = 70_000;
    let x = Tensor::new(&[1, k], Data::U8(vec![255; k]));
    let low = Tensor::new(&[1, k], Data::I8(vec![-128; k]));
    let run = |w: &Tensor, bias: i32| {
        let bias = Tensor::new(&[1], Data::I32(vec![bias]));
        try_eval(Opcode::ILinear, Attrs::new(Opcode::ILinear), &[&x, w, &bias], Elem::Int(Int::I32))
    };
    assert_eq!(run(&low, 0).unwrap_err().code, Code::OVERFLOW);
    let sum = 255i64 * -128 * k as i64 + i64::from(i32::MAX);
    assert_eq!(run(&low, i32::MAX).unwrap().as_i32().unwrap(), [sum as i32]);
}

#[test]
fn sums_and_products_of_bytes_equal_their_equations() {
    for seed in 0..60 {
        let r = Random::new(seed);
        let (a, b) = (r.u8s(&[2, 3, 4]), if r.size(0, 1) == 0 { r.u8s(&[4]) } else { r.u8s(&[2, 3, 4]) });
        let at = |t: &Tensor, i: usize| i64::from(t.as_u8().unwrap()[i % t.data.len()]);
        let bounds = (r.int(0, 50), r.int(200, 255));
        let limits = |x: Attrs| x.with(attr::LO, bounds.0).with(attr::HI, bounds.1);

        let (ma, mb) = (r.int(-32768, 32767), r.int(-32768, 32767));
        let (shift, offset) = (r.int(0, 22), r.int(-(1 << 29), 1 << 29));
        let want: Vec<u8> =
            (0..24).map(|i| affine(at(&a, i) * ma + at(&b, i) * mb, offset, shift as u32, bounds)).collect();
        let attrs = limits(Attrs::new(Opcode::IAdd)).with(attr::MULTS, vec![ma, mb]).with(attr::SHIFT, shift);
        assert_eq!(eval_u8(Opcode::IAdd, attrs.with(attr::OFFSET, offset), &[&a, &b]), want, "seed {seed}");

        let want: Vec<u8> = (0..24).map(|i| affine(at(&a, i) * ma, offset, shift as u32, bounds)).collect();
        let attrs = limits(Attrs::new(Opcode::Rescale)).with(attr::MULT, ma).with(attr::SHIFT, shift);
        assert_eq!(eval_u8(Opcode::Rescale, attrs.with(attr::OFFSET, offset), &[&a]), want, "seed {seed}");

        let mults: Vec<i16> = (0..4).map(|_| r.int(-32768, 32767) as i16).collect();
        let offsets = r.i32s(&[4], -(1 << 29), 1 << 29);
        let one = |i: usize| {
            let offset = i64::from(offsets.as_i32().unwrap()[i % 4]);
            affine(at(&a, i) * i64::from(mults[i % 4]), offset, shift as u32, bounds)
        };
        let want: Vec<u8> = (0..24).map(one).collect();
        let attrs = limits(Attrs::new(Opcode::ScaleChannels)).with(attr::SHIFT, shift);
        let mults = Tensor::new(&[4], Data::I16(mults));
        assert_eq!(eval_u8(Opcode::ScaleChannels, attrs, &[&a, &mults, &offsets]), want, "seed {seed}");

        let (za, zb, mult, shl, offset) =
            (r.int(0, 255), r.int(0, 255), r.int(1, i64::from(i32::MAX)), r.int(0, 9), r.int(-99, 9999));
        let product = |i: usize| (at(&a, i) - za) * (at(&b, i) - zb);
        let want: Vec<u8> =
            (0..24).map(|i| requantized(product(i), mult as i32, shl as u32, 0, offset, bounds)).collect();
        let attrs = limits(Attrs::new(Opcode::IMul)).with(attr::ZEROS, vec![za, zb]).with(attr::MULT, mult);
        assert_eq!(
            eval_u8(Opcode::IMul, attrs.with(attr::SHL, shl).with(attr::OFFSET, offset), &[&a, &b]),
            want,
            "seed {seed}"
        );
    }
}

#[test]
fn a_channel_scale_that_overflows_is_refused() {
    let x = Tensor::new(&[1], Data::U8(vec![255]));
    let mult = Tensor::new(&[1], Data::I16(vec![1]));
    let offset = Tensor::new(&[1], Data::I32(vec![i32::MAX]));
    let attrs = Attrs::new(Opcode::ScaleChannels).with(attr::SHIFT, 0);
    let fault = try_eval(Opcode::ScaleChannels, attrs, &[&x, &mult, &offset], Elem::Int(Int::U8)).unwrap_err();
    assert_eq!(fault.code, Code::OVERFLOW);
}

#[test]
fn tables_clamps_and_softmax() {
    let x = Tensor::new(&[2, 3], Data::U8(vec![0, 7, 255, 3, 3, 3]));
    let table = Tensor::new(&[256], Data::U8((0..=255u8).map(|q| q ^ 0x55).collect()));
    assert_eq!(eval_u8(Opcode::Lut, Attrs::new(Opcode::Lut), &[&x, &table]), [0x55, 0x52, 0xaa, 0x56, 0x56, 0x56]);
    let clamp = Attrs::new(Opcode::Clamp).with(attr::LO, 2).with(attr::HI, 100);
    assert_eq!(eval_u8(Opcode::Clamp, clamp, &[&x]), [2, 7, 100, 3, 3, 3]);
    // Halves with each step: rows of (2^-255, 2^-248, 1) and of three equal shares of 85.
    let halves = (0..256).map(|d| if d < 31 { (1 << 30) >> d } else { 0 }).collect();
    let table = Tensor::new(&[256], Data::I32(halves));
    let softmax = |x: &Tensor| eval_u8(Opcode::ISoftmax, Attrs::new(Opcode::ISoftmax), &[x, &table]);
    assert_eq!(softmax(&x), [0, 0, 255, 85, 85, 85]);
    // Shares 2/3 and 1/3.
    assert_eq!(softmax(&Tensor::new(&[2], Data::U8(vec![9, 8]))), [170, 85]);
    let bad = Tensor::new(&[256], Data::I32(vec![0; 256]));
    assert!(try_eval(Opcode::ISoftmax, Attrs::new(Opcode::ISoftmax), &[&x, &bad], Elem::Int(Int::U8)).is_err());
}
