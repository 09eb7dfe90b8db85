//! The constants and the code of a convolution in a form.

use cranelift_codegen::ir::{InstBuilder, Value, condcodes::IntCC};
use cranelift_module::{DataId, FuncId};

use super::plan::{PanelRun, WinogradPlan};
use crate::kernel::winograd::{InputSpec, Kernel, OutputSpec, ProductSpec, TermsSpec};
use crate::machine::tiles::LANE;
use crate::plan::{ALIGN, BufferId, BufferView};
use crate::program::conv::border_rows::RowRange;
use crate::program::conv::product::Product;
use crate::program::task::Task;

/// The kernels of a convolution.
pub struct Functions {
    /// Transforms a tile.
    pub input: FuncId,
    /// Sums up the terms of a block of tiles, if products are fast inner products.
    pub terms: Option<FuncId>,
    /// For each run of panels: multiplies a block of tiles, transforms a tile back.
    pub panels: Vec<(FuncId, FuncId)>,
}

/// Where the constants of a run of panels lie in the data object, and how far those of one panel reach.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part {
    start: usize,
    step: usize,
}

/// Where constants lie: for each run of panels weights, biases and multipliers.
pub type Layout = Vec<[Part; 3]>;

/// Packs the constants.
pub fn pack(p: &Product<'_>, plan: &WinogradPlan) -> (Vec<u8>, Layout) {
    let le = |v: Vec<i32>| v.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>();
    let biases = p.biases(&RowRange::whole(plan.problem.result[0]));
    let (mut bytes, mut layout, mut first) = (Vec::new(), Layout::new(), 0);
    for run in &plan.panels {
        let panel = run.panel;
        let mut parts = [Part::default(); 3];
        for (kind, part) in parts.iter_mut().enumerate() {
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let start = bytes.len();
            for index in 0..run.count {
                let begin = first + index * panel.channels;
                let channels = begin..begin + panel.channels;
                match kind {
                    0 => bytes.extend(panel.pack_weights(
                        plan.form,
                        plan.shape,
                        p.weights_of(&channels),
                        plan.problem.inputs,
                        plan.pairs,
                    )),
                    1 => bytes.extend(le(panel.pack_channels(plan.shape, &biases[channels]))),
                    _ => {
                        let multipliers = p.requant.as_ref().map(|(m, _)| &m[channels]);
                        let packed = multipliers.map(|m| panel.pack_multipliers(plan.shape, m));
                        bytes.extend(le(packed.unwrap_or_default()));
                    }
                }
            }
            *part = Part { start, step: (bytes.len() - start) / run.count };
        }
        layout.push(parts);
        first += run.count * panel.channels;
    }
    (bytes, layout)
}

/// The kernel that transforms tiles.
pub fn input(p: &Product<'_>, plan: &WinogradPlan) -> Kernel {
    Kernel::Input(InputSpec {
        form: plan.form,
        vectors: plan.pairs / plan.shape.lanes,
        row_step: p.x.strides[1],
        pixel_step: p.x.strides[2],
        position_step: plan.activations_step(),
    })
}

/// The kernel that sums up terms, if products are fast inner products.
pub fn terms(plan: &WinogradPlan) -> Option<Kernel> {
    plan.fast_inner.then(|| {
        Kernel::Terms(TermsSpec {
            positions: plan.form.points(),
            tiles: plan.block,
            vectors: plan.pairs / plan.shape.lanes,
            from_step: plan.activations_step(),
        })
    })
}

/// The kernel that multiplies with the panels of a run.
pub fn product(plan: &WinogradPlan, run: &PanelRun) -> Kernel {
    Kernel::Product(ProductSpec {
        positions: plan.form.points(),
        tiles: plan.block,
        pairs: plan.pairs,
        vectors: run.panel.vectors,
        from_step: plan.activations_step(),
        to_step: plan.products_step(&run.panel),
        fast_inner: plan.fast_inner,
    })
}

