//! Steps that move elements: every one is a copy between two strided views.

use cranelift_codegen::ir::{InstBuilder, Value};
use qcc_ir::ops::Move;
use qcc_ir::{Diag, Graph, NodeId, attr, diag::Code};

use super::collapse::Loops;
use super::task::Task;
use super::transpose::{self, Exchange};
use crate::clif::{self, VECTOR};
use crate::plan::{BufferView, Halo, concat_windows};

/// A copy between two views of one shape.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Source.
    pub from: BufferView,
    /// Destination.
    pub to: BufferView,
}

/// The copies that a movement operator consists of, and the value, if any, that the result is filled with before.
pub fn copies(
    graph: &Graph,
    node: NodeId,
    op: Move,
    operands: &[BufferView],
    to: &BufferView,
) -> Result<(Vec<Copy>, Option<i64>), Diag> {
    let attrs = &graph.node(node).attrs;
    let one = |from: BufferView| (vec![Copy { from, to: to.clone() }], None);
    Ok(match op {
        Move::Transpose => one(operands[0].permuted(&attrs.sizes(attr::PERM))),
        Move::Slice => one(operands[0].window(&attrs.sizes(attr::STARTS), &attrs.sizes(attr::STEPS), &to.dims)),
        Move::Expand => one(operands[0].broadcast(&to.dims)),
        Move::Reshape => one(operands[0].clone()),
        Move::Concat => {
            // An operand that was computed where it belongs is no copy.
            let windows = concat_windows(to, attrs.get(attr::AXIS) as usize, operands);
            let copies = operands.iter().zip(windows).filter(|(from, to)| *from != to);
            (copies.map(|(from, to)| Copy { from: from.clone(), to }).collect(), None)
        }
        Move::Pad => {
            let before = attrs.sizes(attr::PADS)[..to.dims.len()].to_vec();
            let window = to.window(&before, &vec![1; to.dims.len()], &operands[0].dims);
            (vec![Copy { from: operands[0].clone(), to: window }], Some(attrs.get(attr::VALUE) as i64))
        }
        Move::Cast | Move::Where | Move::TopK | Move::TopKIndex | Move::ArgMax | Move::MaxPoolIndex => {
            return Err(Diag::new(Code::CODEGEN, format!("{} is no copy", graph.describe(node))));
        }
        Move::Gather => {
            let indices = graph.constant(graph.operands(node)[1]).and_then(|t| t.as_i64());
            let indices =
                indices.ok_or_else(|| Diag::new(Code::CODEGEN, format!("{} is no copy", graph.describe(node))))?;
            let extent = operands[0].dims[attrs.get(attr::AXIS) as usize] as i64;
            let absolute = |&i: &i64| {
                let i = if i < 0 && attrs.get(attr::WRAP) { i.saturating_add(extent) } else { i };
                if (0..extent).contains(&i) { i } else { extent - 1 }
            };
            let indices: Vec<i64> = indices.iter().map(absolute).collect();
            (gather(attrs.get(attr::AXIS) as usize, &indices, &operands[0], to), None)
        }
    })
}

/// Runs of evenly spaced, not falling positions: first, number, distance.
fn even_runs(positions: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (i, &p) in positions.iter().enumerate() {
        if let Some((first, count, step)) = runs.last_mut()
            && let Some(distance) = p.checked_sub(positions[i - 1])
            && (*count == 1 || distance == *step)
        {
            (*count, *step) = (i + 1 - *first, distance);
        } else {
            runs.push((i, 1, 1));
        }
    }
    runs
}

/// One copy for each run of indices: a slice of the source to its place along the axis.
fn gather(axis: usize, indices: &[i64], from: &BufferView, to: &BufferView) -> Vec<Copy> {
    let extent = from.dims[axis];
    let at = |index: i64| if index < 0 { (index + extent as i64) as usize } else { index as usize };
    // The index's own dimensions are merged into one, so that both sides have the source's rank.
    let index_rank = to.dims.len() + 1 - from.dims.len();
    let mut merged = to.clone();
    merged.dims.splice(axis..axis + index_rank, [indices.len()]);
    let stride = if index_rank == 0 { 0 } else { to.strides[axis + index_rank - 1] };
    merged.strides.splice(axis..axis + index_rank, [stride]);
    let slice = |view: &BufferView, i: usize, count: usize, step: usize| {
        let (mut start, mut dims, mut steps) = (vec![0; view.dims.len()], view.dims.clone(), vec![1; view.dims.len()]);
        (start[axis], dims[axis], steps[axis]) = (i, count, step);
        view.window(&start, &steps, &dims)
    };
    let indices: Vec<usize> = indices.iter().map(|&i| at(i)).collect();
    let runs = even_runs(&indices).into_iter();
    runs.map(|(first, count, step)| Copy {
        from: slice(from, indices[first], count, step),
        to: slice(&merged, first, count, 1),
    })
    .collect()
}

