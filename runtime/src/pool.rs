//! A thread pool for calls of a few microseconds: workers spin for a moment between jobs, then park.
//!
//! The units of a job are split into one contiguous range for each thread, and a thread that is through with its own takes
//! from those of threads that have not come yet (`claims`): the caller never waits for a thread that the system has not let
//! run. Starting a job allocates nothing. A job started while another one runs on the same pool (by a second thread, or from
//! inside a task) runs on its caller alone, so that nothing can wait for itself.
//!
//! The order of the shared atomics: the caller writes `job` and `left`, then offers the units; a worker that sees an offer reads
//! the pointer `job`, and follows it once it has claimed units of that offer: until it lowers `left` by them, the caller stays
//! where it is. The caller returns once it reads 0 there.

mod claims;
mod cores;
#[cfg(test)]
mod tests;

use crate::abi::{QccPool, TaskFn};
use claims::{Claims, Granules};
use cores::{NO_CORE, leave_core, tells_core, this_core};
use std::any::Any;
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a waiting thread spins before it parks: longer than the gap between two layers, shorter than a time slice.
const SPIN: Duration = Duration::from_micros(100);

/// What the threads run, on the stack of the caller, who waits until `left` is 0.
/// One cache line for a worker to fetch.
#[repr(align(64))]
struct Job {
    task: TaskFn,
    arg: *mut c_void,
    granules: Granules,
}

/// Where a thread waits, and where it ran last.
#[repr(align(64))]
struct Seat {
    parked: AtomicBool,
    core: AtomicU32,
}

impl Seat {
    fn new() -> Seat {
        Seat { parked: AtomicBool::new(false), core: AtomicU32::new(NO_CORE) }
    }
}

/// Granules that are not done.
#[repr(align(64))]
struct Left(AtomicUsize);

struct Shared {
    threads: usize,
    spin: Duration,
    tells_core: bool,
    /// Number of the job.
    epoch: AtomicU32,
    job: AtomicPtr<Job>,
    claims: Claims,
    left: Left,
    busy: AtomicBool,
    stop: AtomicBool,
    /// Of the caller, then of the workers.
    seats: Vec<Seat>,
    /// The caller that parked last.
    caller: Mutex<Option<Thread>>,
    /// Set once, before the first job.
    workers: std::sync::OnceLock<Vec<Thread>>,
}

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
        let shared = Arc::new(Shared::new(if threads == 0 { cores } else { threads }));
        let threads = shared.threads;
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
            threads: u32::try_from(self.shared.threads).unwrap_or(u32::MAX),
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
        unsafe { self.shared.run(trampoline, (&raw const call).cast_mut().cast(), n) }
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
    unsafe { shared.run(task, arg, n) }
}

impl Job {
    /// # Safety
    /// The granules must have been claimed, and the job's caller must be waiting for them.
    unsafe fn run(&self, granules: Range<usize>) {
        let units = self.granules.units(granules);
        // SAFETY: the caller promised a task for disjoint ranges on several threads.
        unsafe { (self.task)(self.arg, units.start, units.end) }
    }
}

impl Shared {
    fn new(threads: usize) -> Shared {
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        Shared {
            threads,
            // Spinning takes the core away from the thread that is waited for, unless there are enough of them.
            spin: if threads <= cores { SPIN } else { Duration::ZERO },
            tells_core: tells_core(),
            epoch: AtomicU32::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            claims: Claims::new(threads),
            left: Left(AtomicUsize::new(0)),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            seats: (0..threads).map(|_| Seat::new()).collect(),
            caller: Mutex::new(None),
            workers: std::sync::OnceLock::new(),
        }
    }