/// The kernel that transforms the products of the panels of a run back.
pub fn output(p: &Product<'_>, plan: &WinogradPlan, run: &PanelRun) -> Kernel {
    Kernel::Output(OutputSpec {
        form: plan.form,
        vectors: run.panel.vectors,
        channels: run.panel.channels,
        position_step: plan.products_step(&run.panel),
        pixel_step: p.result.strides[2],
        row_step: p.result.strides[1],
        output: p.output(),
    })
}

/// Emits the task.
pub fn emit(
    t: &mut Task<'_>,
    p: &Product<'_>,
    plan: &WinogradPlan,
    scratch: BufferId,
    data: DataId,
    layout: &Layout,
    functions: &Functions,
) {
    let [_, row, pixel, _] = p.x.strides[..] else { unreachable!("activations are NHWC") };
    let corner = p.x.offset - p.window.pads[0] * row - p.window.pads[1] * pixel;
    let slots = BufferView { buffer: scratch, offset: 0, dims: Vec::new(), strides: Vec::new(), element: 1 };
    let slots = t.address(&slots);
    let (first_unit, _) = t.share();
    let slot = t.at(slots, first_unit, plan.slot_bytes());
    let calls = Calls {
        p,
        plan,
        layout,
        functions,
        input: t.address(&BufferView { offset: corner, ..p.x.clone() }),
        output: t.address(&p.result),
        residual: p.residual.as_ref().map(|(view, _)| (t.address(view), view)),
        constants: t.data(data),
        activations: slot,
        products: t.plus(slot, plan.products_start()),
        terms: t.plus(slot, plan.terms_start()),
        work: t.plus(slot, plan.work_start()),
    };
    let (all_blocks, all_panels) = (plan.problem.images * plan.blocks, plan.all_panels());
    t.units(&mut |t, unit| {
        if plan.block_units() == 1 {
            let first = t.b.ins().imul_imm_s(unit, plan.unit_blocks as i64);
            let end = t.b.ins().iadd_imm_s(first, plan.unit_blocks as i64);
            let all = t.iconst_ptr(all_blocks);
            let end = t.b.ins().umin(end, all);
            return t.range(first, end, &mut |t, block| {
                let block = calls.block(t, block);
                calls.transform(t, &block);
                let (first, end) = (t.iconst_ptr(0), t.iconst_ptr(all_panels));
                calls.panels(t, &block, first, end);
            });
        }
        let (block, share) = t.divide(unit, plan.block_units());
        let block = calls.block(t, block);
        let begins_block = t.b.ins().icmp_imm_s(IntCC::Equal, share, 0);
        let begins_call = t.b.ins().icmp(IntCC::Equal, unit, first_unit);
        let is_new = t.b.ins().bor(begins_block, begins_call);
        t.when(is_new, &mut |t| calls.transform(t, &block));
        let first = t.b.ins().imul_imm_s(share, plan.unit_panels as i64);
        let end = t.b.ins().iadd_imm_s(first, plan.unit_panels as i64);
        let all = t.iconst_ptr(all_panels);
        let end = t.b.ins().umin(end, all);
        calls.panels(t, &block, first, end);
    });
}

/// What is common to all calls of a task.
struct Calls<'p> {
    p: &'p Product<'p>,
    plan: &'p WinogradPlan,
    layout: &'p Layout,
    functions: &'p Functions,
    /// The corner of the halo.
    input: Value,
    output: Value,
    residual: Option<(Value, &'p BufferView)>,
    constants: Value,
    /// Parts of the call's slot.
    activations: Value,
    products: Value,
    terms: Value,
    work: Value,
}

/// A block of tiles.
struct Block {
    image: Value,
    /// The first tile in the image.
    first: Value,
}

