//! The kernel that transforms the products of a tile back, divides exactly, adds the bias and stores.
//!
//! ```text
//! t[a][b] = sum over (i, j) of A[a][i] * A[b][j] * from[i * columns + j]           modulo 2^32: odd * 2^shift * y
//! y[a][b] = (t[a][b] * odd^-1 modulo 2^32) / 2^shift + bias
//! ```
//! The function, in the System V convention: `fn(from: *const i32, bias: *const i32, mult: *const i32, output: *mut u8, residual: *const u8, work: *mut u8)`, with
//! [`OutputSpec::work_vectors`] at `work`. Of a panel's channels those that exist are stored.

use super::form::Form;
use crate::kernel::assemble::Emit;
use crate::kernel::microkernel::{Output, fits_shift};
use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::{LANE, TileMachine};
use crate::machine::{At, Pixels, Requantize};

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutputSpec {
    /// The transforms.
    pub form: Form,
    /// Vectors of output channels.
    pub vectors: usize,
    /// Output channels that exist.
    pub channels: usize,
    /// From position to position of the products.
    pub position_step: usize,
    /// In the output, from pixel to pixel.
    pub pixel_step: usize,
    /// In the output, from row to row.
    pub row_step: usize,
    /// What becomes of the accumulators. Their extrema are not taken.
    pub output: Output,
}

impl Emit for OutputSpec {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M) {
        self.emit_loops(m);
    }
}

impl OutputSpec {
    /// Vectors of memory for a panel of so many vectors: the results, and behind them products that are transformed along rows, one vector further on for
    /// each vector.
    pub fn work_vectors(form: Form, vectors: usize) -> usize {
        form.outputs() * vectors + form.rows.outputs() * form.columns.points() + vectors
    }

    pub(super) fn emit_loops<M: TileMachine>(&self, m: &mut M) {
        let (from, bias, mult) = (m.argument(0), m.argument(1), m.argument(2));
        let (output, residual, work) = (m.argument(3), m.argument(4), m.argument(5));
        let residual_rule = match &self.output {
            Output::Requant { epilogue, residual, .. } => {
                m.prepare(epilogue, residual.map(|r| r.mult));
                *residual
            }
            Output::Raw | Output::Measured => None,
        };
        let vector = LANE * m.shape().lanes;
        m.repeat(self.vectors, &mut |m| {
            self.transform(m, [from, bias, work]);
            [from, bias, work].into_iter().for_each(|pointer| m.advance(pointer, vector as i64));
        });
        m.advance(work, -((self.vectors * vector) as i64));
        m.repeat(self.form.rows.outputs(), &mut |m| {
            for column in 0..self.form.columns.outputs() {
                let at = |v: usize| At::new(work).plus((column * self.vectors + v) * vector);
                let pixel: Vec<M::Vector> = (0..self.vectors).map(|v| m.reload(at(v))).collect();
                let offsets = [column * self.pixel_step];
                let residual_offsets = [column * residual_rule.map_or(0, |r| r.pixel_step)];
                let to = Pixels { first: At::new(output), offsets: &offsets };
                let residual = Pixels { first: At::new(residual), offsets: &residual_offsets };
                self.store(m, pixel, At::new(mult), to, residual);
            }
            m.advance(work, (self.form.columns.outputs() * self.vectors * vector) as i64);
            m.advance(output, self.row_step as i64);
            m.advance(residual, residual_rule.map_or(0, |r| r.row_step) as i64);
        });
    }

    /// The accumulators of one vector of channels, into the memory for work.
    fn transform<M: TileMachine>(&self, m: &mut M, [from, bias, work]: [M::Pointer; 3]) {
        let vector = LANE * m.shape().lanes;
        let Form { rows, columns } = self.form;
        let half_done = |row: usize, column: usize| {
            At::new(work).plus((self.form.outputs() * self.vectors + row * columns.points() + column) * vector)
        };
        for column in 0..columns.points() {
            let at = |row: usize| At::new(from).plus((row * columns.points() + column) * self.position_step);
            let products = (0..rows.points()).map(|row| m.reload(at(row))).collect();
            for (row, transformed) in rows.transform_output(m, products).into_iter().enumerate() {
                m.store(transformed, half_done(row, column));
                m.release(transformed);
            }
        }
        let inverse = (self.form.inverse() != 1).then(|| m.splat(self.form.inverse() as i32));
        let bias = m.load(At::new(bias));
        for row in 0..rows.outputs() {
            let products = (0..columns.points()).map(|column| m.reload(half_done(row, column))).collect();
            for (column, result) in columns.transform_output(m, products).into_iter().enumerate() {
                if let Some(inverse) = inverse {
                    m.multiply(result, inverse);
                }
                m.shift_right(result, self.form.shift());
                m.add(result, bias);
                let index = row * columns.outputs() + column;
                m.store(result, At::new(work).plus(index * self.vectors * vector));
                m.release(result);
            }
        }
        inverse.into_iter().chain([bias]).for_each(|constant| m.release(constant));
    }

    /// Stores the accumulators of a pixel, as bytes or as they are.
    fn store<M: TileMachine>(
        &self,
        m: &mut M,
        pixel: Vec<M::Vector>,
        mult: At<M::Pointer>,
        output: Pixels<'_, M::Pointer>,
        from: Pixels<'_, M::Pointer>,
    ) {
        match &self.output {
            Output::Raw | Output::Measured => m.store_raw(&[pixel], output, self.channels),
            Output::Requant { epilogue, residual, acc_bound } => {
                let operands = Requantize {
                    epilogue: *epilogue,
                    fits_shift: fits_shift(epilogue, *acc_bound),
                    mult,
                    output,
                    residual: residual.map(|r| (from, r.mult)),
                    channels: self.channels,
                };
                m.requantize(&[pixel], &operands);
            }
        }
    }
}
