//! Data movement and the arithmetic of shapes.

use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Data, Elem, Int, Opcode, Tensor, attr};

use crate::support::{Random, eval_i64, i64s, try_eval};

fn bytes(dims: &[usize]) -> Tensor {
    Tensor::new(dims, Data::U8((0..dims.iter().product::<usize>()).map(|i| i as u8).collect()))
}

fn moved(op: Opcode, attrs: Attrs, operands: &[&Tensor]) -> Vec<u8> {
    try_eval(op, attrs, operands, Elem::Int(Int::U8)).unwrap().as_u8().unwrap().to_vec()
}

#[test]
fn shapes_change_and_elements_stay() {
    let x = bytes(&[2, 3]);
    let t =
        try_eval(Opcode::Reshape, Attrs::new(Opcode::Reshape).with(attr::SHAPE, vec![3, 2]), &[&x], Elem::Int(Int::U8));
    assert_eq!(t.unwrap(), Tensor::new(&[3, 2], x.data.clone()));
    let transpose = Attrs::new(Opcode::Transpose).with(attr::PERM, vec![1, 0]);
    assert_eq!(moved(Opcode::Transpose, transpose, &[&x]), [0, 3, 1, 4, 2, 5]);
    let expand = Attrs::new(Opcode::Expand).with(attr::SHAPE, vec![2, 2, 2]);
    assert_eq!(moved(Opcode::Expand, expand, &[&bytes(&[2, 1])]), [0, 0, 1, 1, 0, 0, 1, 1]);
}

#[test]
fn transposition_equals_its_definition() {
    for seed in 0..40 {
        let r = Random::new(seed);
        let dims = [r.size(1, 4), r.size(1, 4), r.size(1, 4), r.size(1, 4)];
        let mut perm = vec![0i64, 1, 2, 3];
        (1..4).for_each(|i| perm.swap(i, r.size(0, i)));
        let x = r.u8s(&dims);
        let got = moved(Opcode::Transpose, Attrs::new(Opcode::Transpose).with(attr::PERM, perm.clone()), &[&x]);
        let out: Vec<usize> = perm.iter().map(|&p| dims[p as usize]).collect();
        for (i, &g) in got.iter().enumerate() {
            let mut rest = i;
            let mut index = [0; 4];
            for d in (0..4).rev() {
                index[perm[d] as usize] = rest % out[d];
                rest /= out[d];
            }
            let flat = index.iter().zip(dims).fold(0, |f, (i, d)| f * d + i);
            assert_eq!(g, x.as_u8().unwrap()[flat], "seed {seed}");
        }
    }
}

#[test]
fn parts_are_joined_cut_and_picked() {
    let (a, b) = (bytes(&[2, 1]), bytes(&[2, 2]));
    let concat = |axis: i64| Attrs::new(Opcode::Concat).with(attr::AXIS, axis);
    assert_eq!(moved(Opcode::Concat, concat(1), &[&a, &b]), [0, 0, 1, 1, 2, 3]);
    assert_eq!(moved(Opcode::Concat, concat(0), &[&b, &b]), [0, 1, 2, 3, 0, 1, 2, 3]);
    let slice = Attrs::new(Opcode::Slice)
        .with(attr::STARTS, vec![1, 0])
        .with(attr::ENDS, vec![3, 5])
        .with(attr::STEPS, vec![1, 2]);
    assert_eq!(moved(Opcode::Slice, slice, &[&bytes(&[3, 5])]), [5, 7, 9, 10, 12, 14]);
    let gather = |axis: i64| Attrs::new(Opcode::Gather).with(attr::AXIS, axis);
    assert_eq!(moved(Opcode::Gather, gather(1), &[&bytes(&[2, 3]), &i64s(&[2], &[-1, 0])]), [2, 0, 5, 3]);
    assert_eq!(moved(Opcode::Gather, gather(0), &[&bytes(&[2, 3]), &i64s(&[], &[1])]), [3, 4, 5]);
    let far = i64s(&[4], &[2, -3, i64::MAX, i64::MIN]);
    assert_eq!(moved(Opcode::Gather, gather(0), &[&bytes(&[2]), &far]), [1, 1, 1, 1], "outside, the last");
    let plain = gather(0).with(attr::WRAP, false);
    assert_eq!(moved(Opcode::Gather, plain, &[&bytes(&[3]), &i64s(&[3], &[-1, 0, -3])]), [2, 0, 2]);
    let empty = try_eval(Opcode::Gather, gather(0), &[&bytes(&[0]), &i64s(&[1], &[0])], Elem::Int(Int::U8));
    assert_eq!(empty.unwrap_err().code, Code::DATA);
}

