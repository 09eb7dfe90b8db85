//! Real operators on f32.

use qcc_ir::{Attrs, Opcode, Tensor, attr};

use crate::support::{Random, assert_near, eval_f32};

/// Convolution by its definition in f64: value, and the sum of the terms' magnitudes.
fn conv_reference(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, attrs: &Attrs) -> Vec<(f64, f64)> {
    let [n, c, h, width] = x.dims[..] else { panic!("NCHW") };
    let [o, cg, kh, kw] = w.dims[..] else { panic!("OIHW") };
    let (s, p, d) = (attrs.sizes(attr::STRIDES), attrs.sizes(attr::PADS), attrs.sizes(attr::DILATIONS));
    let oh = (h + p[0] + p[2] - ((kh - 1) * d[0] + 1)) / s[0] + 1;
    let ow = (width + p[1] + p[3] - ((kw - 1) * d[1] + 1)) / s[1] + 1;
    let outputs_per_group = o / (c / cg);
    let (xs, ws) = (x.as_f32().unwrap(), w.as_f32().unwrap());
    let mut out = Vec::new();
    for (b, oc) in (0..n).flat_map(|b| (0..o).map(move |oc| (b, oc))) {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            let start = bias.map_or(0.0, |t| f64::from(t.as_f32().unwrap()[oc]));
            let (mut sum, mut scale) = (start, start.abs());
            for ic in 0..cg {
                for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                    let y = (oy * s[0] + ky * d[0]) as i64 - p[0] as i64;
                    let x = (ox * s[1] + kx * d[1]) as i64 - p[1] as i64;
                    if (0..h as i64).contains(&y) && (0..width as i64).contains(&x) {
                        let channel = oc / outputs_per_group * cg + ic;
                        let a = xs[((b * c + channel) * h + y as usize) * width + x as usize];
                        let term = f64::from(a) * f64::from(ws[((oc * cg + ic) * kh + ky) * kw + kx]);
                        sum += term;
                        scale += term.abs();
                    }
                }
            }
            out.push((sum, scale));
        }
    }
    out
}

#[test]
fn convolution_equals_its_definition() {
    for seed in 0..150 {
        let r = Random::new(seed);
        let groups = [1, 1, 2, 3, 5][r.size(0, 4)];
        let depthwise = r.size(0, 3) == 0;
        let per_group = if depthwise { 1 } else { r.size(1, 4) };
        let (kernel, dilations) = ([r.size(1, 4), r.size(1, 4)], [r.size(1, 3), r.size(1, 3)]);
        let extent = [0, 1].map(|i| (kernel[i] - 1) * dilations[i] + 1);
        let pads = [r.size(0, 3), r.size(0, 3), r.size(0, 3), r.size(0, 3)];
        let input = [0, 1].map(|i| extent[i].saturating_sub(pads[i] + pads[i + 2]).max(1) + r.size(0, 9));
        let x = r.floats(&[r.size(1, 2), groups * per_group, input[0], input[1]]);
        let w = r.floats(&[groups * r.size(1, 3), per_group, kernel[0], kernel[1]]);
        let bias = r.floats(&[w.dims[0]]);
        let attrs = Attrs::new(Opcode::Conv2d)
            .with(attr::STRIDES, [r.size(1, 3), r.size(1, 3)].as_slice())
            .with(attr::PADS, pads.as_slice())
            .with(attr::DILATIONS, dilations.as_slice())
            .with(attr::GROUPS, groups as i64);
        let with_bias = r.size(0, 1) == 1;
        let operands: &[&Tensor] = if with_bias { &[&x, &w, &bias] } else { &[&x, &w] };
        let want = conv_reference(&x, &w, with_bias.then_some(&bias), &attrs);
        assert_near(&eval_f32(Opcode::Conv2d, attrs.clone(), operands), &want, &format!("seed {seed}, {attrs:?}"));
    }
}

/// Long enough that the windows are laid out in several parts, the last of them shorter.
#[test]
fn convolution_in_parts_equals_its_definition() {
    let r = Random::new(7);
    let x = r.floats(&[1, 48, 41, 37]);
    let w = r.floats(&[5, 48, 3, 3]);
    let attrs = Attrs::new(Opcode::Conv2d).with(attr::PADS, [1usize, 1, 1, 1].as_slice());
    let want = conv_reference(&x, &w, None, &attrs);
    assert_near(&eval_f32(Opcode::Conv2d, attrs, &[&x, &w]), &want, "parts");
}

