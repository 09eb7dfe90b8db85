//! What the innermost loops of a conversion go along, and how a kernel does all of it.

use cranelift_codegen::ir::{InstBuilder, Value};

use super::values::FLOAT;
use crate::kernel::float_conversion::{FEW, GROUP, Layout};
use crate::program::collapse::{Level, Loops};
use crate::program::moves::Copy;
use crate::program::task::Task;

/// Floats of a run that a call of a kernel does.
const RUN: usize = 4096;

/// Pixels that a call of a kernel does: those of sixteen channels fit a first-level cache on both sides.
const PIXELS: usize = 256;

/// What the innermost loops go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InnerLoop {
    /// So many numbers, side by side.
    Run(usize),
    /// Channels in planes of floats and in pixels of bytes, so many bytes apart.
    Planes { pixels: usize, channels: usize, plane: usize, pixel: usize },
}

impl InnerLoop {
    pub fn length(self) -> usize {
        match self {
            InnerLoop::Run(length) => length,
            InnerLoop::Planes { pixels, .. } => pixels,
        }
    }

    pub fn chunk(self) -> usize {
        match self {
            InnerLoop::Run(_) => RUN,
            InnerLoop::Planes { .. } => PIXELS,
        }
    }
}

/// How a copy's innermost loops go, if a kernel does them. `quantize` tells whether the source becomes floats.
pub(super) fn inner_loop(
    copy: &Copy,
    quantize: bool,
    block: impl Fn(Layout) -> usize,
) -> Option<(Vec<Level>, InnerLoop)> {
    if copy.to.element != 1 || copy.from.element != 1 {
        return None;
    }
    let mut loops = Loops::new(&copy.to.dims, &[&copy.from.strides, &copy.to.strides]);
    let inner = match loops.inner[..] {
        [1, 1] => InnerLoop::Run(loops.run),
        [step, 1] => {
            let across = loops.outer.pop().filter(|level| level.strides[0] == 1)?;
            let (pixels, channels, plane, pixel) = match quantize {
                true => (across.extent, loops.run, step, across.strides[1]),
                false => (loops.run, across.extent, across.strides[1], step),
            };
            InnerLoop::Planes { pixels, channels, plane: FLOAT * plane, pixel }
        }
        _ => return None,
    };
    let fits = match inner {
        InnerLoop::Run(length) => length >= block(Layout::Run),
        InnerLoop::Planes { pixels, channels, plane, pixel } => {
            let few = quantize && channels <= FEW && pixel == channels;
            let layout = Layout::Planes { channels, plane, pixel };
            (few || channels >= GROUP) && pixels >= block(layout) && plane < 1 << 26 && pixel < 1 << 26
        }
    };
    for level in &mut loops.outer {
        // Bytes before floats.
        if quantize {
            level.strides.swap(0, 1);
        }
        level.strides[1] *= FLOAT;
    }
    fits.then_some((loops.outer, inner))
}

/// All of an inner loop: chunks, what is left of them, and a last block that overlaps others.
pub(super) fn whole<'a>(
    t: &mut Task<'a>,
    length: usize,
    chunk: usize,
    block: usize,
    body: &mut dyn FnMut(&mut Task<'a>, Value, usize),
) {
    t.count(length / chunk, &mut |t, i| {
        let start = t.b.ins().imul_imm_s(i, chunk as i64);
        body(t, start, chunk / block);
    });
    let done = length / chunk * chunk;
    let blocks = (length - done) / block;
    if blocks > 0 {
        let start = t.iconst_ptr(done);
        body(t, start, blocks);
    }
    if !(length - done).is_multiple_of(block) {
        let start = t.iconst_ptr(length - block);
        body(t, start, 1);
    }
}
