//! Convolutions by [`crate::kernel::winograd`]: which ones, how they are cut into units, their constants and their tasks.
//!
//! ```text
//! graph --problem--> what is computed --choose--> a form for each layer for which it pays --plan--> tiles, blocks, units --emit--> constants, task
//! ```
//! The choice follows from shapes, weights and target alone. What a result is does not depend on it.

mod choose;
mod emit;
mod plan;
mod problem;

use cranelift_module::{FuncId, Linkage};
use qcc_ir::Diags;

use super::fast_inner::Widened;
use super::product::Product;
use super::shapes::Shapes;
use crate::kernel::winograd::{self, Form, Kernel};
use crate::program::builder::{Builder, Operation, TaskCost, bug};
use crate::program::tuning::{Choice, Method};
pub use choose::choose;
pub use plan::WinogradPlan;
pub use problem::{Problem, is_measured};

impl Builder<'_> {
    /// Emits a convolution in a form that it was planned for.
    pub(super) fn winograd(
        &mut self,
        o: &Operation<'_>,
        product: &Product<'_>,
        form: Form,
        cost: TaskCost,
    ) -> Result<(), Diags> {
        let problem = Problem::of(self.graph, o.node).ok_or_else(|| bug(format!("{}: not a convolution", o.value)))?;
        let plan = WinogradPlan::new(&problem, form, Shapes::of(&self.options.target), product.weights);
        let (bytes, layout) = emit::pack(product, &plan);
        let weight_bytes = bytes.len() as u64;
        let data = self.data(&format!("weights_{}", o.name), Linkage::Local, bytes)?;
        let functions = emit::Functions {
            input: self.winograd_kernel(&emit::input(product, &plan))?,
            terms: emit::terms(&plan).map(|terms| self.winograd_kernel(&terms)).transpose()?,
            panels: plan
                .panels
                .iter()
                .map(|run| {
                    let product_of_positions = self.winograd_kernel(&emit::product(&plan, run))?;
                    Ok((product_of_positions, self.winograd_kernel(&emit::output(product, &plan, run))?))
                })
                .collect::<Result<_, Diags>>()?,
        };
        let scratch = self.plan.scratch.get(&o.node).copied();
        let scratch = scratch.ok_or_else(|| bug(format!("{}: no memory for tiles", o.value)))?;
        let way = if plan.fast_inner { ", fast inner products" } else { "" };
        let kernel = format!("{}, {form}{way}", cost.kernel);
        let choices = self.methods(o, product, Method::Winograd(form.tile()));
        let cost = TaskCost {
            kernel,
            weight_bytes,
            weight_bits: 16,
            products: Some(plan.products()),
            estimate: plan.estimate(self.weights_of_model) as u64,
            choices,
            ..cost
        };
        self.task_of(o, plan.units(), cost, |t| emit::emit(t, product, &plan, scratch, data, &layout, &functions))
    }

    /// The other ways of computing a product than the one that is `chosen`: all forms that are exact, fast inner products, the direct way.
    pub(super) fn methods(&self, o: &Operation<'_>, product: &Product<'_>, chosen: Method) -> Vec<Choice> {
        let now = self.options.tuning.get(o.value).copied().unwrap_or_default();
        let plans = |problem| {
            WinogradPlan::all(&problem, Shapes::of(&self.options.target), (product.weights, product.greatest))
        };
        let plans = Problem::of(self.graph, o.node).map(plans).unwrap_or_default();
        let forms = plans.into_iter().map(|plan| Method::Winograd(plan.form.tile()));
        let has_fast_inner = self.options.target.fast_inner_shape().is_some();
        let can_be_widened = product.terms.is_some() || Widened::of(product).is_some();
        let fast_inner = (has_fast_inner && can_be_widened).then_some(Method::FastInner);
        let all = [Method::Direct].into_iter().chain(fast_inner).chain(forms);
        all.filter(|&method| method != chosen).map(|method| Choice { method: Some(method), ..now }).collect()
    }

    fn winograd_kernel(&mut self, kernel: &Kernel) -> Result<FuncId, Diags> {
        if let Some(&id) = self.winograd_kernels.get(kernel) {
            return Ok(id);
        }
        kernel.validate().map_err(bug)?;
        let config = self.module.target_config();
        let name = format!("winograd_{:03}", self.winograd_kernels.len());
        let id = self.declare(&name, Linkage::Local, &winograd::signature(config))?;
        if let Some(code) = winograd::machine_code(kernel, self.options.target.backend()).map_err(bug)? {
            self.define_bytes(id, &name, &code)?;
        } else {
            let function = winograd::emit_clif(kernel, config, &mut self.context);
            self.define(id, &name, function)?;
        }
        self.winograd_kernels.insert(kernel.clone(), id);
        Ok(id)
    }
}