    /// # Safety
    /// `task` must be callable with `arg` for disjoint ranges from several threads at once until this returns.
    unsafe fn run(&self, task: TaskFn, arg: *mut c_void, n: usize) {
        if n == 0 {
            return;
        }
        let alone = n == 1 || self.threads == 1;
        let taken = || self.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err();
        if alone || taken() {
            // SAFETY: by the caller's promise.
            return unsafe { task(arg, 0, n) };
        }
        let job = Job { task, arg, granules: Granules::new(n) };
        self.job.store((&raw const job).cast_mut(), Ordering::Release);
        self.left.0.store(job.granules.count(), Ordering::Relaxed);
        let epoch = self.epoch.load(Ordering::Relaxed).wrapping_add(1);
        self.epoch.store(epoch, Ordering::Relaxed);
        self.mark(0);
        self.claims.offer(epoch, job.granules);
        fence(Ordering::SeqCst);
        for (seat, worker) in self.seats[1..].iter().zip(self.workers.get().into_iter().flatten()) {
            if seat.parked.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
        let mut done = 0;
        while let Some(some) = self.claims.claim(epoch, 0) {
            done += some.len();
            // SAFETY: by the caller's promise.
            unsafe { job.run(some) }
        }
        if done == job.granules.count() && !self.spin.is_zero() && self.shares_core(0) {
            // Nobody came: a worker that waits for this core moves away as soon as it may run.
            thread::yield_now();
        }
        self.left.0.fetch_sub(done, Ordering::SeqCst);
        self.wait(0, || self.left.0.load(Ordering::SeqCst) == 0);
        self.busy.store(false, Ordering::Release);
    }

    /// The life of a worker.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            let called = || self.claims.offered(index) != seen;
            self.wait(index, || called() || self.stop.load(Ordering::SeqCst));
            if !called() {
                return;
            }
            seen = self.claims.offered(index);
            self.help(index, seen);
        }
    }

    /// Does what is left of job `epoch`, if it still runs.
    fn help(&self, index: usize, epoch: u32) {
        let job = self.job.load(Ordering::Acquire);
        let Some(first) = self.claims.claim(epoch, index) else { return };
        // SAFETY: units of this epoch are claimed and not yet taken off `left`, so its caller still waits, and `job` is what it
        // wrote there: the next caller writes when nothing is left.
        let job = unsafe { &*job };
        self.mark(index);
        let mut done = 0;
        let mut next = Some(first);
        while let Some(some) = next {
            done += some.len();
            // SAFETY: the caller of `run` promised a task for disjoint ranges on several threads.
            unsafe { job.run(some) }
            next = self.claims.claim(epoch, index);
        }
        let last = self.left.0.fetch_sub(done, Ordering::SeqCst) == done;
        fence(Ordering::SeqCst);
        if last && self.seats[0].parked.load(Ordering::SeqCst) {
            // Another caller may have come by now, whom it does not hurt.
            let caller = self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            caller.iter().for_each(Thread::unpark);
        }
    }

    /// Returns once `ready` holds: spins first, then parks. Whoever makes `ready` true must afterwards unpark this thread if
    /// it reads `parked` as true; a fence between the two steps on either side sees to it that one of them sees the other.
    ///
    /// A thread on whose core another one of the pool was seen last lets that one run between two looks; a worker leaves the
    /// core of the caller.
    fn wait(&self, index: usize, ready: impl Fn() -> bool) {
        if !self.spin.is_zero() {
            let start = Instant::now();
            let mut moved = index == 0;
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
                if !moved && self.tells_core && self.seats[0].core.load(Ordering::Relaxed) == this_core() {
                    moved = true;
                    leave_core();
                    self.mark(index);
                } else if self.shares_core(index) {
                    thread::yield_now();
                }
            }
        }
        if index == 0 {
            *self.caller.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(thread::current());
        }
        let parked = &self.seats[index].parked;
        parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !ready() {
            thread::park();
        }
        parked.store(false, Ordering::SeqCst);
    }

    /// Notes where a thread runs.
    fn mark(&self, index: usize) {
        if self.tells_core {
            self.seats[index].core.store(this_core(), Ordering::Relaxed);
        }
    }

    fn shares_core(&self, index: usize) -> bool {
        let on = |core: u32| {
            move |(other, seat): (usize, &Seat)| other != index && seat.core.load(Ordering::Relaxed) == core
        };
        self.tells_core && self.seats.iter().enumerate().any(on(this_core()))
    }
}
