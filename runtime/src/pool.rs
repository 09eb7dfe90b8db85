//! A thread pool for calls of a few microseconds: workers spin for a moment between jobs, then park.
//!
//! A job of `n` units is split statically into one contiguous range for each thread, and the caller takes the first. Starting a
//! job allocates nothing. A job started while another one runs on the same pool (by a second thread, or from inside a task)
//! runs on its caller alone, so that nothing can wait for itself.
//!
//! The order of the three shared words: the caller writes `job` and `pending`, then raises `epoch` (release); a worker that
//! sees the new epoch (acquire) reads `job`, works, and lowers `pending` (release); the caller returns once it reads 0 (acquire).

use crate::abi::{QccPool, TaskFn};
use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a waiting thread spins before it parks: longer than the gap between two layers, shorter than a time slice.
const SPIN: Duration = Duration::from_micros(100);

/// What the workers run. Valid from the raise of `epoch` until `pending` is 0.
#[derive(Clone, Copy)]
struct Job {
    task: TaskFn,
    arg: *mut c_void,
    n: usize,
}

/// Where a worker sleeps.
struct Seat {
    parked: AtomicBool,
}

struct Shared {
    threads: usize,
    spin: Duration,
    epoch: AtomicUsize,
    pending: AtomicUsize,
    busy: AtomicBool,
    stop: AtomicBool,
    caller_parked: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    caller: UnsafeCell<Option<Thread>>,
    seats: Vec<Seat>,
    /// Set once, before the first job.
    workers: std::sync::OnceLock<Vec<Thread>>,
}

// SAFETY: `job` and `caller` are written only by the thread that holds `busy`, while no worker runs, and read by workers only
// between the raise of `epoch` and their own decrement of `pending`. The job's pointers are the caller's, who waits for its end.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointers in `job` are not touched when the structure moves.
unsafe impl Send for Shared {}

