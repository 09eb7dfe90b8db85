//! The kernel of steps that compute each byte from the bytes at the same position.
//!
//! ```text
//! for row in 0..rows, j in 0..run:
//!     output[row * out_step + j] = f(a[row * a_step + j], b[row * b_step + j])
//! ```
//! Constants come as data; where they belong to the positions of a row, one block for each vector of bytes, in the order of
//! widened bytes ([`crate::machine::bytes`]):
//! ```text
//! ScaleChannels  [block] { pairs (M, 0) [vector][lane] i16 x 2, offsets [vector][lane] i32 }
//! Rescale, Add   pairs (Ma, Mb) [lane], offset [lane]
//! Mul            multipliers [vector][copy][lane] i32
//! Lut            the table
//! ```
//! The function, in the System V convention: `fn(a, b, data, output, rows)`. `b` is touched only where there are two operands.
//! Nothing outside the rows' bytes is read or written.

use qcc_num::affine::Affine;
use qcc_num::requant::Epilogue;

use super::assemble::{self, Emit, KernelError};
use crate::machine::bytes::{ByteMachine, Span};
use crate::machine::{At, Pixels, Requantize, VectorShape};
use crate::target::Backend;

/// A kernel. Equal descriptions give equal code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ElementwiseSpec {
    /// Bytes of a row.
    pub run: usize,
    /// From row to row of the first operand.
    pub a_step: usize,
    /// From row to row of the second operand.
    pub b_step: usize,
    /// From row to row of the result.
    pub out_step: usize,
    /// What is computed.
    pub function: Function,
}

/// What is computed of each byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Function {
    /// Limits.
    Clamp {
        /// Least result.
        lo: u8,
        /// Greatest result.
        hi: u8,
    },
    /// A table of 256 entries.
    Lut,
    /// Equation (5) of [`qcc_num::affine`] for one operand; the offset is in the data.
    Rescale(Affine),
    /// The same with factor and offset for each position of a row.
    ScaleChannels(Affine),
    /// Equation (5) for two operands.
    Add(Affine),
    /// The product of two operands without their zero points, requantized.
    Mul {
        /// Zero points.
        zeros: [u8; 2],
        /// The rule.
        epilogue: Epilogue,
    },
}

impl Function {
    /// The results' limits, where they are not the narrowing's own.
    fn limits(&self) -> (u8, u8) {
        match self {
            Function::Clamp { lo, hi } => (*lo, *hi),
            Function::Rescale(rule) | Function::ScaleChannels(rule) | Function::Add(rule) => (rule.lo, rule.hi),
            Function::Lut | Function::Mul { .. } => (0, u8::MAX),
        }
    }
}

/// Data of [`Function::Rescale`] and [`Function::Add`].
pub fn pack_pair(shape: &VectorShape, mults: [i16; 2], offset: i32) -> Vec<u8> {
    let pair = (u32::from(mults[0] as u16) | u32::from(mults[1] as u16) << 16).to_le_bytes();
    [pair, offset.to_le_bytes()].into_iter().flat_map(|lane| lane.repeat(shape.lanes)).collect()
}

/// Data of [`Function::ScaleChannels`].
pub fn pack_channels(shape: &VectorShape, mults: &[i16], offsets: &[i32]) -> Vec<u8> {
    let vector = 4 * shape.lanes;
    let block = |block: usize| {
        let channels: Vec<Option<usize>> = (0..4)
            .flat_map(|v| (0..shape.lanes).map(move |lane| block * vector + shape.channel(4, v, lane, true)))
            .map(|c| (c < mults.len()).then_some(c))
            .collect();
        let lane = |of: &dyn Fn(usize) -> i32| -> Vec<u8> {
            channels.iter().flat_map(|c| c.map_or(0, of).to_le_bytes()).collect()
        };
        [lane(&|c| i32::from(mults[c] as u16)), lane(&|c| offsets[c])].concat()
    };
    (0..mults.len().div_ceil(vector)).flat_map(block).collect()
}

/// Data of [`Function::Mul`].
pub fn pack_multiplier(shape: &VectorShape, mult: i32) -> Vec<u8> {
    let copies = |copy: usize| if copy == 0 { vec![mult; shape.lanes] } else { [mult, 0].repeat(shape.lanes / 2) };
    let vector: Vec<i32> = (0..shape.multiplier_copies()).flat_map(copies).collect();
    vector.repeat(4).into_iter().flat_map(i32::to_le_bytes).collect()
}

/// The kernel as machine code; nothing where the target has none.
pub fn machine_code(spec: &ElementwiseSpec, backend: Backend) -> Result<Option<Vec<u8>>, KernelError> {
    assemble::machine_code(spec, backend)
}

