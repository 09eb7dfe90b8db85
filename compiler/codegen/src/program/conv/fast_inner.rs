//! Products by fast inner products ([`crate::kernel::microkernel::fast_inner`]): which ones, and their activations in memory of the step.
//!
//! ```text
//! activations --widen--> 16 bits of all pixels that windows meet, and a term of each --sum up--> terms of windows
//! ```
//! The choice follows from shapes and target alone. What a result is does not depend on it.

mod emit;

use qcc_ir::{Graph, NodeId};

use super::plan::{CYCLE, ProductPlan};
use super::product::Product;
use super::shapes::Shapes;
use super::winograd::is_measured;
use crate::Options;
use crate::kernel::widen::CHANNELS;
use crate::plan::{BufferId, BufferView, Decoding, Storages};
use crate::program::model_weights::weights_of_model;
use crate::program::tuning::Method;
use qcc_ir::window::Window;

/// Bytes of a term.
const TERM: usize = 4;
/// Bytes of an activation.
const WIDE: usize = 2;
/// Most taps of a window.
const MOST_TAPS: usize = 64;
/// Most bytes of memory that a step takes for it.
const MOST_BYTES: usize = 1 << 28;
/// Percent of the direct way's time that fast inner products take at most, that they are chosen: estimates are not exact.
const WORTH: usize = 95;
/// Activations that are widened in a cycle, memory included.
const WIDENED_A_CYCLE: usize = 2;

/// The activations of a product in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widened {
    images: usize,
    /// Rows and columns of pixels that windows meet.
    pixels: [usize; 2],
    /// From one to the next in the activations, in their rows and columns.
    every: [usize; 2],
    channels: usize,
    /// The windows on these pixels.
    window: Window,
    /// Rows and columns of the result.
    result: [usize; 2],
}

impl Widened {
    /// Those of a product, if it can be fast inner products.
    pub fn of(p: &Product<'_>) -> Option<Widened> {
        let (w, channels) = (&p.window, p.x.dims[3]);
        let is_one_run = w.kernel[1] == 1 || w.dilations[1] == 1;
        let has_results = !p.result.dims.contains(&0);
        if p.groups > 1 || !channels.is_multiple_of(CHANNELS) || p.extrema.is_some() || !is_one_run || !has_results {
            return None;
        }
        let &[images, rows, columns, _] = &p.result.dims[..] else { return None };
        let result = [rows, columns];
        let is_point = w.kernel == [1, 1];
        let taps = |axis: usize| (w.kernel[axis] - 1) * w.dilations[axis] + 1;
        let met = |axis: usize| if is_point { result[axis] } else { (result[axis] - 1) * w.strides[axis] + taps(axis) };
        let widened = Widened {
            images,
            pixels: [met(0), met(1)],
            every: if is_point { w.strides } else { [1, 1] },
            channels,
            window: Window { pads: [0; 4], strides: if is_point { [1, 1] } else { w.strides }, ..*w },
            result,
        };
        let fits = w.kernel[0] * w.kernel[1] <= MOST_TAPS && widened.bytes() < MOST_BYTES;
        fits.then_some(widened)
    }

    /// Pixels that are widened.
    fn all_pixels(&self) -> usize {
        self.images * self.pixels[0] * self.pixels[1]
    }

    fn is_point(&self) -> bool {
        self.window.kernel == [1, 1]
    }

    /// Where the terms of pixels begin in the step's memory, and where those of windows.
    fn terms_at(&self) -> [usize; 2] {
        let of_pixels = self.all_pixels() * self.channels * WIDE;
        [of_pixels, if self.is_point() { of_pixels } else { of_pixels + self.all_pixels() * TERM }]
    }

    /// Bytes of the step's memory.
    pub fn bytes(&self) -> usize {
        self.terms_at()[1] + self.images * self.result[0] * self.result[1] * TERM
    }

    /// A dense view of the step's memory.
    fn view(
        &self,
        buffer: BufferId,
        offset: usize,
        [rows, columns]: [usize; 2],
        (channels, element): (usize, usize),
    ) -> BufferView {
        let pixel = channels * element;
        BufferView {
            buffer,
            offset,
            dims: vec![self.images, rows, columns, channels],
            strides: vec![rows * columns * pixel, columns * pixel, pixel, element],
            element,
        }
    }

    /// The product of these activations, in `buffer`.
    pub fn product<'p>(&self, p: &Product<'p>, buffer: BufferId) -> Product<'p> {
        let terms = self.view(buffer, self.terms_at()[1], self.result, (1, TERM));
        Product {
            x: self.view(buffer, 0, self.pixels, (self.channels, WIDE)),
            window: self.window,
            terms: Some(terms),
            can_be_codes: false,
            ..p.clone()
        }
    }

    /// The estimate for widening, in parts of a cycle.
    fn cost(&self) -> usize {
        self.all_pixels() * self.channels * CYCLE / WIDENED_A_CYCLE
    }

    /// The estimate for the product of these activations; nothing where the target has no fast inner products.
    pub fn estimate(&self, p: &Product<'_>, shapes: Shapes, of_model: usize) -> Option<usize> {
        let shape = shapes.fast_inner?;
        let product = self.product(p, 0);
        let plan = ProductPlan::new(&product, shapes, Default::default(), 0, None).ok()?;
        Some(plan.estimate(product.weights.len() * shape.weight_bytes, of_model) + self.cost())
    }
}

/// Adds to the storages of a graph's products those that are fast inner products.
pub fn choose(graph: &Graph, options: &Options, storages: &mut Storages) {
    let shapes = Shapes::of(&options.target);
    if shapes.fast_inner.is_none() {
        return;
    }
    let of_model = weights_of_model(graph);
    let chosen = |node: NodeId| {
        let choice = options.tuning.get(graph.name_of(graph.result(node))).copied().unwrap_or_default();
        let method = choice.chosen_method();
        let is_stored_otherwise = method.is_none() && storages.contains_key(&node);
        if method.is_some_and(|method| method != Method::FastInner) || is_stored_otherwise || is_measured(graph, node) {
            return None;
        }
        let product = Product::sketch(graph, node, u8::MAX)?;
        let widened = Widened::of(&product)?;
        let estimate = widened.estimate(&product, shapes, of_model)?;
        let direct = ProductPlan::new(&product, shapes, Default::default(), 0, None).ok()?;
        let direct = direct.estimate(product.weights.len() * shapes.dots.weight_bytes, of_model);
        let pays = estimate * 100 <= direct * WORTH;
        (pays || method.is_some()).then(|| (node, Decoding::Widened { bytes: widened.bytes() }))
    };
    let all: Vec<_> = graph.order().into_iter().filter_map(chosen).collect();
    storages.extend(all);
}
