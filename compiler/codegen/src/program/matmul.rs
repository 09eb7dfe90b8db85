//! Product of two computed matrices. See `int.qmatmul` and `int.matmul` in the operator table.
//!
//! [`packed`] does it at the speed of convolutions. What that refuses, a few rows or scattered columns, is done by [`loops`].

mod loops;
mod packed;
mod product;

use qcc_ir::Diags;
use qcc_ir::ops::IntOp;

use super::builder::{Builder, Operation, TaskCost};
use packed::Packed;
use product::MatMul;

impl Builder<'_> {
    pub(super) fn matmul(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let product = MatMul::new(op, o.attrs, o.operands, o.result);
        let cost = TaskCost { macs: product.macs(), ..TaskCost::of(product.describe()) };
        let scratch = self.plan.scratch.get(&o.node);
        match scratch.and_then(|&scratch| Packed::new(&product, self.shape(), scratch)) {
            Some(packed) => self.packed_matmul(o, &packed, cost),
            None => self.task_of(o, product.loop_units(), cost, |t| product.emit_loops(t)),
        }
    }
}
