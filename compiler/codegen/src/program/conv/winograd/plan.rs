//! How a convolution in a form is cut: tiles into blocks, output channels into panels, both into units; and what that costs.
//!
//! Tiles are numbered through an image, row by row. Where a tile, or a block of tiles, would reach beyond the end it is moved back: it computes some results a
//! second time, the same. For each block its tiles are transformed into memory of the call, then for each panel multiplied and transformed back. A unit is
//! several blocks with all panels, or one block with some of them: then the first unit of a block in a call transforms it, into the *slot* of the call, which
//! is numbered by the call's first unit, so that threads do not meet.

use super::problem::Problem;
use crate::kernel::winograd::weights::Panel;
use crate::kernel::winograd::{Form, OutputSpec, parts, tile_heights};
use crate::machine::VectorShape;
use crate::machine::tiles::LANE;
use crate::plan::ALIGN;
use crate::program::conv::plan::{CYCLE, NEAR_BYTES, weight_cost};
use crate::program::conv::shapes::Shapes;
use crate::program::conv::units::UNITS;

/// Bytes of transformed tiles and products that stay in a second-level cache beside the weights that pass through it.
const CACHE: usize = 384 << 10;
/// Bytes of weights that stay there while all blocks pass.
const CACHED_WEIGHTS: usize = 192 << 10;
/// Most tiles of a block.
const MOST_TILES: usize = 64;
/// Eighths of a slot for a pair in fast inner products.
const FAST_DOT: usize = 7;
/// Most bytes of slots, if there can be fewer.
const SLOTS: usize = 4 << 20;
/// Units that there are at least, if there can be so many, whatever the slots take.
const LEAST_UNITS: usize = 4;

/// Most bytes of a slot: distances within it are displacements of instructions.
const MOST_SLOT: usize = 1 << 28;

/// Equal panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanelRun {
    /// How many.
    pub count: usize,
    /// Each of them.
    pub panel: Panel,
}

/// A convolution in a form on a machine.
#[derive(Debug, Clone)]
pub struct WinogradPlan {
    /// What is computed.
    pub problem: Problem,
    /// In which form.
    pub form: Form,
    /// On which machine.
    pub shape: &'static VectorShape,
    /// Whether products are fast inner products.
    pub fast_inner: bool,
    /// Rows and columns of tiles of an image.
    pub tiles: [usize; 2],
    /// Tiles of a block.
    pub block: usize,
    /// Blocks of an image.
    pub blocks: usize,
    /// Full panels, then the rest.
    pub panels: Vec<PanelRun>,
    /// Pairs of input channels, in whole vectors of activations.
    pub pairs: usize,
    /// Blocks of a unit; more than one only if it has all panels.
    pub unit_blocks: usize,
    /// Panels of a unit.
    pub unit_panels: usize,
}

impl WinogradPlan {
    /// Plans it, with the better of the ways to multiply that are exact.
    pub fn new(problem: &Problem, form: Form, shapes: Shapes, weights: &[i8]) -> WinogradPlan {
        let plain = WinogradPlan::with(problem, form, shapes.dots, false);
        let fast_inner = shapes.fast_inner.map(|_| WinogradPlan::with(problem, form, shapes.dots, true));
        let faster = fast_inner.filter(|fast| fast.cost() < plain.cost());
        faster.filter(|_| form.fast_inner_is_exact(weights, problem.inputs)).unwrap_or(plain)
    }

    fn with(problem: &Problem, form: Form, shape: &'static VectorShape, fast_inner: bool) -> WinogradPlan {
        let tile = form.tile();
        let tiles = [0, 1].map(|axis| problem.result[axis].div_ceil(tile[axis]));
        let whole = shape.max_vectors * shape.lanes;
        let (count, rest) = (problem.outputs / whole, problem.outputs % whole);
        let run = |count, channels: usize| PanelRun {
            count,
            panel: Panel { vectors: channels.div_ceil(shape.lanes), channels, narrowed: problem.narrowed, fast_inner },
        };
        let panels = [run(count, whole), run(usize::from(rest > 0), rest)];
        let mut plan = WinogradPlan {
            problem: *problem,
            form,
            shape,
            fast_inner,
            tiles,
            block: 1,
            blocks: 1,
            panels: panels.into_iter().filter(|run| run.count > 0).collect(),
            pairs: problem.inputs.div_ceil(2).next_multiple_of(shape.lanes),
            unit_blocks: 1,
            unit_panels: 1,
        };
        let all = plan.image_tiles();
        let candidates = (1..=MOST_TILES.min(all)).map(|most| {
            let blocks = all.div_ceil(most);
            WinogradPlan { block: all.div_ceil(blocks), blocks, ..plan.clone() }
        });
        plan = candidates.min_by_key(|plan| (plan.cost(), plan.block)).unwrap_or(plan);
        plan.cut();
        plan
    }

