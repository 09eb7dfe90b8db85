//! How an evaluation computes: its threads, and the float buffers it uses again.

use std::cell::RefCell;

use qcc_ir::Diag;
use rayon::prelude::*;

/// Buffers kept for later use; more than a graph's widest point needs would only hold memory.
const KEPT: usize = 16;

/// State of one run. Values that are dead give their memory back here, so that a run touches fresh pages only while its
/// live values grow.
pub(crate) struct Context {
    threads: usize,
    free: RefCell<Vec<Vec<f32>>>,
}

impl Context {
    /// A context that computes on `threads` threads of the current rayon pool; 1 never enters rayon.
    pub(crate) fn new(threads: usize) -> Context {
        Context { threads: threads.max(1), free: RefCell::new(Vec::new()) }
    }

    /// Calls `f` with each chunk of `length` elements and its number, the chunks split evenly over the threads.
    pub(crate) fn try_chunks<T: Send>(
        &self,
        data: &mut [T],
        length: usize,
        f: impl Fn(usize, &mut [T]) -> Result<(), Diag> + Sync,
    ) -> Result<(), Diag> {
        let length = length.max(1);
        let share = data.len().div_ceil(length).div_ceil(self.threads).max(1);
        let part = |(p, part): (usize, &mut [T])| {
            part.chunks_mut(length).enumerate().try_for_each(|(i, chunk)| f(p * share + i, chunk))
        };
        if self.threads == 1 {
            return data.chunks_mut(share * length).enumerate().try_for_each(part);
        }
        data.par_chunks_mut(share * length).enumerate().try_for_each(part)
    }

    /// [`Context::try_chunks`] for what cannot fail.
    pub(crate) fn chunks<T: Send>(&self, data: &mut [T], length: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let infallible = self.try_chunks(data, length, |i, chunk| {
            f(i, chunk);
            Ok(())
        });
        debug_assert!(infallible.is_ok());
    }

    /// How the matrix product is to compute.
    pub(crate) fn parallelism(&self) -> gemm_common::Parallelism {
        if self.threads == 1 { gemm_common::Parallelism::None } else { gemm_common::Parallelism::Rayon(self.threads) }
    }

    /// An empty buffer for at least `capacity` floats: the smallest free one that is large enough.
    pub(crate) fn empty(&self, capacity: usize) -> Vec<f32> {
        let mut free = self.free.borrow_mut();
        let fits = free.iter().enumerate().filter(|(_, b)| b.capacity() >= capacity);
        match fits.min_by_key(|(_, b)| b.capacity()).map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => Vec::with_capacity(capacity),
        }
    }

    /// A buffer of `length` floats, all `value`.
    pub(crate) fn filled(&self, length: usize, value: f32) -> Vec<f32> {
        let mut buffer = self.empty(length);
        buffer.resize(length, value);
        buffer
    }

    /// Takes back a buffer that is no longer needed.
    pub(crate) fn recycle(&self, mut buffer: Vec<f32>) {
        let mut free = self.free.borrow_mut();
        buffer.clear();
        if free.len() < KEPT {
            free.push(buffer);
        } else if let Some(least) = free.iter_mut().min_by_key(|b| b.capacity())
            && least.capacity() < buffer.capacity()
        {
            *least = buffer;
        }
    }
}