fn dot(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>, start: f32) -> (f64, f64) {
    let terms: Vec<f64> = a.zip(b).map(|(a, b)| f64::from(a) * f64::from(b)).collect();
    let start = f64::from(start);
    (start + terms.iter().sum::<f64>(), start.abs() + terms.iter().map(|t| t.abs()).sum::<f64>())
}

#[test]
fn linear_equals_its_definition() {
    for seed in 0..40 {
        let r = Random::new(seed);
        let (rows, n, k) = ([r.size(1, 3), r.size(1, 5)], r.size(1, 40), r.size(1, 60));
        let (x, w, bias) = (r.floats(&[rows[0], rows[1], k]), r.floats(&[n, k]), r.floats(&[n]));
        let (xs, ws) = (x.as_f32().unwrap(), w.as_f32().unwrap());
        let mut want = Vec::new();
        for (i, o) in (0..rows[0] * rows[1]).flat_map(|i| (0..n).map(move |o| (i, o))) {
            let a = xs[i * k..(i + 1) * k].iter().copied();
            want.push(dot(a, ws[o * k..(o + 1) * k].iter().copied(), bias.as_f32().unwrap()[o]));
        }
        let got = eval_f32(Opcode::Linear, Attrs::new(Opcode::Linear), &[&x, &w, &bias]);
        assert_near(&got, &want, &format!("seed {seed}"));
    }
}

#[test]
fn matrix_product_broadcasts_outer_dimensions() {
    for seed in 0..40 {
        let r = Random::new(seed);
        let (m, n, k) = (r.size(1, 9), r.size(1, 9), r.size(1, 9));
        // [3, 2, m, k] x [2, k, n], with either outer extent possibly 1.
        let (outer_a, outer_b) = ([3, [1, 2][r.size(0, 1)]], [1, 2][r.size(0, 1)]);
        let (a, b) = (r.floats(&[outer_a[0], outer_a[1], m, k]), r.floats(&[outer_b, k, n]));
        let inner = outer_a[1].max(outer_b);
        let (av, bv) = (a.as_f32().unwrap(), b.as_f32().unwrap());
        let mut want = Vec::new();
        for (p, q) in (0..3).flat_map(|p| (0..inner).map(move |q| (p, q))) {
            let i = p * outer_a[1] + q.min(outer_a[1] - 1);
            let j = q.min(outer_b - 1);
            for (y, x) in (0..m).flat_map(|y| (0..n).map(move |x| (y, x))) {
                let row = av[(i * m + y) * k..][..k].iter().copied();
                want.push(dot(row, (0..k).map(|z| bv[(j * k + z) * n + x]), 0.0));
            }
        }
        let got = eval_f32(Opcode::MatMul, Attrs::new(Opcode::MatMul), &[&a, &b]);
        assert_near(&got, &want, &format!("seed {seed}"));
    }
}

#[test]
fn elementwise_functions() {
    let x = Tensor::f32(&[5], vec![-2.0, -0.5, 0.0, 1.0, 3.0]);
    let run = |op, attrs| eval_f32(op, attrs, &[&x]);
    assert_eq!(run(Opcode::Relu, Attrs::new(Opcode::Relu)), [0.0, 0.0, 0.0, 1.0, 3.0]);
    let clip = Attrs::new(Opcode::Clip).with(attr::MIN, -1.0).with(attr::MAX, 2.0);
    assert_eq!(run(Opcode::Clip, clip), [-1.0, -0.5, 0.0, 1.0, 2.0]);
    let leaky = Attrs::new(Opcode::LeakyRelu).with(attr::ALPHA, 0.5);
    assert_eq!(run(Opcode::LeakyRelu, leaky), [-1.0, -0.25, 0.0, 1.0, 3.0]);
    assert_eq!(run(Opcode::Abs, Attrs::new(Opcode::Abs)), [2.0, 0.5, 0.0, 1.0, 3.0]);
    let sigmoid = run(Opcode::Sigmoid, Attrs::new(Opcode::Sigmoid));
    assert!((sigmoid[3] - 0.731_058_6).abs() < 1e-6 && sigmoid[2] == 0.5);
}