/// A fixed number of threads that share the work of one call at a time. Dropping it ends and joins its workers.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included; 0 means one for each core that the process may use.
    ///
    /// Fails if the system refuses to start a thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { cores } else { threads };
        let shared = Arc::new(Shared {
            threads,
            // Spinning takes the core away from the thread that is waited for, unless there are enough of them.
            spin: if threads <= cores { SPIN } else { Duration::ZERO },
            epoch: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            caller_parked: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
            seats: (1..threads).map(|_| Seat { parked: AtomicBool::new(false) }).collect(),
            workers: std::sync::OnceLock::new(),
        });
        // Built first, so that an early return still stops and joins the workers that did start.
        let mut pool = Pool { shared, handles: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("qcc-{index}")).spawn(move || shared.work(index))?;
            pool.handles.push(worker);
        }
        let _ = pool.shared.workers.set(pool.handles.iter().map(|h| h.thread().clone()).collect());
        Ok(pool)
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// The pool as the C ABI sees it. It must not be used after the pool is dropped.
    pub fn as_abi(&self) -> QccPool {
        QccPool {
            ctx: Arc::as_ptr(&self.shared).cast_mut().cast(),
            threads: self.shared.threads as u32,
            reserved: 0,
            parallel_for: Some(parallel_for),
        }
    }

    /// Calls `body` for disjoint ranges that cover `0..n`, on all threads. A panic in `body` reaches the caller after every
    /// range has ended.
    pub fn for_each(&self, n: usize, body: impl Fn(Range<usize>) + Sync) {
        struct Call<'a> {
            body: &'a (dyn Fn(Range<usize>) + Sync),
            panic: Mutex<Option<Box<dyn Any + Send>>>,
        }
        unsafe extern "C" fn trampoline(arg: *mut c_void, begin: usize, end: usize) {
            // SAFETY: `arg` is the `Call` below, which outlives the job.
            let call = unsafe { &*arg.cast::<Call>() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (call.body)(begin..end)))
                && let Ok(mut slot) = call.panic.lock()
            {
                slot.get_or_insert(panic);
            }
        }
        let call = Call { body: &body, panic: Mutex::new(None) };
        // SAFETY: the task shares `call` between threads only by `&`, and `Call` is `Sync`.
        unsafe { self.shared.run(Job { task: trampoline, arg: (&raw const call).cast_mut().cast(), n }) }
        if let Some(panic) = call.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.handles.drain(..) {
            worker.thread().unpark();
            // A worker cannot panic: tasks are C functions, which end the process instead.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// [`crate::abi::ParallelForFn`] of [`Pool::as_abi`].
unsafe extern "C" fn parallel_for(ctx: *mut c_void, task: TaskFn, arg: *mut c_void, n: usize) {
    // SAFETY: `ctx` is the `Shared` of a pool that is alive, by the contract of `as_abi`.
    let shared = unsafe { &*ctx.cast_const().cast::<Shared>() };
    // SAFETY: the caller of a `parallel_for` gives a task that may run on several threads at once.
    unsafe { shared.run(Job { task, arg, n }) }
}

/// The units of thread `index` of `threads`: ranges in order that differ by one unit at most.
fn share(n: usize, threads: usize, index: usize) -> Range<usize> {
    let (each, rest) = (n / threads, n % threads);
    let begin = index * each + index.min(rest);
    begin..begin + each + usize::from(index < rest)
}

impl Shared {
    /// # Safety
    /// `job.task` must be callable with `job.arg` for disjoint ranges from several threads at once until this returns.
    unsafe fn run(&self, job: Job) {
        if job.n == 0 {
            return;
        }
        let alone = job.n == 1 || self.threads == 1;
        let taken = || self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err();
        if alone || taken() {
            // SAFETY: by the caller's promise.
            return unsafe { (job.task)(job.arg, 0, job.n) };
        }
        // SAFETY: `busy` is ours and `pending` is 0, so no other thread reads or writes the cells.
        unsafe {
            *self.job.get() = Some(job);
            *self.caller.get() = Some(thread::current());
        }
        self.pending.store(self.threads - 1, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for (seat, worker) in self.seats.iter().zip(self.workers.get().into_iter().flatten()) {
            if seat.parked.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
        let own = share(job.n, self.threads, 0);
        // SAFETY: by the caller's promise.
        unsafe { (job.task)(job.arg, own.start, own.end) }
        self.wait(&self.caller_parked, || self.pending.load(Ordering::SeqCst) == 0);
        self.busy.store(false, Ordering::Release);
    }

    /// The life of a worker.
    fn work(&self, index: usize) {
        let Some(seat) = self.seats.get(index - 1) else { return };
        let mut seen = 0;
        loop {
            let called = || self.epoch.load(Ordering::SeqCst) != seen;
            self.wait(&seat.parked, || called() || self.stop.load(Ordering::SeqCst));
            if !called() {
                return;
            }
            seen = seen.wrapping_add(1);
            // SAFETY: the epoch was raised and this worker has not lowered `pending` yet, so the cells hold still.
            let (job, caller) = unsafe { (*self.job.get(), (*self.caller.get()).clone()) };
            if let Some(job) = job {
                let own = share(job.n, self.threads, index);
                if !own.is_empty() {
                    // SAFETY: the caller of `run` promised a task for disjoint ranges on several threads.
                    unsafe { (job.task)(job.arg, own.start, own.end) }
                }
            }
            let last = self.pending.fetch_sub(1, Ordering::SeqCst) == 1;
            if last
                && self.caller_parked.load(Ordering::SeqCst)
                && let Some(caller) = caller
            {
                caller.unpark();
            }
        }
    }

    /// Returns once `ready` holds: spins first, then parks. Whoever makes `ready` true must afterwards unpark this thread if
    /// it reads `parked` as true; both orders of these two steps are safe because all four accesses are sequentially consistent.
    fn wait(&self, parked: &AtomicBool, ready: impl Fn() -> bool) {
        if !self.spin.is_zero() {
            let start = Instant::now();
            loop {
                for _ in 0..64 {
                    if ready() {
                        return;
                    }
                    std::hint::spin_loop();
                }
                if start.elapsed() > self.spin {
                    break;
                }
            }
        }
        parked.store(true, Ordering::SeqCst);
        while !ready() {
            thread::park();
        }
        parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn shares_cover_every_unit_once() {
        for n in 0..40 {
            for threads in 1..9 {
                let all: Vec<usize> = (0..threads).flat_map(|t| share(n, threads, t)).collect();
                assert!(all.iter().copied().eq(0..n), "{n} over {threads}");
            }
        }
    }

    #[test]
    fn every_unit_runs_once_at_any_thread_count() {
        for threads in 1..=8 {
            let pool = Pool::new(threads).unwrap();
            for n in [0, 1, 2, 3, 7, 8, 100] {
                let hits: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
                for _ in 0..50 {
                    pool.for_each(n, |range| {
                        range.for_each(|i| {
                            hits[i].fetch_add(1, Ordering::Relaxed);
                        })
                    });
                }
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 50), "{n} units on {threads} threads");
            }
        }
    }

    /// Gaps longer than the spin make every thread park and wake again.
    #[test]
    fn parked_threads_wake() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..20 {
            thread::sleep(SPIN * 3);
            pool.for_each(2, |range| {
                if range.start == 1 {
                    thread::sleep(SPIN * 3);
                }
                sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 20);
    }

    #[test]
    fn nested_and_concurrent_jobs_finish() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.for_each(3, |outer| {
                            for _ in outer {
                                pool.for_each(5, |inner| {
                                    sum.fetch_add(inner.len(), Ordering::Relaxed);
                                });
                            }
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 3 * 5);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(4).unwrap();
        for unit in [0, 3] {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(4, |range| assert!(!range.contains(&unit), "unit {unit}"));
            }));
            let message = panic.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(*message, format!("unit {unit}"));
        }
        let sum = AtomicUsize::new(0);
        pool.for_each(4, |range| {
            sum.fetch_add(range.len(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4);
    }

    #[test]
    fn the_c_view_runs_tasks() {
        unsafe extern "C" fn add(arg: *mut c_void, begin: usize, end: usize) {
            // SAFETY: the test passes an `AtomicUsize`.
            let sum = unsafe { &*arg.cast::<AtomicUsize>() };
            sum.fetch_add((begin..end).sum(), Ordering::Relaxed);
        }
        let pool = Pool::new(2).unwrap();
        let abi = pool.as_abi();
        let sum = AtomicUsize::new(0);
        // SAFETY: the pool is alive, and `add` may run on several threads at once.
        unsafe { abi.parallel_for.unwrap()(abi.ctx, add, (&raw const sum).cast_mut().cast(), 101) }
        assert_eq!((abi.threads, sum.into_inner()), (2, 5050));
    }
}
