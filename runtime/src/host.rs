//! Threads of the host's own as the pool of a call.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::abi::{QccPool, TaskFn};

/// Parts into which a job is split for each thread, so that one which comes late leaves its share to others.
const PARTS: usize = 4;

/// Calls what it is given on threads of the host's, as often as it likes, and returns when all calls have ended.
type Broadcast<'m> = dyn Fn(&(dyn Fn() + Sync)) + Send + Sync + 'm;

/// What a session keeps of the host's threads.
pub(crate) struct HostThreads<'m> {
    threads: u32,
    broadcast: Box<Broadcast<'m>>,
    /// What `broadcast` panicked with, until the model's code has been left.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A job of the model, whose parts go to whoever comes.
struct Job {
    task: TaskFn,
    arg: *mut c_void,
    n: usize,
    part: usize,
    next: AtomicUsize,
}

// SAFETY: a task may run on any thread, which is what `parallel_for` is for.
unsafe impl Sync for Job {}

impl Job {
    /// Does parts until none is left.
    fn work(&self) {
        loop {
            let begin = self.next.fetch_add(self.part, Ordering::Relaxed);
            if begin >= self.n {
                return;
            }
            // SAFETY: units of the job, each claimed once; `parallel_for` lets the job end after all calls of this.
            unsafe { (self.task)(self.arg, begin, self.n.min(begin + self.part)) };
        }
    }
}

impl<'m> HostThreads<'m> {
    pub(crate) fn new(threads: usize, broadcast: impl Fn(&(dyn Fn() + Sync)) + Send + Sync + 'm) -> HostThreads<'m> {
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        HostThreads { threads, broadcast: Box::new(broadcast), panic: Mutex::new(None) }
    }

    /// The pool as the model's code takes it. It may be used as long as this stays where it is.
    pub(crate) fn as_abi(&self) -> QccPool {
        QccPool {
            ctx: (&raw const *self).cast_mut().cast(),
            threads: self.threads,
            reserved: 0,
            parallel_for: Some(parallel_for),
        }
    }

    /// Goes on with a panic of the host's, once the model's code has been left.
    pub(crate) fn resume_panic(&self) {
        if let Some(panic) = self.panic.lock().unwrap_or_else(|e| e.into_inner()).take() {
            resume_unwind(panic);
        }
    }
}

/// The host's function as C calls it.
unsafe extern "C" fn parallel_for(ctx: *mut c_void, task: TaskFn, arg: *mut c_void, n: usize) {
    // SAFETY: the context of `as_abi`.
    let host = unsafe { &*ctx.cast::<HostThreads<'_>>() };
    let threads = usize::try_from(host.threads).unwrap_or(1);
    let part = n.div_ceil(threads.saturating_mul(PARTS)).max(1);
    let job = Job { task, arg, n, part, next: AtomicUsize::new(0) };
    // No panic may leave a function of C.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (host.broadcast)(&|| job.work()))) {
        *host.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
    }
    // What nobody came for.
    job.work();
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn count(arg: *mut c_void, begin: usize, end: usize) {
        // SAFETY: the counters of `counted`.
        let counters = unsafe { &*arg.cast::<Vec<AtomicUsize>>() };
        counters[begin..end].iter().for_each(|c| {
            c.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// How often each unit of a job ran.
    fn counted(host: &HostThreads<'_>, n: usize) -> Vec<usize> {
        let mut counters: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        let pool = host.as_abi();
        // SAFETY: the counters outlive the call.
        unsafe { parallel_for(pool.ctx, count, (&raw mut counters).cast(), n) };
        counters.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_unit_runs_once_however_often_work_is_called() {
        for calls in [0, 1, 2, 7] {
            let host = HostThreads::new(3, move |work| {
                std::thread::scope(|scope| (0..calls).for_each(|_| drop(scope.spawn(work))));
            });
            for n in [0, 1, 2, 11, 12, 13, 1000] {
                assert_eq!(counted(&host, n), vec![1; n], "{calls} calls, {n} units");
            }
        }
    }

    #[test]
    fn a_panic_waits_until_the_model_has_been_left() {
        let host = HostThreads::new(2, |_| panic!("of the host"));
        assert_eq!(counted(&host, 5), vec![1; 5]);
        let panic = catch_unwind(AssertUnwindSafe(|| host.resume_panic())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the host"));
        host.resume_panic();
    }
}
