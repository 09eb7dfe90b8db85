//! Steps that multiply by constant weights: convolutions and matrix products, as calls of microkernels.
//!
//! ```text
//! operation --product--> what is computed --plan--> microkernels, blocks, schedule --pack--> constants --emit--> task
//!     `-----storage----> codes or bytes ----^
//! ```

mod border_rows;
mod depthwise;
mod emit;
pub(super) mod fast_inner;
mod pack;
mod plan;
mod product;
mod shapes;
pub(super) mod storage;
mod units;
pub(super) mod winograd;

use cranelift_module::{FuncId, Linkage};
use qcc_ir::ops::IntOp;
use qcc_ir::{Diag, Diags, diag::Code};

use super::builder::{Builder, ExtremaParts, Operation, TaskCost, bug};
use crate::kernel::decode::{self, DecodeSpec};
use crate::kernel::winograd::Form;
use crate::plan::Decoding;
use crate::program::tuning::Method;
use emit::{Decode, Kernels};
use fast_inner::Widened;
use plan::{BlockDecoding, Decoded, ProductPlan};
use product::Product;
use shapes::Shapes;

/// How products are summed, where it is not 32 bits throughout.
fn i16_sums_text(steps: &[usize]) -> String {
    if steps.iter().all(|&steps| steps == 0) {
        return String::new();
    }
    let steps: Vec<String> = steps.iter().map(usize::to_string).collect();
    format!(", sums of {} steps in 16 bits", steps.join("/"))
}

