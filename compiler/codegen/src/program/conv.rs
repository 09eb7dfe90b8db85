//! Steps that multiply by constant weights: convolutions and matrix products, as calls of microkernels.
//!
//! ```text
//! operation --product--> what is computed --plan--> microkernels, blocks, schedule --pack--> constants --emit--> task
//! ```

mod border_rows;
mod depthwise;
mod emit;
mod pack;
mod plan;
mod product;

use cranelift_module::Linkage;
use qcc_ir::ops::IntOp;
use qcc_ir::{Diag, Diags, diag::Code};

use super::builder::{Builder, ExtremaParts, Operation, TaskCost};
use emit::Kernels;
use plan::ProductPlan;
use product::Product;

impl Builder<'_> {
    /// Emits a product with constant weights.
    pub(super) fn product(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let product = Product::new(self, o, op)?;
        let weight_bytes = product.weights.len() as u64;
        let cost = TaskCost { macs: product.macs(), weight_bytes, ..TaskCost::of(product.describe(op)) };
        if product.is_depthwise() {
            return self.depthwise(o, &product, cost);
        }
        let choice = self.options.tuning.get(o.value).copied().unwrap_or_default();
        let plan = ProductPlan::new(&product, self.shape(), choice, self.next_bytes).map_err(|why| {
            let message = format!("the tuning of `{}`: {why}", o.value);
            Diag::new(Code::FLAGS, message).help("tune this model anew: --tune")
        })?;
        if product.extrema.is_some() {
            let blocks = plan.sections.iter().flat_map(|section| section.channels.clone()).collect();
            let parts = plan.schedule.images * plan.schedule.chunks;
            self.part_extrema.insert(o.result.buffer, ExtremaParts { parts, blocks });
        }
        let mut sections = Vec::new();
        for (i, section) in plan.sections.iter().enumerate() {
            let (bytes, layout) = pack::pack(&product, &plan, section);
            let data = self.data(&format!("weights_{}_{i}", o.name), Linkage::Local, bytes)?;
            let functions = section.kernels.iter().map(|kernel| self.microkernel(kernel)).collect::<Result<_, _>>()?;
            sections.push(Kernels { functions, data, layout });
        }
        let cost = TaskCost { choices: plan.alternatives.clone(), ..cost };
        self.task_of(o, plan.schedule.units(), cost, |t| emit::emit(t, &product, &plan, &sections))
    }
}