#[test]
fn padding_holds_the_given_integer() {
    let pad = Attrs::new(Opcode::Pad).with(attr::PADS, vec![1, 0, 0, 2]).with(attr::VALUE, 114.0);
    assert_eq!(moved(Opcode::Pad, pad, &[&bytes(&[1, 2])]), [114, 114, 114, 114, 0, 1, 114, 114]);
}

#[test]
fn casts_convert_numbers() {
    let x = Tensor::f32(&[3], vec![-1.5, 2.0, 1e30]);
    let to = |t: i64| Attrs::new(Opcode::CastTo).with(attr::TO, t);
    assert_eq!(eval_i64(Opcode::CastTo, to(1), &[&x]).unwrap(), [-1, 2, i64::MAX]);
    let back = try_eval(Opcode::CastTo, to(0), &[&i64s(&[2], &[3, -4])], Elem::F32).unwrap();
    assert_eq!(back.as_f32().unwrap(), [3.0, -4.0]);
}

#[test]
fn integers_stay_integers() {
    let (a, b) = (i64s(&[3], &[7, -7, 1 << 40]), i64s(&[], &[2]));
    let run = |op| eval_i64(op, Attrs::new(op), &[&a, &b]).unwrap();
    assert_eq!(run(Opcode::Add), [9, -5, (1 << 40) + 2]);
    assert_eq!(run(Opcode::Sub), [5, -9, (1 << 40) - 2]);
    assert_eq!(run(Opcode::Mul), [14, -14, 1 << 41]);
    assert_eq!(run(Opcode::Div), [3, -3, 1 << 39]);
    assert_eq!(run(Opcode::Min), [2, -7, 2]);
    assert_eq!(run(Opcode::Max), [7, 2, 1 << 40]);
    assert_eq!(eval_i64(Opcode::Pow, Attrs::new(Opcode::Pow), &[&i64s(&[], &[-3]), &b]).unwrap(), [9]);
    let reduce =
        |op| eval_i64(op, Attrs::new(op).with(attr::AXES, vec![0]), &[&i64s(&[2, 2], &[1, -5, 4, -2])]).unwrap();
    assert_eq!(reduce(Opcode::ReduceSum), [5, -7]);
    assert_eq!(reduce(Opcode::ReduceMean), [2, -3]);
    assert_eq!(reduce(Opcode::ReduceMax), [4, -2]);
    assert_eq!(eval_i64(Opcode::Neg, Attrs::new(Opcode::Neg), &[&i64s(&[2], &[3, -4])]).unwrap(), [-3, 4]);
}

#[test]
fn integers_without_an_exact_result_are_refused() {
    let zero = i64s(&[], &[0]);
    let code = |op, a: i64, b: &Tensor| eval_i64(op, Attrs::new(op), &[&i64s(&[], &[a]), b]).unwrap_err().code;
    assert_eq!(code(Opcode::Div, 1, &zero), Code::UNSUPPORTED);
    assert_eq!(code(Opcode::Add, i64::MAX, &i64s(&[], &[1])), Code::UNSUPPORTED);
    assert_eq!(code(Opcode::Pow, 2, &i64s(&[], &[-1])), Code::UNSUPPORTED);
    for x in [2, i64::MIN, (1 << 24) + 1] {
        let fault = eval_i64(Opcode::Sqrt, Attrs::new(Opcode::Sqrt), &[&i64s(&[], &[x])]).unwrap_err();
        assert_eq!(fault.code, Code::UNSUPPORTED, "{x}");
    }
}