impl Builder<'_> {
    /// Emits a product with constant weights.
    pub(super) fn product(&mut self, o: &Operation<'_>, op: IntOp) -> Result<(), Diags> {
        let product = Product::new(self, o, op)?;
        let multipliers = product.requant.as_ref().map_or(0, |(multipliers, _)| multipliers.len());
        let weight_bytes = (product.weights.len() + 4 * (product.bias.len() + multipliers)) as u64;
        let weights = self.graph.operands(o.node).get(1).map(|&w| self.graph.name_of(w).to_string());
        let cost = TaskCost { macs: product.macs(), weight_bytes, weights, ..TaskCost::of(product.describe(op)) };
        if product.is_depthwise() {
            return self.depthwise(o, &product, cost);
        }
        let decoding = self.plan.storages.get(&o.node).copied();
        if let Some(Decoding::Transformed { tile, .. }) = decoding {
            let form = Form::of_tiles(product.window.kernel, tile);
            let form = form.ok_or_else(|| bug(format!("{}: tiles of {tile:?}", o.value)))?;
            return self.winograd(o, &product, form, cost);
        }
        let buffer = self.plan.scratch.get(&o.node).copied();
        if let (Some(Decoding::Widened { bytes }), Some(buffer)) = (decoding, buffer) {
            // It was chosen by a sketch of the product.
            let widened = Widened::of(&product).filter(|widened| widened.bytes() <= bytes);
            let widened = widened.ok_or_else(|| bug(format!("{}: activations that cannot be widened", o.value)))?;
            self.widen(o, &product, &widened, buffer)?;
            let kernel = format!("{}, fast inner products", cost.kernel);
            return self.planned_product(o, &widened.product(&product, buffer), TaskCost { kernel, ..cost });
        }
        self.planned_product(o, &product, cost)
    }

    /// The same once its activations are as its microkernels read them.
    fn planned_product(&mut self, o: &Operation<'_>, product: &Product<'_>, cost: TaskCost) -> Result<(), Diags> {
        let mut choice = self.options.tuning.get(o.value).copied().unwrap_or_default();
        let decoding = self.plan.storages.get(&o.node).copied();
        let tuned = |why: String| {
            let message = format!("the tuning of `{}`: {why}", o.value);
            Diag::new(Code::FLAGS, message).help("tune this model anew: --tune")
        };
        if let Some(Method::Winograd([rows, columns])) = choice.method {
            return Err(tuned(format!("tiles of {rows} x {columns} are not exact here, or do not fit")).into());
        }
        match (choice.method, &product.terms) {
            (Some(Method::FastInner), None) => {
                return Err(tuned("fast inner products are not possible here".to_string()).into());
            }
            (_, Some(_)) => choice.method = Some(Method::FastInner),
            (_, None) => {}
        }
        let shapes = Shapes::of(&self.options.target);
        let plan = ProductPlan::new(product, shapes, choice, self.next_bytes, decoding).map_err(tuned)?;
        if product.extrema.is_some() {
            let blocks = plan.sections.iter().flat_map(|section| section.channels.clone()).collect();
            let parts = plan.schedule.images * plan.schedule.chunks;
            self.part_extrema.insert(o.result.buffer, ExtremaParts { parts, blocks });
        }
        let (mut sections, mut decoded_bytes, mut weight_bytes) = (Vec::new(), 0, 0);
        for (i, section) in plan.sections.iter().enumerate() {
            let (bytes, layout) = pack::pack(product, &plan, section)
                .ok_or_else(|| bug(format!("{}: sums of 16 bits that its weights leave", o.value)))?;
            weight_bytes += bytes.len() as u64;
            let data = self.data(&format!("weights_{}_{i}", o.name), Linkage::Local, bytes)?;
            let functions = section.kernels.iter().map(|kernel| self.microkernel(kernel)).collect::<Result<_, _>>()?;
            let decode = match plan.decoded {
                Decoded::Never | Decoded::Inside => None,
                Decoded::Ahead | Decoded::ByUnit(_) => {
                    section.decoding(self.shape()).map(|decoding| self.decode(decoding)).transpose()?
                }
            };
            let decode = decode.map(|decode| Decode { first: decoded_bytes, ..decode });
            decoded_bytes += decode.map_or(0, |decode| section.blocks() * decode.bytes);
            sections.push(Kernels { functions, data, layout, decode });
        }
        let memory = self.plan.scratch.get(&o.node).copied();
        if plan.decoded == Decoded::Ahead {
            let name = format!("{}_decode", o.name);
            let cost = TaskCost { input_bytes: weight_bytes, ..TaskCost::of("decode weights") };
            self.task(&name, o.value, plan.schedule.blocks, decoded_bytes, cost, |t| {
                emit::decode_all(t, memory, &plan, &sections);
            })?;
        }
        let weight_bits = plan.weight_bits();
        let i16_steps = plan.i16_steps();
        let kernel = cost.kernel + &i16_sums_text(&i16_steps);
        let i16_steps = i16_steps.first().map_or(0, |&steps| steps as u32);
        let method = if product.terms.is_some() { Method::FastInner } else { Method::Direct };
        let choices = plan.alternatives.iter().copied().chain(self.methods(o, product, method)).collect();
        let products = Some(plan.products());
        let estimate = plan.estimate(product.weights.len() * weight_bits / 8, self.weights_of_model) as u64;
        let cost = TaskCost { kernel, products, i16_steps, estimate, choices, weight_bytes, weight_bits, ..cost };
        self.task_of(o, plan.schedule.units(), cost, |t| emit::emit(t, product, memory, &plan, &sections))
    }

    /// The function that decodes weights so.
    fn decode(&mut self, decoding: BlockDecoding) -> Result<Decode, Diags> {
        let BlockDecoding { as_factors, pairs, bytes, .. } = decoding;
        let function = self.decode_kernel(DecodeSpec { bytes: !as_factors })?;
        Ok(Decode { function, rounds: pairs / decode::PAIRS, bytes, first: 0 })
    }

    fn decode_kernel(&mut self, spec: DecodeSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.decode_kernels.get(&spec) {
            return Ok(id);
        }
        let config = self.module.target_config();
        let name = format!("decode_{:03}", self.decode_kernels.len());
        let id = self.declare(&name, Linkage::Local, &decode::signature(config))?;
        if let Some(code) = decode::machine_code(&spec, self.options.target.backend()).map_err(bug)? {
            self.define_bytes(id, &name, &code)?;
        } else {
            let function = decode::emit_clif(&spec, config, &mut self.context);
            self.define(id, &name, function)?;
        }
        self.decode_kernels.insert(spec, id);
        Ok(id)
    }
}