impl Copy {
    /// Units of this copy.
    pub fn units(&self) -> usize {
        self.loops().0.units()
    }

    /// The loops; a run that is dense on both sides is counted in bytes. Two dimensions may be exchanged.
    fn loops(&self) -> (Loops, Option<Exchange>) {
        let loops = Loops::new(&self.to.dims, &[&self.from.strides, &self.to.strides]);
        let element = self.to.element;
        match loops.inner == [element, element] {
            true => (Loops { run: loops.run * element, inner: vec![1, 1], ..loops }, None),
            false if element == 1 => transpose::exchange(loops),
            false => (loops, None),
        }
    }

    /// Emits the copy over the task's units.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (loops, exchange) = self.loops();
        let (from, to) = (t.address(&self.from), t.address(&self.to));
        if let Some(exchange) = exchange {
            return transpose::emit(t, &loops, &exchange, from, to);
        }
        if loops.inner == [1, 1] {
            return t.lanes(&loops, &[from, to], &mut |t, at, lanes| {
                let bytes = clif::load_bytes(&mut t.b, at[0], 0, lanes);
                clif::store_bytes(&mut t.b, bytes, at[1], 0, lanes);
            });
        }
        let (lane, inner) = (clif::lane_type(self.to.element), loops.inner.clone());
        t.lanes(&loops, &[from, to], &mut |t, at, lanes| {
            for i in 0..lanes {
                let value = t.b.ins().load(lane, clif::memory(), at[0], (i * inner[0]) as i32);
                t.b.ins().store(clif::memory(), value, at[1], (i * inner[1]) as i32);
            }
        });
    }
}

/// Units of [`fill_view`].
pub fn fill_units(view: &BufferView) -> usize {
    Loops::new(&view.dims, &[&view.strides]).dense(&[view.element]).units()
}

/// Fills the elements of a view, and nothing between them.
pub fn fill_view(t: &mut Task<'_>, view: &BufferView, value: i64) {
    let loops = Loops::new(&view.dims, &[&view.strides]).dense(&[view.element]);
    let to = t.address(view);
    let lane = clif::lane_type(view.element);
    let bytes = cranelift_codegen::ir::types::I8X16;
    t.lanes(&loops, &[to], &mut |t, at, lanes| {
        let vector = clif::splat(&mut t.b, lane.by((VECTOR / view.element) as u32).unwrap_or(bytes), value);
        let vector = clif::cast(&mut t.b, bytes, vector);
        for first in (0..lanes * view.element).step_by(VECTOR) {
            let used = (lanes * view.element - first).min(VECTOR);
            clif::store_bytes(&mut t.b, vector, at[0], first as i32, used);
        }
    });
}

/// Bytes that one round of a filling loop stores.
const FILLED: usize = 8 * VECTOR;

/// Fills `bytes` bytes at `to` with a byte.
fn fill(t: &mut Task<'_>, to: Value, bytes: usize, value: u8) {
    let vector = clif::splat(&mut t.b, cranelift_codegen::ir::types::I8X16, i64::from(value));
    t.count(bytes / FILLED, &mut |t, i| {
        let at = t.at(to, i, FILLED);
        for first in (0..FILLED).step_by(VECTOR) {
            clif::store_bytes(&mut t.b, vector, at, first as i32, VECTOR);
        }
    });
    let at = t.plus(to, bytes - bytes % FILLED);
    for first in (0..bytes % FILLED).step_by(VECTOR) {
        clif::store_bytes(&mut t.b, vector, at, first as i32, (bytes % FILLED - first).min(VECTOR));
    }
}

/// Fills the halo around an NHWC view; one unit.
pub fn fill_halo(t: &mut Task<'_>, view: &BufferView, halo: &Halo) {
    let (h, w) = (view.dims[1], view.dims[2]);
    let (image, row, pixel) = (view.strides[0], view.strides[1], view.strides[2]);
    let outside = BufferView { offset: view.offset - halo.top * row - halo.left * pixel, ..view.clone() };
    let base = t.address(&outside);
    // A row's right side and the next row's left side follow each other, so the halo is a head, a gap a row, and a tail.
    let gap = (halo.left + halo.right) * pixel;
    let head = halo.top * row + halo.left * pixel;
    let tail = halo.right * pixel + halo.bottom * row;
    t.units(&mut |t, _| {
        t.count(view.dims[0], &mut |t, n| {
            let base = t.at(base, n, image);
            fill(t, base, head, halo.value);
            if gap > 0 {
                let first = t.plus(base, head + w * pixel);
                t.count(h - 1, &mut |t, y| {
                    let at = t.at(first, y, row);
                    fill(t, at, gap, halo.value);
                });
            }
            let at = t.plus(base, head + (h - 1) * row + w * pixel);
            fill(t, at, tail, halo.value);
        });
    });
}
