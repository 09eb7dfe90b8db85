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

use super::builder::{Builder, ExtremaParts, Operation, TaskCost, bug};
use crate::target::Backend;
use emit::Kernels;
use plan::{ProductPlan, Shapes};
use product::Product;

/// How products are summed, where it is not 32 bits throughout.
fn i16_sums_text(steps: &[usize]) -> String {
    if steps.iter().all(|&steps| steps == 0) {
        return String::new();
    }
    let steps: Vec<String> = steps.iter().map(usize::to_string).collect();
    format!(", sums of {} steps in 16 bits", steps.join("/"))
}

impl Builder<'_> {
    fn shapes(&self) -> Shapes {
        let i16_sums = self.options.target.i16_sums_backend().map(Backend::shape);
        Shapes { dots: self.shape(), i16_sums }
    }

    /// Emits a product with constant weights.
    pub(super) fn product(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let product = Product::new(self, o, op)?;
        let weight_bytes = product.weights.len() as u64;
        let cost = TaskCost { macs: product.macs(), weight_bytes, ..TaskCost::of(product.describe(op)) };
        if product.is_depthwise() {
            return self.depthwise(o, &product, cost);
        }
        let choice = self.options.tuning.get(o.value).copied().unwrap_or_default();
        let plan = ProductPlan::new(&product, self.shapes(), choice, self.next_bytes).map_err(|why| {
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
            let (bytes, layout) = pack::pack(&product, &plan, section)
                .ok_or_else(|| bug(format!("{}: sums of 16 bits that its weights leave", o.value)))?;
            let data = self.data(&format!("weights_{}_{i}", o.name), Linkage::Local, bytes)?;
            let functions = section.kernels.iter().map(|kernel| self.microkernel(kernel)).collect::<Result<_, _>>()?;
            sections.push(Kernels { functions, data, layout });
        }
        let kernel = cost.kernel + &i16_sums_text(&plan.i16_steps());
        let cost = TaskCost { kernel, choices: plan.alternatives.clone(), ..cost };
        self.task_of(o, plan.schedule.units(), cost, |t| emit::emit(t, &product, &plan, &sections))
    }
}
