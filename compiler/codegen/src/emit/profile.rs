//! How long each task of a program takes.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use qcc_runtime::abi::{TaskFn, code};
use qcc_runtime::arena::Arena;
use qcc_runtime::{Pool, RunError, Tensor, TensorRef};

use super::jit::Jit;

/// Scratch of a call, shared between the threads that do units of one task.
struct Frame(*mut c_void);

// SAFETY: units of a task write to disjoint parts of the frame, and tasks are separated by the end of `Pool::for_each`.
unsafe impl Sync for Frame {}

impl Frame {
    fn pointer(&self) -> *mut c_void {
        self.0
    }
}

impl Jit {
    /// Runs the program `rounds` times, task by task, on stored integers: the median time of each task.
    pub fn profile(
        &self,
        inputs: &[TensorRef<'_>],
        rounds: usize,
        pool: Option<&Pool>,
    ) -> Result<Vec<Duration>, RunError> {
        // Checks the inputs against the description.
        self.model.run(inputs)?;
        let info = self.model.info();
        let mut outputs: Vec<Tensor> = info.outputs.iter().map(|o| Tensor::zeros(o.dtype, &o.dims)).collect();
        let mut scratch = Arena::with_align(info.scratch_bytes as usize, info.scratch_align as usize)
            .ok_or(RunError::Code(code::ERR_ALIGN))?;
        let input: Vec<*const c_void> = inputs.iter().map(|t| t.bytes().as_ptr().cast()).collect();
        let output: Vec<*mut c_void> = outputs.iter_mut().map(|t| t.bytes_mut().as_mut_ptr().cast()).collect();
        let frame = Frame(scratch.as_mut_ptr().cast());
        // SAFETY: the tensors are those that the model describes, the scratch has its size and alignment.
        let status = unsafe { (self.run)(input.as_ptr(), output.as_ptr(), frame.pointer()) };
        if status != code::OK {
            return Err(RunError::Code(status));
        }
        let mut times = vec![Vec::with_capacity(rounds); self.tasks.len()];
        for _ in 0..rounds {
            for ((task, &address), times) in self.tasks.iter().zip(&self.addresses).zip(&mut times) {
                // SAFETY: the address is that of a task of this program, and tasks have this signature (`program::step`).
                let function = unsafe { std::mem::transmute::<usize, TaskFn>(address) };
                let start = Instant::now();
                match pool {
                    Some(pool) if task.units > 1 => pool.for_each(task.units, |units| {
                        // SAFETY: the run above left the frame's header as tasks need it; units are disjoint.
                        unsafe { function(frame.pointer(), units.start, units.end) }
                    }),
                    // SAFETY: as above.
                    _ => unsafe { function(frame.pointer(), 0, task.units) },
                }
                times.push(start.elapsed());
            }
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        Ok(times.into_iter().map(median).collect())
    }
}
