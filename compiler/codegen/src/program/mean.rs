//! Steps in which an element depends on many: mean over axes.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use qcc_ir::Attrs;
use qcc_ir::attr;
use qcc_ir::window::Window;
use qcc_num::requant::Epilogue;

use super::task::Task;
use super::vector_window::Factors;
use crate::clif;
use crate::plan::BufferView;

/// Mean over `axes` as a sum with one requantization.
pub struct Mean {
    /// Operand.
    pub x: BufferView,
    /// Result.
    pub result: BufferView,
    /// Axes that vanish, with their extents and strides in the operand.
    axes: Vec<usize>,
    zero: i64,
    mult: i32,
    epilogue: Epilogue,
}

impl Mean {
    /// The mean that a node stands for.
    pub fn new(attrs: &Attrs, x: &BufferView, result: &BufferView) -> Mean {
        let result =
            if attrs.get(attr::KEEPDIMS) { result.clone() } else { keep_dims(x, result, &attrs.sizes(attr::AXES)) };
        Mean {
            x: x.clone(),
            result,
            axes: attrs.sizes(attr::AXES),
            zero: attrs.get(attr::ZERO),
            mult: attrs.get(attr::MULT) as i32,
            epilogue: attrs.epilogue(),
        }
    }

    /// The mean over height and width as the average under a window of that size.
    pub fn as_window(&self) -> Option<(Window, Factors<'_>)> {
        let [_, height, width, _] = self.x.dims[..] else { return None };
        if self.axes != [1, 2] || self.result.dims.len() != 4 {
            return None;
        }
        let window = Window { kernel: [height, width], strides: [1, 1], pads: [0; 4], dilations: [1, 1] };
        let taps = height * width;
        let factors = Factors {
            weights: None,
            bias: vec![-(self.zero as i32) * taps as i32],
            mult: std::slice::from_ref(&self.mult),
            epilogue: self.epilogue,
            residual: None,
            acc_bound: (255 * taps) as u32,
        };
        Some((window, factors))
    }

    /// Units: one for each position of the first dimension that is kept and has more than one.
    pub fn units(&self) -> usize {
        self.first_kept().map_or(1, |d| self.x.dims[d])
    }

    fn first_kept(&self) -> Option<usize> {
        (0..self.x.dims.len()).find(|d| !self.axes.contains(d) && self.x.dims[*d] > 1)
    }

    /// Emits the task: elements one by one.
    pub fn emit(&self, t: &mut Task<'_>) {
        let (x, y) = (t.address(&self.x), t.address(&self.result));
        let first = self.first_kept();
        t.units(&mut |t, unit| {
            let (x, y) = match first {
                Some(d) => (t.at(x, unit, self.x.strides[d]), t.at(y, unit, self.result.strides[d])),
                None => (x, y),
            };
            let rest: Vec<usize> =
                (0..self.x.dims.len()).filter(|d| !self.axes.contains(d) && Some(*d) != first).collect();
            self.kept(t, &rest, x, y);
        });
    }

    fn kept(&self, t: &mut Task<'_>, dims: &[usize], x: Value, y: Value) {
        if let [d, rest @ ..] = dims {
            return t.count(self.x.dims[*d], &mut |t, i| {
                let (x, y) = (t.at(x, i, self.x.strides[*d]), t.at(y, i, self.result.strides[*d]));
                self.kept(t, rest, x, y);
            });
        }
        let sum = t.b.declare_var(types::I32);
        let taps: usize = self.axes.iter().map(|&a| self.x.dims[a]).product();
        let start = t.b.ins().iconst(types::I32, -(taps as i64) * self.zero);
        t.b.def_var(sum, start);
        self.reduced(t, &self.axes, x, &mut |t, at| {
            let byte = t.b.ins().load(types::I8, clif::memory(), at, 0);
            let x = t.b.ins().uextend(types::I32, byte);
            let total = t.b.use_var(sum);
            let total = t.b.ins().iadd(total, x);
            t.b.def_var(sum, total);
        });
        let total = t.b.use_var(sum);
        let acc = t.b.ins().splat(types::I32X4, total);
        let mult = clif::splat(&mut t.b, types::I32X4, i64::from(self.mult));
        let bytes = clif::requantize(&mut t.b, [acc; 4], [mult; 4], &self.epilogue);
        clif::store_bytes(&mut t.b, bytes, y, 0, 1);
    }

    fn reduced(&self, t: &mut Task<'_>, axes: &[usize], x: Value, body: &mut dyn FnMut(&mut Task<'_>, Value)) {
        match axes {
            [] => body(t, x),
            [d, rest @ ..] => t.count(self.x.dims[*d], &mut |t, i| {
                let x = t.at(x, i, self.x.strides[*d]);
                self.reduced(t, rest, x, body);
            }),
        }
    }
}

/// The result with its vanished axes as extents of 1.
fn keep_dims(x: &BufferView, result: &BufferView, axes: &[usize]) -> BufferView {
    let mut view = BufferView { dims: Vec::new(), strides: Vec::new(), ..result.clone() };
    let mut kept = result.dims.iter().zip(&result.strides);
    for d in 0..x.dims.len() {
        let (dim, stride) = if axes.contains(&d) { (1, 0) } else { kept.next().map_or((1, 0), |(d, s)| (*d, *s)) };
        view.dims.push(dim);
        view.strides.push(stride);
    }
    view
}
