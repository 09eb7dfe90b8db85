//! Windows over channels that stay apart, by vector kernels: depthwise convolution, maximum, average.

use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_module::{DataId, FuncId, Linkage};
use qcc_ir::window::Window;
use qcc_ir::{Attrs, Diags, attr};
use qcc_num::requant::Epilogue;

use super::builder::{Builder, Operation, TaskCost, bug};
use super::task::Task;
use crate::kernel::microkernel::Residual;
use crate::kernel::window::{self, MAX_TAPS, Reduction, Tap, WindowSpec, group};
use crate::machine::VectorShape;
use crate::plan::BufferView;

/// Most blocks of constants that a row seen as one sequence of bytes may need: the second-level cache holds them.
const MAX_BLOCKS: usize = 32;

/// What the step multiplies with.
pub struct Factors<'a> {
    /// `[C, KH, KW]`, or nothing where every weight is 1.
    pub weights: Option<&'a [i8]>,
    /// `[C]`, or one for all.
    pub bias: Vec<i32>,
    /// `[C]`, or one for all.
    pub mult: &'a [i32],
    /// The rule.
    pub epilogue: Epilogue,
    /// A tensor added before the last rounding, and its multiplier.
    pub residual: Option<(BufferView, u16)>,
    /// Greatest magnitude of an accumulator.
    pub acc_bound: u32,
}

impl<'a> Factors<'a> {
    /// Those of an average: ones, and the zero points subtracted by the bias.
    pub fn average(attrs: &Attrs, w: &Window, mult: &'a [i32]) -> Factors<'a> {
        let taps = w.kernel[0] * w.kernel[1];
        Factors {
            weights: None,
            bias: vec![-(attrs.get(attr::ZERO) as i32) * taps as i32],
            mult,
            epilogue: attrs.epilogue(),
            residual: None,
            acc_bound: (255 * taps) as u32,
        }
    }

    /// Whether the multipliers are those of channels, not of positions.
    fn by_channel(&self) -> bool {
        self.weights.is_some() || self.mult.len() == 1
    }
}

impl Builder<'_> {
    /// Emits the step by a kernel if there is one for it; without factors it is a maximum.
    pub(super) fn vector_window(
        &mut self,
        o: &Operation<'_>,
        (x, result): (&BufferView, &BufferView),
        w: &Window,
        factors: Option<&Factors<'_>>,
        cost: TaskCost,
    ) -> Result<Option<TaskCost>, Diags> {
        if !self.options.target.has_vector_kernels() {
            return Ok(Some(cost));
        }
        let shape = self.shape();
        let Some(spec) = describe(x, result, w, factors, shape) else { return Ok(Some(cost)) };
        let data = match factors {
            None => None,
            Some(f) => {
                let channels = result.dims[3];
                let each = |values: &[i32], c: usize| if values.len() == 1 { values[0] } else { values[c] };
                let taps = w.kernel[0] * w.kernel[1];
                let packed = spec.pack(
                    shape,
                    |byte| byte % channels,
                    |c| each(&f.bias, c),
                    |c| each(f.mult, c),
                    |tap, c| f.weights.map_or(1, |weights| weights[c * taps + tap]),
                );
                Some(self.data(&format!("weights_{}", o.name), Linkage::Local, packed)?)
            }
        };
        let kernel = self.window_kernel(&spec)?;
        let units = result.dims[0] * result.dims[1];
        let residual = factors.and_then(|f| f.residual.as_ref()).map(|(view, _)| view);
        let rows = Rows { kernel, data, x, result, residual, window: w };
        self.task_of(o, units, cost, |t| rows.emit(t))?;
        Ok(None)
    }

    fn window_kernel(&mut self, spec: &WindowSpec) -> Result<FuncId, Diags> {
        if let Some(&id) = self.window_kernels.get(spec) {
            return Ok(id);
        }
        let signature = window::signature(self.module.target_config());
        let name = format!("window_{:03}", self.window_kernels.len());
        let id = self.declare(&name, Linkage::Local, &signature)?;
        let code = window::machine_code(spec, self.options.target.backend()).map_err(bug)?;
        let code = code.ok_or_else(|| bug("a window kernel without vector kernels"))?;
        self.define_bytes(id, &name, &code)?;
        self.window_kernels.insert(spec.clone(), id);
        Ok(id)
    }
}

