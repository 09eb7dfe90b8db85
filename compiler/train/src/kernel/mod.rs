//! Integer operators with their derivatives: one file for each kind.
//!
//! A kernel computes the codes of `batch` samples at once, bit for bit those of `qcc_interp`, and remembers of each code that it rounded
//! how far the unrounded number was, or that it was cut off ([`Rounded`]). Backwards it goes by *codes*: the gradient of a value is the derivative of the loss by
//! its integers, as if nothing were rounded (the straight-through estimator, Bengio et al. 2013, section 4); what was cut off has none. No kernel needs
//! scales: they are in the multipliers.
//!
//! | operators | module |
//! |---|---|
//! | `int.qconv2d`, `int.qlinear`, `int.conv2d`, `int.linear` | [`product`] |
//! | `int.add`, `int.mul`, `int.rescale`, `int.scale_channels` | [`sum`] |
//! | `int.lut`, `int.clamp` | [`function`] |
//! | `int.max_pool`, `int.average_pool`, `int.mean` | [`pool`] |
//! | `int.qmatmul` | [`matmul`] |
//! | `int.softmax`, `int.byte`, `int.combine` | [`reference`] |
//! | `tensor.*` | [`moves`] |
//!
//! All others are evaluated by `qcc_interp`, sample by sample, and have no derivative: nothing that trains may lie before them.

mod function;
mod matmul;
mod moves;
mod patches;
mod pool;
mod product;
mod reference;
mod rounding;
mod sum;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use qcc_ir::ops::{IntOp, Move};
use qcc_ir::{Attrs, Class, Data, Diag, Opcode, Tensor, Type};

pub(crate) use product::ParameterGradient;

/// 64ths of a unit that a number which was cut off is marked with: below the least code, above the greatest.
pub(crate) const BELOW: i8 = i8::MIN;
pub(crate) const ABOVE: i8 = i8::MAX;

/// Codes of `batch` samples, one behind the other.
#[derive(Debug, Clone)]
pub(crate) struct Rounded {
    pub(crate) codes: Data,
    /// What was rounded: the unrounded number less the code, in 64ths, or [`BELOW`] or [`ABOVE`].
    pub(crate) errors: Option<Vec<i8>>,
}

impl Rounded {
    /// Codes that are results of no rounding.
    pub(crate) fn exact(codes: Data) -> Rounded {
        Rounded { codes, errors: None }
    }
}

/// An operand: of each sample its own, or the same for all.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Codes<'a> {
    Samples(&'a Data),
    Constant(&'a Tensor),
}

/// A node with the types of what it reads and gives, for one sample.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) op: Opcode,
    pub(crate) attrs: Attrs,
    pub(crate) operands: Vec<(Option<Arc<Tensor>>, Type)>,
    pub(crate) result: Type,
    /// Zero point of the first operand.
    pub(crate) zero: u8,
    /// Number of the layer whose weights it has.
    pub(crate) layer: Option<usize>,
}

/// What a kernel works with in one run.
pub(crate) struct Call<'a> {
    pub(crate) batch: usize,
    pub(crate) operands: &'a [Codes<'a>],
    pub(crate) workspace: &'a Workspace,
}

impl<'a> Call<'a> {
    /// Bytes of an operand of all samples.
    pub(crate) fn bytes(&self, i: usize) -> Option<&'a [u8]> {
        match self.operands[i] {
            Codes::Samples(Data::U8(v)) => Some(v),
            _ => None,
        }
    }
}

/// What a kernel goes back with.
pub(crate) struct Backward<'a> {
    /// Derivative by the codes of the result; 0 where they were cut off.
    pub(crate) gradient: &'a [f32],
    pub(crate) result: &'a Rounded,
    /// Which operands' derivatives are wanted.
    pub(crate) wanted: &'a [bool],
    /// Derivatives by the parameters of layers, by their numbers.
    pub(crate) parameters: &'a mut [ParameterGradient],
}

/// Runs a loop with the widest vectors that the CPU has; each element has the same bits as without. What is to be compiled for them is
/// inlined always, and so no closure.
pub(crate) fn vectorized<W: pulp::NullaryFnOnce>(work: W) -> W::Output {
    pulp::Arch::new().dispatch(work)
}

/// An integer operator of one node.
pub(crate) trait Kernel: Send + Sync {
    /// The result of all samples.
    fn forward(&self, call: &Call) -> Result<Rounded, Diag>;

    /// Derivatives by the codes of the operands, of those that are wanted; those of parameters are added.
    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>>;

    /// Whether there is a derivative at all.
    fn has_gradient(&self) -> bool {
        true
    }

    /// Floats of scratch memory that a run takes for so many samples.
    fn scratch(&self, batch: usize) -> usize {
        let _ = batch;
        0
    }
}

/// The kernel of a node.
pub(crate) fn kernel(site: Site) -> Result<Box<dyn Kernel>, Diag> {
    let bytes = site.operands.iter().all(|(c, ty)| c.is_some() || ty.elem.storage() == Some(qcc_ir::Int::U8));
    let own: Option<Box<dyn Kernel>> = match site.op.info().class {
        Class::Int(IntOp::QConv2d | IntOp::QLinear | IntOp::Conv2d | IntOp::Linear) if bytes => {
            product::Product::new(&site).map(|k| Box::new(k) as _)
        }
        Class::Int(IntOp::Add | IntOp::Mul) if bytes => sum::TwoOperands::new(&site).map(|k| Box::new(k) as _),
        Class::Int(IntOp::Rescale | IntOp::ScaleChannels) if bytes => sum::Line::new(&site).map(|k| Box::new(k) as _),
        Class::Int(IntOp::Lut | IntOp::Clamp) if bytes => function::Table::new(&site).map(|k| Box::new(k) as _),
        Class::Int(IntOp::MaxPool) if bytes => pool::Greatest::new(&site).map(|k| Box::new(k) as _),
        Class::Int(IntOp::AveragePool | IntOp::Mean) if bytes => pool::Mean::new(&site).map(|k| Box::new(k) as _),
        Class::Int(IntOp::QMatMul) if bytes => matmul::Matrices::new(&site).map(|k| Box::new(k) as _),
        Class::Move(
            Move::Reshape | Move::Transpose | Move::Concat | Move::Slice | Move::Pad | Move::Gather | Move::Expand,
        ) => moves::Moved::new(&site)?.map(|k| Box::new(k) as _),
        _ => None,
    };
    Ok(own.unwrap_or_else(|| Box::new(reference::Reference::new(site))))
}

/// Memory of real numbers that is used again, on one thread.
#[derive(Debug, Default)]
pub(crate) struct Workspace(RefCell<Vec<Vec<f32>>>);

/// Buffers that are kept.
const KEPT: usize = 12;

impl Workspace {
    /// A buffer of `length` numbers that have to be written before they are read.
    pub(crate) fn buffer(&self, length: usize) -> Vec<f32> {
        let mut free = self.0.borrow_mut();
        let fits = free.iter().enumerate().filter(|(_, b)| b.capacity() >= length);
        let mut buffer = match fits.min_by_key(|(_, b)| b.capacity()).map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => Vec::with_capacity(length),
        };
        buffer.truncate(length);
        buffer.resize(length, 0.0);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Vec<f32>) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer);
        } else if let Some(least) = free.iter_mut().min_by_key(|b| b.capacity())
            && least.capacity() < buffer.capacity()
        {
            *least = buffer;
        }
    }
}
