use super::*;
use std::sync::atomic::AtomicU32;

#[test]
#[cfg_attr(miri, ignore = "takes many minutes there")]
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

fn is_worker() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("qcc-"))
}

/// Gaps longer than the spin make every thread park and wake again.
#[test]
fn parked_threads_wake() {
    let pool = Pool::new(2).unwrap();
    let sum = AtomicUsize::new(0);
    for _ in 0..20 {
        thread::sleep(SPIN * 3);
        let begun = AtomicBool::new(false);
        pool.for_each(2, |range| {
            if is_worker() {
                begun.store(true, Ordering::SeqCst);
                thread::sleep(SPIN * 3);
            } else {
                while !begun.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            }
            sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
        });
    }
    assert_eq!(sum.into_inner(), 20);
}

/// What nobody has begun is done by who is there: these workers never come.
#[test]
fn a_thread_that_does_not_come_is_not_waited_for() {
    let (send, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let pool = Pool { shared: Arc::new(Shared::new(3)), handles: Vec::new() };
        let sum = AtomicUsize::new(0);
        for n in [2, 3, 16, 1000] {
            pool.for_each(n, |range| _ = sum.fetch_add(range.len(), Ordering::Relaxed));
        }
        let _ = send.send(sum.into_inner());
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(20)), Ok(1021), "the caller waits");
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