/// The kernel for a window, or nothing where it has no form.
fn describe(
    x: &BufferView,
    result: &BufferView,
    w: &Window,
    factors: Option<&Factors<'_>>,
    shape: &VectorShape,
) -> Option<WindowSpec> {
    let [_, _, width, channels] = result.dims[..] else { return None };
    let residual = factors.and_then(|f| f.residual.as_ref());
    if factors.is_some_and(|f| !f.by_channel())
        || [x, result].into_iter().chain(residual.map(|(p, _)| p)).any(|p| p.element != 1 || p.strides[3] != 1)
    {
        return None;
    }
    let (row, pixel) = (x.strides[1], x.strides[2]);
    let unrolled = w.kernel[0] * w.kernel[1] <= MAX_TAPS;
    if !unrolled && w.kernel[1] > MAX_TAPS {
        return None;
    }
    let (runs, run_step) = if unrolled { (1, 0) } else { (w.kernel[0], w.dilations[0] * row) };
    let rows = if unrolled { w.kernel[0] } else { 1 };
    let tap = |ky: usize, kx: usize| Tap {
        weight: ky * w.kernel[1] + kx,
        offset: ky * w.dilations[0] * row + kx * w.dilations[1] * pixel,
    };
    let columns: Vec<Vec<Tap>> = (0..w.kernel[1]).map(|kx| (0..rows).map(|ky| tap(ky, kx)).collect()).collect();
    let side_by_side = |p: &BufferView| p.strides[2] == channels;
    let even =
        w.strides[1] == 1 && side_by_side(x) && side_by_side(result) && residual.is_none_or(|(p, _)| side_by_side(p));
    let vector = 4 * shape.lanes;
    let uniform = factors.is_none_or(|f| f.weights.is_none() && f.bias.len() == 1 && f.mult.len() == 1);
    let period = if uniform { vector } else { channels / gcd(channels, vector) * vector };
    let flat = even && period / vector <= MAX_BLOCKS.max(channels.div_ceil(vector));
    let steps = |pixel: usize| if flat { period } else { pixel };
    let in_step = steps(w.strides[1] * pixel);
    // Displacements of instructions have 32 bits.
    let reach = columns.iter().flatten().map(|tap| tap.offset).max().unwrap_or(0);
    if reach + window::MAX_POSITIONS * in_step >= 1 << 30 || window::MAX_POSITIONS * steps(result.strides[2]) >= 1 << 30
    {
        return None;
    }
    let (bytes, positions, rest) = match flat {
        true => (period, width * channels / period, width * channels % period),
        false => (channels, width, 0),
    };
    let residual_of = |(p, mult): &(BufferView, u16)| Residual {
        mult: *mult,
        pixel_step: steps(p.strides[2]),
        row_step: p.strides[1],
    };
    Some(WindowSpec {
        bytes,
        positions,
        rest,
        in_step,
        in_row_step: w.strides[0] * row,
        out_step: steps(result.strides[2]),
        out_row_step: result.strides[1],
        runs,
        run_step,
        groups: group(&columns, in_step, shape),
        reduction: match factors {
            None => Reduction::Max,
            Some(f) => Reduction::Dot {
                epilogue: f.epilogue,
                residual: residual.map(residual_of),
                acc_bound: f.acc_bound,
                uniform,
            },
        },
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Calls of a kernel, each for some output rows.
struct Rows<'s> {
    kernel: FuncId,
    data: Option<DataId>,
    x: &'s BufferView,
    result: &'s BufferView,
    residual: Option<&'s BufferView>,
    window: &'s Window,
}

impl Rows<'_> {
    /// Emits the task: a unit is one output row.
    fn emit(&self, t: &mut Task<'_>) {
        let (x, result, w) = (self.x, self.result, self.window);
        let corner = x.offset - w.pads[0] * x.strides[1] - w.pads[1] * x.strides[2];
        let input = t.address(&BufferView { offset: corner, ..x.clone() });
        let output = t.address(result);
        let residual = self.residual.map(|view| (t.address(view), view));
        let data = self.data.map_or(output, |data| t.data(data));
        let (images, height) = (result.dims[0], result.dims[1]);
        let rows = |t: &mut Task<'_>, image: Option<Value>, row: Value, count: Value| {
            let mut at = |base: Value, view: &BufferView, step: usize| {
                let base = image.map_or(base, |image| t.at(base, image, view.strides[0]));
                t.at(base, row, step)
            };
            let from = at(input, x, w.strides[0] * x.strides[1]);
            let to = at(output, result, result.strides[1]);
            let residual = residual.map_or(to, |(base, view)| at(base, view, view.strides[1]));
            t.call(self.kernel, &[from, data, to, residual, count]);
        };
        if images == 1 {
            let (begin, count) = t.share();
            return rows(t, None, begin, count);
        }
        t.units(&mut |t, unit| {
            let rows_of_image = t.iconst_ptr(height);
            let image = t.b.ins().udiv(unit, rows_of_image);
            let row = t.b.ins().urem(unit, rows_of_image);
            let one = t.iconst_ptr(1);
            rows(t, Some(image), row, one);
        });
    }
}