    /// The plans of all forms that are exact on activations up to `greatest`, the one with the fewest multiplications first.
    pub fn all(problem: &Problem, shapes: Shapes, (weights, greatest): (&[i8], u8)) -> Vec<WinogradPlan> {
        let forms = problem.exact_forms(weights, greatest).into_iter();
        let plans = forms.map(|form| WinogradPlan::new(problem, form, shapes, weights));
        plans.filter(|plan| plan.slot_bytes() < MOST_SLOT).collect()
    }

    /// Cuts blocks and panels into units.
    fn cut(&mut self) {
        let (blocks, panels) = (self.problem.images * self.blocks, self.all_panels());
        let cut = |units: usize| match blocks >= units {
            true => (blocks / units, panels),
            false => (1, panels.div_ceil(units.div_ceil(blocks).min(panels))),
        };
        let fits = |&units: &usize| {
            let (unit_blocks, unit_panels) = cut(units);
            blocks.div_ceil(unit_blocks) * panels.div_ceil(unit_panels) * self.slot_bytes() <= SLOTS
        };
        let units = (LEAST_UNITS..=UNITS).rev().find(fits).unwrap_or(LEAST_UNITS);
        (self.unit_blocks, self.unit_panels) = cut(units);
    }

    /// Tiles of an image.
    pub fn image_tiles(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// Panels of all kinds.
    pub fn all_panels(&self) -> usize {
        self.panels.iter().map(|run| run.count).sum()
    }

    /// Units that share a block.
    pub fn block_units(&self) -> usize {
        self.all_panels().div_ceil(self.unit_panels)
    }

    /// Units of the task.
    pub fn units(&self) -> usize {
        (self.problem.images * self.blocks).div_ceil(self.unit_blocks) * self.block_units()
    }

    /// Bytes of a vector.
    fn vector(&self) -> usize {
        LANE * self.shape.lanes
    }

    /// Bytes of a tile at one position of the transformed activations.
    pub fn tile_bytes(&self) -> usize {
        LANE * self.pairs
    }

    /// From position to position of the transformed activations. One line more than they take: positions that lie a power of two apart would share few
    /// places of a cache.
    pub fn activations_step(&self) -> usize {
        self.block * self.tile_bytes() + ALIGN
    }

    /// The same of products.
    pub fn products_step(&self, panel: &Panel) -> usize {
        (self.block * panel.vectors * self.vector() + ALIGN).next_multiple_of(ALIGN)
    }

    /// Where products begin in a slot; before them lie transformed activations.
    pub fn products_start(&self) -> usize {
        self.form.points() * self.activations_step()
    }

    /// Where the terms of tiles begin in a slot.
    pub fn terms_start(&self) -> usize {
        let products = self.panels.iter().map(|run| self.form.points() * self.products_step(&run.panel)).max();
        self.products_start() + products.unwrap_or(0)
    }

    /// Where the memory for work begins in a slot.
    pub fn work_start(&self) -> usize {
        let terms = if self.fast_inner { self.form.points() * self.block * LANE } else { 0 };
        (self.terms_start() + terms).next_multiple_of(ALIGN)
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        let output = |run: &PanelRun| OutputSpec::work_vectors(self.form, run.panel.vectors);
        let work = self.panels.iter().map(output).max().unwrap_or(0).max(self.form.points());
        (self.work_start() + work * self.vector()).next_multiple_of(ALIGN)
    }

    /// Bytes of all slots.
    pub fn scratch_bytes(&self) -> usize {
        self.units() * self.slot_bytes()
    }

    /// Bytes of transformed weights.
    pub fn weight_bytes(&self) -> usize {
        self.panels.iter().map(|run| run.count * run.panel.weight_bytes(self.form, self.shape, self.pairs)).sum()
    }

    /// Multiplications, in those of bytes that take as long: a dot takes two numbers of 16 bits.
    pub fn products(&self) -> u64 {
        let tiles = (self.problem.images * self.image_tiles() * self.form.points()) as u64;
        tiles * (self.problem.inputs * self.problem.outputs * self.shape.dot_depth() / 2) as u64
    }

    /// The estimate for all images, in parts of a cycle, where weights are in a cache.
    pub fn cost(&self) -> usize {
        let shape = self.shape;
        let blocks = self.problem.images * self.blocks;
        let points = self.form.points();
        let register_tile = |height: usize, part: usize| {
            let dots = height * part;
            let eighths = if self.fast_inner { FAST_DOT } else { 8 };
            self.pairs * (eighths * dots.max(shape.independent_dots) + height + part) + 8 * (2 * dots + 4)
        };
        let of_part = |part: usize| -> usize {
            let heights = tile_heights(shape, self.block, part, self.fast_inner);
            heights.into_iter().map(|(count, height)| count * register_tile(height, part)).sum()
        };
        let of_panel = |panel: &Panel| parts(shape, panel.vectors, self.fast_inner).into_iter().map(of_part);
        let product = |panel: &Panel| of_panel(panel).sum::<usize>();
        let output = |panel: &Panel| {
            let epilogue = 8 * shape.epilogue[panel.vectors - 1];
            panel.vectors * (12 * points + self.form.outputs() * (epilogue + 18))
        };
        let panels: usize = self
            .panels
            .iter()
            .map(|run| run.count * (points * product(&run.panel) + self.block * output(&run.panel)))
            .sum();
        let terms = if self.fast_inner { 16 + self.pairs / shape.lanes * 12 } else { 0 };
        let input = self.block * points * (self.pairs / shape.lanes * 40 + terms);
        let computed = blocks * shape.dot_time * (panels + input);
        let (weights, slot) = (self.weight_bytes(), self.work_start());
        let again = if weights > CACHED_WEIGHTS { (blocks - 1) * weights } else { 0 };
        let spilled = if slot > CACHE { blocks * self.all_panels() * self.products_start() } else { 0 };
        computed + (again + spilled) * CYCLE / NEAR_BYTES
    }

    /// The same with reading the weights for the first time, of so many bytes of the model.
    pub fn estimate(&self, of_model: usize) -> usize {
        self.cost() + weight_cost(self.weight_bytes(), of_model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(result: [usize; 2], channels: [usize; 2], tile: [usize; 2]) -> WinogradPlan {
        let [inputs, outputs] = channels;
        let problem = Problem { images: 1, result, inputs, outputs, kernel: [3, 3], narrowed: true };
        let shapes = Shapes { dots: &VectorShape::AVX2, i16_sums: None, fast_inner: None };
        WinogradPlan::new(&problem, Form::of_tiles([3, 3], tile).expect("a form"), shapes, &[])
    }

    #[test]
    fn blocks_cover_all_tiles_and_units_all_panels() {
        for result in [[4, 4], [7, 9], [56, 56], [14, 14], [28, 200]] {
            for channels in [[16, 8], [64, 64], [3, 100], [512, 520]] {
                for tile in [[4, 4], [2, 2], [4, 2]] {
                    let plan = plan(result, channels, tile);
                    assert!(plan.block * plan.blocks >= plan.image_tiles() && plan.block <= plan.image_tiles());
                    assert!(plan.unit_blocks == 1 || plan.unit_panels == plan.all_panels());
                    assert!(plan.unit_panels * plan.block_units() >= plan.all_panels());
                    assert!(plan.units() <= 2 * UNITS, "{result:?} {channels:?}: {} units", plan.units());
                    let outputs: usize = plan.panels.iter().map(|run| run.count * run.panel.channels).sum();
                    assert_eq!(outputs, channels[1]);
                }
            }
        }
    }

    #[test]
    fn multiplications_and_bytes() {
        let plan = plan([56, 56], [64, 64], [4, 4]);
        assert!(!plan.fast_inner);
        assert_eq!(plan.products(), 14 * 14 * 36 * 64 * 64);
        assert_eq!(plan.weight_bytes(), 36 * 64 * 64 * 2);
        assert!(plan.work_start() <= CACHE);
    }
}
