//! Casts, and real operators on quantized types.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::{Attrs, Data, Elem, Format, Int, Opcode, Tensor, Type, Uniform, attr, format};

use crate::support::Random;

fn typed(dims: &[usize], u: &Uniform) -> Type {
    Type { dims: dims.to_vec(), elem: Elem::Uniform(Arc::new(u.clone())) }
}

fn run(op: Opcode, operands: &[(&Tensor, &Type)], result: &Type) -> Tensor {
    eval_node(op, &Attrs::new(op), operands, result).unwrap()
}

#[test]
fn casts_round_to_even_and_saturate() {
    let u = Uniform::per_tensor(Int::U8, 0.5, 10);
    let x = Tensor::f32(&[6], vec![0.0, 0.25, 0.75, -0.25, 1e9, f32::NAN]);
    let q = run(Opcode::QCast, &[(&x, &Type::f32(&[6]))], &typed(&[6], &u));
    assert_eq!(q.as_u8().unwrap(), [10, 10, 12, 10, 255, 10]);
    let back = run(Opcode::DCast, &[(&q, &typed(&[6], &u))], &Type::f32(&[6]));
    assert_eq!(back.as_f32().unwrap(), [0.0, 0.0, 1.0, 0.0, 122.5, 0.0]);
    let coarse = Uniform::per_tensor(Int::I8, 1.0, -3);
    let s = run(Opcode::SCast, &[(&q, &typed(&[6], &u))], &typed(&[6], &coarse));
    assert_eq!(s.as_i8().unwrap(), [-3, -3, -2, -3, 119, -3]);
}

#[test]
fn an_axis_has_scales_and_zero_points_of_its_own() {
    let u = Uniform {
        format: Format::symmetric(Int::I4, 7),
        axis: Some(1),
        scales: vec![1.0, 0.5, 0.25],
        zero_points: vec![0, 1, -1],
    };
    let dims = [2, 3, 2];
    let x = Tensor::f32(&dims, vec![1.0, -2.0, 1.0, -2.0, 1.0, -1.0, 99.0, -99.0, 0.0, 0.0, 0.0, 0.0]);
    let q = run(Opcode::QCast, &[(&x, &Type::f32(&dims))], &typed(&dims, &u));
    assert_eq!(q.as_i8().unwrap(), [1, -2, 3, -3, 3, -5, 7, -7, 1, 1, -1, -1]);
    let back = run(Opcode::DCast, &[(&q, &typed(&dims, &u))], &Type::f32(&dims));
    assert_eq!(back.as_f32().unwrap(), [1.0, -2.0, 1.0, -2.0, 1.0, -1.0, 7.0, -7.0, 0.0, 0.0, 0.0, 0.0]);
}

/// Operator on integers = quantize(operator(dequantize)), with quantized weights, bias and result.
#[test]
fn real_operators_see_the_numbers_that_integers_stand_for() {
    let r = Random::new(3);
    let x_type = typed(&[1, 4, 5, 5], &Uniform::per_tensor(Int::U8, 0.02, 117));
    let w_scales: Vec<f32> = (1..=6).map(|i| 0.003 * i as f32).collect();
    let w_type = typed(&[6, 4, 3, 3], &Uniform::per_axis(&format::I8, 0, w_scales.clone()));
    let b_type = typed(&[6], &Uniform::per_axis(&format::I32, 0, w_scales.iter().map(|s| s * 0.02).collect()));
    let (x, w, b) = (r.u8s(&x_type.dims), r.i8s(&w_type.dims), r.i32s(&[6], -20_000, 20_000));
    let y_type = typed(&[1, 6, 3, 3], &Uniform::per_tensor(Int::U8, 0.05, 120));
    let y = run(Opcode::Conv2d, &[(&x, &x_type), (&w, &w_type), (&b, &b_type)], &y_type);

    let real = |t: &Tensor, ty: &Type| run(Opcode::DCast, &[(t, ty)], &Type::f32(&ty.dims));
    let (xr, wr, br) = (real(&x, &x_type), real(&w, &w_type), real(&b, &b_type));
    let types = [Type::f32(&x_type.dims), Type::f32(&w_type.dims), Type::f32(&[6])];
    let float_type = Type::f32(&y_type.dims);
    let yr = run(Opcode::Conv2d, &[(&xr, &types[0]), (&wr, &types[1]), (&br, &types[2])], &float_type);
    assert_eq!(y, run(Opcode::QCast, &[(&yr, &float_type)], &y_type));
    // A float result of quantized operands is not rounded.
    assert_eq!(run(Opcode::Conv2d, &[(&x, &x_type), (&w, &w_type), (&b, &b_type)], &float_type), yr);
}

#[test]
fn moved_integers_do_not_change() {
    let u = Uniform::per_tensor(Int::U8, 0.02, 7);
    let x = Tensor::new(&[1, 3], Data::U8(vec![1, 2, 3]));
    let attrs = Attrs::new(Opcode::Pad).with(attr::PADS, vec![0, 1, 0, 0]).with(attr::VALUE, 7.0);
    let y = eval_node(Opcode::Pad, &attrs, &[(&x, &typed(&[1, 3], &u))], &typed(&[1, 4], &u)).unwrap();
    assert_eq!(y.as_u8().unwrap(), [7, 1, 2, 3]);
}

#[test]
fn what_does_not_fit_is_a_diagnostic() {
    let x = Tensor::f32(&[2], vec![1.0, 2.0]);
    let ty = Type::f32(&[2]);
    let relu = Attrs::new(Opcode::Relu);
    let fails = |operands: &[(&Tensor, &Type)], result: &Type| {
        assert!(eval_node(Opcode::Relu, &relu, operands, result).is_err());
    };
    fails(&[], &ty);
    fails(&[(&x, &Type::f32(&[3]))], &Type::f32(&[3]));
    fails(&[(&x, &Type::int(Int::U8, &[2]))], &ty);
    fails(&[(&x, &ty)], &Type::f32(&[1]));
    fails(&[(&x, &ty)], &Type::int(Int::U8, &[2]));
}
