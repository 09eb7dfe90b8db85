//! What a product of two computed matrices computes.

use qcc_ir::ops::IntOp;
use qcc_ir::{Attrs, attr};
use qcc_num::requant::Epilogue;

use crate::kernel::microkernel::{MicrokernelSpec, Output};
use crate::plan::BufferView;

/// A product with its operands broadcast to the result's outer dimensions.
pub struct MatMul {
    pub a: BufferView,
    pub b: BufferView,
    pub result: BufferView,
    pub zeros: [i64; 2],
    /// Multiplier and rule of the requantization; without them the result is accumulators.
    pub requant: Option<(i64, Epilogue)>,
}

impl MatMul {
    /// The product that a node stands for.
    pub fn new(op: IntOp, attrs: &Attrs, operands: &[BufferView], result: &BufferView) -> MatMul {
        let rank = result.dims.len();
        let widened = |p: &BufferView| {
            let matrix = p.dims.len() - 2;
            let dims = [&result.dims[..rank - 2], &p.dims[matrix..]].concat();
            p.broadcast(&dims)
        };
        let zeros = attrs.get(attr::ZEROS);
        MatMul {
            a: widened(&operands[0]),
            b: widened(&operands[1]),
            result: result.clone(),
            zeros: [zeros[0], zeros[1]],
            requant: (op == IntOp::QMatMul).then(|| (attrs.get(attr::MULT), attrs.epilogue())),
        }
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        (self.result.elements() * self.depth()) as u64
    }

    /// `m x k x n`.
    pub fn describe(&self) -> String {
        let [m, n] = self.matrix();
        format!("{} {m}x{}x{n}", if self.requant.is_some() { "qmatmul" } else { "matmul" }, self.depth())
    }

    pub fn rank(&self) -> usize {
        self.result.dims.len()
    }

    pub fn matrix(&self) -> [usize; 2] {
        [self.result.dims[self.rank() - 2], self.result.dims[self.rank() - 1]]
    }

    pub fn depth(&self) -> usize {
        self.a.dims[self.rank() - 1]
    }

    /// Matrices of the result.
    pub fn outer(&self) -> usize {
        self.result.dims[..self.rank() - 2].iter().product()
    }

    /// `c` of [`packed`].
    pub fn row_factor(&self) -> i64 {
        128 - self.zeros[1]
    }

    /// Whether rows have terms of their own in [`packed`].
    pub fn has_terms(&self) -> bool {
        self.row_factor() != 0
    }

    /// Some rows times some columns as a convolution: rows are its pixels.
    pub fn spec(&self, columns: usize, rows: usize) -> MicrokernelSpec {
        let [a_row, result_row] = [&self.a, &self.result].map(|p| p.strides[self.rank() - 2]);
        let [za, zb] = self.zeros.map(|zero| zero.max(255 - zero) as u64);
        let greatest = u32::try_from(self.depth() as u64 * za * zb).unwrap_or(u32::MAX);
        MicrokernelSpec {
            width: rows,
            panel_vectors: 0,
            block_rows: 1,
            channels: columns,
            k_rows: 1,
            left_out: [0; 2],
            k_row_step: 0,
            segments: 1,
            segment_step: 0,
            run: self.depth(),
            pixel_step: a_row,
            in_row_step: rows * a_row,
            out_pixel_step: result_row,
            out_row_step: rows * result_row,
            prefetch_bytes: 0,
            coded: false,
            pixel_terms: self.has_terms(),
            fast_inner: false,
            i16_steps: 0,
            output: self.requant.map_or(Output::Raw, |(_, epilogue)| Output::Requant {
                epilogue,
                residual: None,
                acc_bound: Some(greatest),
            }),
        }
    }
}
