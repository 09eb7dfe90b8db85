//! Random operands, and the evaluation of one operator with the result type that the shape rules give.

use std::cell::RefCell;

use qcc_interp::eval_node;
use qcc_ir::{Attrs, Data, Diag, Elem, Int, Opcode, Tensor, Type, infer_dims};

/// Random numbers that closures can share.
pub struct Random(RefCell<qcc_num::random::Random>);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(RefCell::new(qcc_num::random::Random::new(seed)))
    }

    pub fn next(&self) -> u64 {
        self.0.borrow_mut().bits()
    }

    /// An integer in `least..=greatest`.
    pub fn int(&self, least: i64, greatest: i64) -> i64 {
        self.0.borrow_mut().within(least, greatest)
    }

    pub fn size(&self, least: usize, greatest: usize) -> usize {
        self.int(least as i64, greatest as i64) as usize
    }

    /// A float in [-1, 1).
    pub fn float(&self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&self, dims: &[usize]) -> Tensor {
        Tensor::f32(dims, (0..dims.iter().product()).map(|_| self.float()).collect())
    }

    pub fn u8s(&self, dims: &[usize]) -> Tensor {
        Tensor::new(dims, Data::U8((0..dims.iter().product()).map(|_| self.next() as u8).collect()))
    }

    pub fn i8s(&self, dims: &[usize]) -> Tensor {
        Tensor::new(dims, Data::I8((0..dims.iter().product()).map(|_| self.next() as i8).collect()))
    }

    pub fn i32s(&self, dims: &[usize], least: i64, greatest: i64) -> Tensor {
        Tensor::new(dims, Data::I32((0..dims.iter().product()).map(|_| self.int(least, greatest) as i32).collect()))
    }
}

/// Evaluates with plain operand types; `elem` is the element type of the result.
pub fn try_eval(op: Opcode, attrs: Attrs, operands: &[&Tensor], elem: Elem) -> Result<Tensor, Diag> {
    let types: Vec<Type> = operands.iter().map(|t| t.plain_type()).collect();
    let dims = infer_dims(op, &attrs, &types.iter().collect::<Vec<_>>()).expect("operands fit the operator");
    let pairs: Vec<_> = operands.iter().copied().zip(&types).collect();
    eval_node(op, &attrs, &pairs, &Type { dims, elem })
}

pub fn eval_f32(op: Opcode, attrs: Attrs, operands: &[&Tensor]) -> Vec<f32> {
    try_eval(op, attrs, operands, Elem::F32).expect("floats").as_f32().expect("floats").to_vec()
}

pub fn eval_u8(op: Opcode, attrs: Attrs, operands: &[&Tensor]) -> Vec<u8> {
    try_eval(op, attrs, operands, Elem::Int(Int::U8)).expect("bytes").as_u8().expect("bytes").to_vec()
}

pub fn eval_i64(op: Opcode, attrs: Attrs, operands: &[&Tensor]) -> Result<Vec<i64>, Diag> {
    Ok(try_eval(op, attrs, operands, Elem::Int(Int::I64))?.as_i64().expect("64-bit integers").to_vec())
}

pub fn i64s(dims: &[usize], data: &[i64]) -> Tensor {
    Tensor::new(dims, Data::I64(data.to_vec()))
}

/// Asserts that floats agree with a reference up to `bound` of each element's magnitude scale.
pub fn assert_near(got: &[f32], want: &[(f64, f64)], context: &str) {
    assert_eq!(got.len(), want.len(), "{context}");
    for (i, (&g, &(w, scale))) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= 2e-6 * scale.max(1e-3), "{context}, element {i}: {g} for {w}");
    }
}
