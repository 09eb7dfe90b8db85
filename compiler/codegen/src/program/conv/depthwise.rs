//! Depthwise convolution: a window over channels that stay apart.

use cranelift_module::Linkage;
use qcc_ir::Diags;

use super::product::Product;
use crate::program::builder::{Builder, Operation, TaskCost};
use crate::program::vector_window::Factors;
use crate::program::window::{self, Reduction};

impl Builder<'_> {
    /// Emits a depthwise convolution: by a vector kernel, or as loops where there is none.
    pub(super) fn depthwise(&mut self, o: &Operation<'_>, p: &Product<'_>, mut cost: TaskCost) -> Result<(), Diags> {
        if let Some((mult, epilogue)) = &p.requant {
            let factors = Factors {
                weights: Some(p.weights),
                bias: p.bias.to_vec(),
                mult,
                epilogue: *epilogue,
                residual: p.residual.clone(),
                acc_bound: p.acc_bound,
            };
            match self.vector_window(o, (&p.x, &p.result), &p.window, Some(&factors), cost)? {
                Some(left) => cost = left,
                None => return Ok(()),
            }
        }
        let (mult, epilogue) = p.requant.as_ref().map_or((&[][..], None), |(mult, e)| (mult.as_slice(), Some(*e)));
        let packed = window::pack_depthwise(p.weights, p.bias, mult);
        let data = self.data(&format!("weights_{}", o.name), Linkage::Local, packed)?;
        let reduction = Reduction::Depthwise { data, epilogue, residual: p.residual.clone() };
        let units = p.result.dims[0] * p.result.dims[1];
        self.task_of(o, units, cost, |t| window::emit(t, &p.x, &p.result, &p.window, &reduction))
    }
}