#[test]
fn binary_functions_broadcast() {
    let a = Tensor::f32(&[2, 3], vec![1.0, -2.0, 3.0, -4.0, 5.0, -6.0]);
    let b = Tensor::f32(&[3], vec![2.0, 0.5, 3.0]);
    let run = |op| eval_f32(op, Attrs::new(op), &[&a, &b]);
    assert_eq!(run(Opcode::Add), [3.0, -1.5, 6.0, -2.0, 5.5, -3.0]);
    assert_eq!(run(Opcode::Sub), [-1.0, -2.5, 0.0, -6.0, 4.5, -9.0]);
    assert_eq!(run(Opcode::Mul), [2.0, -1.0, 9.0, -8.0, 2.5, -18.0]);
    assert_eq!(run(Opcode::Div), [0.5, -4.0, 1.0, -2.0, 10.0, -2.0]);
    assert_eq!(run(Opcode::Min), [1.0, -2.0, 3.0, -4.0, 0.5, -6.0]);
    assert_eq!(run(Opcode::Max), [2.0, 0.5, 3.0, 2.0, 5.0, 3.0]);
    assert_eq!(run(Opcode::PRelu), [1.0, -1.0, 3.0, -8.0, 5.0, -18.0]);
    let squares = eval_f32(Opcode::Pow, Attrs::new(Opcode::Pow), &[&a, &Tensor::f32(&[], vec![2.0])]);
    assert_eq!(squares, [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]);
}

#[test]
fn reductions_over_any_axes() {
    let x = Tensor::f32(&[2, 3, 2], (0..12).map(|i| i as f32).collect());
    let run =
        |op, axes: &[usize]| eval_f32(op, Attrs::new(op).with(attr::AXES, axes).with(attr::KEEPDIMS, false), &[&x]);
    assert_eq!(run(Opcode::ReduceSum, &[1, 2]), [15.0, 51.0]);
    assert_eq!(run(Opcode::ReduceMean, &[1]), [2.0, 3.0, 8.0, 9.0]);
    assert_eq!(run(Opcode::ReduceMax, &[0]), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(run(Opcode::ReduceMin, &[0, 2]), [0.0, 2.0, 4.0]);
}

#[test]
fn batch_norm_equals_its_equation() {
    let r = Random::new(1);
    let x = r.floats(&[2, 3, 2, 2]);
    let [scale, bias, mean] = [0, 1, 2].map(|_| r.floats(&[3]));
    let var = Tensor::f32(&[3], vec![0.25, 1.0, 4.0]);
    let attrs = Attrs::new(Opcode::BatchNorm).with(attr::EPSILON, 0.001);
    let at = |t: &Tensor, i: usize| f64::from(t.as_f32().unwrap()[i]);
    let one = |i: usize| {
        let c = i / 4 % 3;
        let y = (at(&x, i) - at(&mean, c)) / (at(&var, c) + 0.001).sqrt() * at(&scale, c) + at(&bias, c);
        (y, 4.0)
    };
    let got = eval_f32(Opcode::BatchNorm, attrs, &[&x, &scale, &bias, &mean, &var]);
    assert_near(&got, &(0..24).map(one).collect::<Vec<_>>(), "batch norm");
}

#[test]
fn softmax_along_any_axis() {
    for seed in 0..20 {
        let r = Random::new(seed);
        let dims = [r.size(1, 4), r.size(1, 4), r.size(1, 4)];
        let axis = r.size(0, 2);
        let x = Tensor::f32(&dims, r.floats(&dims).as_f32().unwrap().iter().map(|v| v * 90.0).collect());
        let xs = x.as_f32().unwrap();
        let inner: usize = dims[axis + 1..].iter().product();
        let one = |i: usize| {
            let start = i / (inner * dims[axis]) * inner * dims[axis] + i % inner;
            let exp = |j: usize| f64::from(xs[j]).exp();
            let y = exp(i) / (0..dims[axis]).map(|k| exp(start + k * inner)).sum::<f64>();
            // The difference to the greatest element is rounded to f32 before the exponential.
            (y, 50.0 * y)
        };
        let got = eval_f32(Opcode::Softmax, Attrs::new(Opcode::Softmax).with(attr::AXIS, axis as i64), &[&x]);
        assert_near(&got, &(0..xs.len()).map(one).collect::<Vec<_>>(), &format!("seed {seed}"));
    }
}