impl Calls<'_> {
    fn block(&self, t: &mut Task<'_>, number: Value) -> Block {
        let (image, in_image) = t.divide(number, self.plan.blocks);
        let first = t.b.ins().imul_imm_s(in_image, self.plan.block as i64);
        let last = t.iconst_ptr(self.plan.image_tiles() - self.plan.block);
        Block { image, first: t.b.ins().umin(first, last) }
    }

    /// Row and column of a tile's first result.
    fn corner(&self, t: &mut Task<'_>, block: &Block, index: Value) -> [Value; 2] {
        let tile = t.b.ins().iadd(block.first, index);
        let (row, column) = t.divide(tile, self.plan.tiles[1]);
        let (size, result) = (self.plan.form.tile(), self.plan.problem.result);
        [(row, 0), (column, 1)].map(|(index, axis)| {
            let first = t.b.ins().imul_imm_s(index, size[axis] as i64);
            let last = t.iconst_ptr(result[axis] - size[axis]);
            t.b.ins().umin(first, last)
        })
    }

    /// Address in a view, from the address of its first pixel.
    fn pixel(t: &mut Task<'_>, base: Value, view: &BufferView, block: &Block, [row, column]: [Value; 2]) -> Value {
        let at = t.at(base, block.image, if view.dims[0] == 1 { 0 } else { view.strides[0] });
        let at = t.at(at, row, view.strides[1]);
        t.at(at, column, view.strides[2])
    }

    /// Transforms the tiles of a block.
    fn transform(&self, t: &mut Task<'_>, block: &Block) {
        t.count(self.plan.block, &mut |t, index| {
            let corner = self.corner(t, block, index);
            let from = Self::pixel(t, self.input, &self.p.x, block, corner);
            let to = t.at(self.activations, index, self.plan.tile_bytes());
            t.call(self.functions.input, &[from, to, self.work, to, to, to]);
        });
        if let Some(function) = self.functions.terms {
            let (from, terms) = (self.activations, self.terms);
            t.call(function, &[from, terms, from, from, from, from]);
        }
    }

    /// Multiplies a block with the panels `first..end` and transforms the products back.
    fn panels(&self, t: &mut Task<'_>, block: &Block, first: Value, end: Value) {
        let (mut before, mut channels) = (0, 0);
        for ((run, parts), functions) in self.plan.panels.iter().zip(self.layout).zip(&self.functions.panels) {
            let (low, high) = (t.iconst_ptr(before), t.iconst_ptr(before + run.count));
            let (from, to) = (t.b.ins().umax(first, low), t.b.ins().umin(end, high));
            t.range(from, to, &mut |t, panel| {
                let index = t.b.ins().iadd_imm_s(panel, -(before as i64));
                self.panel(t, block, (run, parts), *functions, (index, channels));
            });
            before += run.count;
            channels += run.count * run.panel.channels;
        }
    }

    /// The same of panel `index` of a run, whose first panel begins at a channel.
    fn panel(
        &self,
        t: &mut Task<'_>,
        block: &Block,
        (run, parts): (&PanelRun, &[Part; 3]),
        (multiply, finish): (FuncId, FuncId),
        (index, first_channel): (Value, usize),
    ) {
        let [weights, bias, mult] = parts.map(|part| {
            let start = t.plus(self.constants, part.start);
            t.at(start, index, part.step)
        });
        let (activations, products, terms) = (self.activations, self.products, self.terms);
        t.call(multiply, &[activations, weights, products, terms, weights, products]);
        let channel = |t: &mut Task<'_>, base: Value, view: &BufferView| {
            let base = t.plus(base, first_channel * view.element);
            t.at(base, index, run.panel.channels * view.element)
        };
        let output = channel(t, self.output, &self.p.result);
        let residual = self.residual.map(|(base, view)| (channel(t, base, view), view));
        let tile_bytes = run.panel.vectors * self.plan.shape.lanes * LANE;
        t.count(self.plan.block, &mut |t, tile| {
            let corner = self.corner(t, block, tile);
            let from = t.at(products, tile, tile_bytes);
            let to = Self::pixel(t, output, &self.p.result, block, corner);
            let residual = residual.map_or(to, |(base, view)| Self::pixel(t, base, view, block, corner));
            t.call(finish, &[from, bias, mult, to, residual, self.work]);
        });
    }
}