struct Kernel<'a, M: ByteMachine> {
    spec: &'a ElementwiseSpec,
    a: M::Pointer,
    b: M::Pointer,
    data: M::Pointer,
    output: M::Pointer,
    lo: Option<M::Vector>,
    hi: Option<M::Vector>,
    /// The parts of a table.
    table: Vec<M::Vector>,
}

impl Emit for ElementwiseSpec {
    fn emit<M: ByteMachine>(&self, m: &mut M) {
        let vector = 4 * m.shape().lanes;
        let (lo, hi) = self.function.limits();
        let data = m.argument(2);
        let at = |bytes: usize| At::new(data).plus(bytes);
        let table = match self.function {
            Function::Lut => (0..16).map(|part| m.load_part(at(16 * part))).collect(),
            _ => Vec::new(),
        };
        let kernel: Kernel<'_, M> = Kernel {
            spec: self,
            a: m.argument(0),
            b: m.argument(1),
            data,
            output: m.argument(3),
            lo: (lo > 0).then(|| m.splat_byte(lo)),
            hi: (hi < u8::MAX).then(|| m.splat_byte(hi)),
            table,
        };
        if let Function::Mul { epilogue, .. } = &self.function {
            m.prepare(epilogue, None);
        }
        if !self.run.is_multiple_of(vector) {
            m.set_tail(self.run % vector);
        }
        m.repeat_argument(4, &mut |m| kernel.row(m));
    }
}

impl<M: ByteMachine> Kernel<'_, M> {
    fn row(&self, m: &mut M) {
        let spec = self.spec;
        let vector = 4 * m.shape().lanes;
        let (full, tail) = (spec.run / vector, spec.run % vector);
        if full > 0 {
            m.repeat(full, &mut |m| {
                self.block(m, Span::Full, vector);
                self.advance(m, vector as i64, vector as i64, vector as i64, 1);
            });
        }
        if tail > 0 {
            self.block(m, Span::Tail, tail);
        }
        let back = |step: usize| step as i64 - (full * vector) as i64;
        self.advance(m, back(spec.a_step), back(spec.b_step), back(spec.out_step), -(full as i64));
    }

    fn advance(&self, m: &mut M, a: i64, b: i64, output: i64, blocks: i64) {
        m.advance(self.a, a);
        m.advance(self.output, output);
        match self.spec.function {
            Function::Add(_) | Function::Mul { .. } => m.advance(self.b, b),
            Function::ScaleChannels(_) => m.advance(self.data, blocks * 32 * m.shape().lanes as i64),
            Function::Clamp { .. } | Function::Lut | Function::Rescale(_) => {}
        }
    }

    /// One vector of bytes.
    fn block(&self, m: &mut M, span: Span, bytes: usize) {
        let vector = 4 * m.shape().lanes;
        let data = |part: usize| At::new(self.data).plus(part * vector);
        let a = m.load_bytes(At::new(self.a), span);
        let result = match &self.spec.function {
            Function::Clamp { .. } => a,
            Function::Lut => {
                let table = self.table.as_slice().try_into().expect("sixteen parts");
                m.look_up(a, table)
            }
            Function::ScaleChannels(rule) => {
                let pairs = m.widen_pairs(&[(a, 0)]);
                let sums = std::array::from_fn(|v| m.dot_pairs(pairs[v], data(v), data(4 + v)));
                m.narrow(sums, rule)
            }
            Function::Rescale(rule) | Function::Add(rule) => {
                let mut operands = vec![(a, 0)];
                if matches!(self.spec.function, Function::Add(_)) {
                    operands.push((m.load_bytes(At::new(self.b), span), 0));
                }
                let pairs = m.widen_pairs(&operands);
                let sums = pairs.map(|pairs| m.dot_pairs(pairs, data(0), data(1)));
                m.narrow(sums, rule)
            }
            Function::Mul { zeros, epilogue } => {
                let b = m.load_bytes(At::new(self.b), span);
                let products = m.widen_pairs(&[(a, zeros[0])]);
                let factors = m.widen_pairs(&[(b, zeros[1])]);
                for (&product, &factor) in products.iter().zip(&factors) {
                    m.multiply_pairs(product, factor);
                    m.release(factor);
                }
                let operands = Requantize {
                    epilogue: *epilogue,
                    fits_shift: (255 * 255) << u64::from(epilogue.shl) <= i64::from(i32::MAX),
                    mult: data(0),
                    output: Pixels { first: At::new(self.output), offsets: &[0] },
                    residual: None,
                    channels: bytes,
                };
                return m.requantize(&[products.to_vec()], &operands);
            }
        };
        if let Some(lo) = self.lo {
            m.max_bytes(result, lo);
        }
        if let Some(hi) = self.hi {
            m.min_bytes(result, hi);
        }
        m.store_bytes(result, At::new(self.output), span);
    }
}
