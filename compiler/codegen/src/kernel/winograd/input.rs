//! The kernel that transforms the activations of a tile.
//!
//! ```text
//! to[i * columns + j][c] = sum over (a, b) of B[i][a] * B[j][b] * from[a * row_step + b * pixel_step + c]
//! ```
//! The function, in the System V convention: `fn(from: *const u8, to: *mut i16, work: *mut u8)`, with room for a vector a point at `work`. It reads whole
//! vectors of channels; what lies behind those that exist meets weights that are 0.

use super::form::Form;
use crate::kernel::assemble::Emit;
use crate::machine::At;
use crate::machine::bytes::ByteMachine;
use crate::machine::tiles::TileMachine;

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InputSpec {
    /// The transforms.
    pub form: Form,
    /// Vectors of 16-bit channels.
    pub vectors: usize,
    /// From row to row of activations.
    pub row_step: usize,
    /// From pixel to pixel of activations.
    pub pixel_step: usize,
    /// From position to position of what is stored.
    pub position_step: usize,
}

impl Emit for InputSpec {
    fn emit<M: ByteMachine + TileMachine>(&self, m: &mut M) {
        self.emit_loops(m);
    }
}

impl InputSpec {
    pub(super) fn emit_loops<M: TileMachine>(&self, m: &mut M) {
        let (from, to, work) = (m.argument(0), m.argument(1), m.argument(2));
        let lanes = m.shape().lanes;
        let (vector, channels) = (4 * lanes, 2 * lanes);
        let Form { rows, columns } = self.form;
        let of =
            |base, step: usize, row: usize, column: usize| At::new(base).plus((row * columns.points() + column) * step);
        m.repeat(self.vectors, &mut |m| {
            for column in 0..columns.points() {
                let pixel = |row: usize| At::new(from).plus(row * self.row_step + column * self.pixel_step);
                let pixels = (0..rows.points()).map(|row| m.widened_bytes(pixel(row))).collect();
                for (row, transformed) in rows.transform_input(m, pixels).into_iter().enumerate() {
                    m.store(transformed, of(work, vector, row, column));
                    m.release(transformed);
                }
            }
            for row in 0..rows.points() {
                let pixels = (0..columns.points()).map(|column| m.reload(of(work, vector, row, column))).collect();
                for (column, transformed) in columns.transform_input(m, pixels).into_iter().enumerate() {
                    m.store(transformed, of(to, self.position_step, row, column));
                    m.release(transformed);
                }
            }
            m.advance(from, channels as i64);
            m.advance(to, vector as i64);
        });
    }
}
