//! Pooling of floats and of bytes, against the definition on random windows.

use qcc_ir::{Attrs, Data, Opcode, Tensor, Type, attr, infer_dims};
use qcc_num::requant::Epilogue;

use crate::support::{Random, assert_near, eval_f32, eval_u8};

struct Case {
    attrs: Attrs,
    input: [usize; 2],
    output: [usize; 2],
}

/// A random window of which every position has an element inside the input.
fn case(r: &Random, op: Opcode) -> Case {
    loop {
        let input = [r.size(1, 9), r.size(1, 9)];
        let mut attrs = Attrs::new(op)
            .with(attr::KERNEL, [r.size(1, 4), r.size(1, 4)].as_slice())
            .with(attr::STRIDES, [r.size(1, 3), r.size(1, 3)].as_slice())
            .with(attr::PADS, [r.size(0, 2), r.size(0, 2), r.size(0, 2), r.size(0, 2)].as_slice());
        if matches!(op, Opcode::MaxPool | Opcode::IMaxPool) {
            attrs = attrs.with(attr::DILATIONS, [r.size(1, 2), r.size(1, 2)].as_slice());
        }
        // The rule that refuses empty windows is that of the greatest element, whatever the operator.
        let strict = Attrs::new(Opcode::MaxPool)
            .with(attr::KERNEL, attrs.get(attr::KERNEL))
            .with(attr::STRIDES, attrs.get(attr::STRIDES))
            .with(attr::PADS, attrs.get(attr::PADS))
            .with(attr::DILATIONS, dilations(&attrs).iter().map(|&d| d as i64).collect::<Vec<_>>());
        let ty = Type::f32(&[1, 1, input[0], input[1]]);
        if let Ok(dims) = infer_dims(Opcode::MaxPool, &strict, &[&ty]) {
            return Case { attrs, input, output: [dims[2], dims[3]] };
        }
    }
}

fn dilations(attrs: &Attrs) -> Vec<usize> {
    if attrs.has(attr::DILATIONS) { attrs.sizes(attr::DILATIONS) } else { vec![1, 1] }
}

impl Case {
    /// Rows and columns of the input that output position (`oy`, `ox`) sees.
    fn seen(&self, oy: usize, ox: usize) -> Vec<(usize, usize)> {
        let (k, s, p) = (self.attrs.sizes(attr::KERNEL), self.attrs.sizes(attr::STRIDES), self.attrs.sizes(attr::PADS));
        let d = dilations(&self.attrs);
        let mut seen = Vec::new();
        for (ky, kx) in (0..k[0]).flat_map(|y| (0..k[1]).map(move |x| (y, x))) {
            let y = (oy * s[0] + ky * d[0]) as i64 - p[0] as i64;
            let x = (ox * s[1] + kx * d[1]) as i64 - p[1] as i64;
            if y >= 0 && x >= 0 && y < self.input[0] as i64 && x < self.input[1] as i64 {
                seen.push((y as usize, x as usize));
            }
        }
        seen
    }

    fn positions(&self) -> impl Iterator<Item = (usize, usize)> {
        let [oh, ow] = self.output;
        (0..oh).flat_map(move |y| (0..ow).map(move |x| (y, x)))
    }
}

#[test]
fn float_pools_equal_their_definition() {
    for seed in 0..200 {
        let r = Random::new(seed);
        let max = r.size(0, 1) == 0;
        let op = if max { Opcode::MaxPool } else { Opcode::AveragePool };
        let mut case = case(&r, op);
        let include = r.size(0, 1) == 1;
        if !max {
            case.attrs = case.attrs.clone().with(attr::COUNT_INCLUDE_PAD, include);
        }
        let (n, c, [h, w]) = (r.size(1, 2), r.size(1, 3), case.input);
        let x = r.floats(&[n, c, h, w]);
        let xs = x.as_f32().unwrap();
        let mut want = Vec::new();
        for (plane, (oy, ox)) in (0..n * c).flat_map(|p| case.positions().map(move |o| (p, o))) {
            let seen: Vec<f64> =
                case.seen(oy, ox).iter().map(|(y, x)| f64::from(xs[(plane * h + y) * w + x])).collect();
            let window: usize = case.attrs.sizes(attr::KERNEL).iter().product();
            let count = if include { window } else { seen.len() };
            let value = if max {
                seen.iter().copied().fold(f64::NEG_INFINITY, f64::max)
            } else {
                seen.iter().sum::<f64>() / count as f64
            };
            want.push((value, 1.0));
        }
        assert_near(&eval_f32(op, case.attrs.clone(), &[&x]), &want, &format!("seed {seed}, {:?}", case.attrs));
    }
}

#[test]
fn integer_pools_equal_their_definition() {
    for seed in 0..200 {
        let r = Random::new(seed);
        let max = r.size(0, 1) == 0;
        let op = if max { Opcode::IMaxPool } else { Opcode::IAveragePool };
        let mut case = case(&r, op);
        let ([h, w], [oh, ow], n, c) = (case.input, case.output, r.size(1, 2), r.size(1, 5));
        let x = r.u8s(&[n, h, w, c]);
        let xs = x.as_u8().unwrap();
        let per_position = r.size(0, 1) == 1;
        let positions = if per_position { vec![oh, ow] } else { vec![1] };
        let mult = r.i32s(&positions, 1 << 28, i64::from(i32::MAX));
        let zero = r.int(0, 255);
        if !max {
            let offset = r.int(-3000, 9000);
            case.attrs = case
                .attrs
                .clone()
                .with(attr::ZERO, zero)
                .with(attr::SHL, 7)
                .with(attr::OFFSET, offset)
                .with(attr::LO, 3);
        }
        let mut want = Vec::new();
        for (b, (oy, ox)) in (0..n).flat_map(|b| case.positions().map(move |o| (b, o))) {
            for channel in 0..c {
                let at = |&(y, x): &(usize, usize)| i32::from(xs[((b * h + y) * w + x) * c + channel]);
                let seen: Vec<i32> = case.seen(oy, ox).iter().map(at).collect();
                want.push(if max {
                    *seen.iter().max().unwrap() as u8
                } else {
                    let offset = case.attrs.get(attr::OFFSET) as i16;
                    let rule = Epilogue { shl: 7, offset, f32_fraction_bits: 0, lo: 3, hi: 255 };
                    let m = mult.as_i32().unwrap()[if per_position { oy * ow + ox } else { 0 }];
                    rule.apply(seen.iter().map(|x| x - zero as i32).sum(), m, 0)
                });
            }
        }
        let operands: &[&Tensor] = if max { &[&x] } else { &[&x, &mult] };
        assert_eq!(eval_u8(op, case.attrs.clone(), operands), want, "seed {seed}, {:?}", case.attrs);
    }
}

#[test]
fn integer_mean_over_any_axes() {
    let x = Tensor::new(&[1, 2, 2, 2], Data::U8(vec![10, 200, 20, 210, 30, 220, 40, 230]));
    // Factor 1/4 = 2^30 / 2^32 with 6 fraction bits at shl 6; zero points 5 and 100.
    let attrs = Attrs::new(Opcode::IMean)
        .with(attr::AXES, vec![1, 2])
        .with(attr::ZERO, 5)
        .with(attr::MULT, 1 << 30)
        .with(attr::SHL, 6)
        .with(attr::OFFSET, 32 + 64 * 100);
    assert_eq!(eval_u8(Opcode::IMean, attrs, &[&x]), [25 - 5 + 100, 255]);
}
