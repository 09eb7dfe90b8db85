//! Who does which units of a job: every thread has a range of its own and takes all of it when it comes; who is through takes
//! from the ranges of threads that have not come yet, half of what is left at a time, from the back.
//!
//! Finer pieces would balance better, but what a thread has computed in one layer it reads in the next from its own caches:
//! with halves claimed by owners too, DenseNet-161 took 10 to 20 % longer on two threads. And they would help little against
//! a system that takes a thread off its core: it does so in the middle of a piece, whatever the size.
//!
//! ```text
//! range = job << 32 | begin << 16 | end      one atomic u64, in granules of as many units as make 2^16 - 1 suffice
//! ```
//! A claim replaces it if it still is what was read, job number included: what a late thread has read of a job that has
//! ended cannot be claimed, unless 2^32 jobs have begun meanwhile and the range is the same again.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most granules of a job.
const GRANULES: usize = u16::MAX as usize;

/// The units of one thread, on a cache line of their own.
#[repr(align(64))]
#[derive(Default)]
struct Lane(AtomicU64);

/// The units of a job that nobody has begun.
pub(super) struct Claims {
    lanes: Vec<Lane>,
}

/// Units of a job in granules.
#[derive(Clone, Copy)]
pub(super) struct Granules {
    n: usize,
    size: usize,
}

impl Granules {
    /// The units `0..n`.
    pub(super) fn new(n: usize) -> Granules {
        Granules { n, size: n.div_ceil(GRANULES).max(1) }
    }

    /// Number of granules.
    pub(super) fn count(self) -> usize {
        self.n.div_ceil(self.size)
    }

    /// The units of some granules.
    pub(super) fn units(self, granules: Range<usize>) -> Range<usize> {
        granules.start * self.size..(granules.end * self.size).min(self.n)
    }
}

/// The share of thread `index` of `threads`: ranges in order that differ by one at most.
pub(super) fn share(n: usize, threads: usize, index: usize) -> Range<usize> {
    let (each, rest) = (n / threads, n % threads);
    let begin = index * each + index.min(rest);
    begin..begin + each + usize::from(index < rest)
}

impl Claims {
    /// Room for so many threads.
    pub(super) fn new(threads: usize) -> Claims {
        Claims { lanes: (0..threads).map(|_| Lane::default()).collect() }
    }

    /// Offers the granules of a job, of which no earlier one may be left; those of thread 0, who calls this, last.
    pub(super) fn offer(&self, job: u32, granules: Granules) {
        let threads = self.lanes.len();
        for (index, lane) in self.lanes.iter().enumerate().rev() {
            lane.0.store(pack(job, share(granules.count(), threads, index)), Ordering::Release);
        }
    }

    /// The job that thread `index` was offered last.
    pub(super) fn offered(&self, index: usize) -> u32 {
        unpack(self.lanes[index].0.load(Ordering::Acquire)).0
    }

    /// Some granules of `job` for thread `index`, or nothing when all have been begun. What was read of the job before this
    /// call is what its caller wrote, if granules are returned.
    pub(super) fn claim(&self, job: u32, index: usize) -> Option<Range<usize>> {
        let threads = self.lanes.len();
        let own = self.lanes.get(index)?.claim(job, true);
        own.or_else(|| (index + 1..index + threads).find_map(|other| self.lanes[other % threads].claim(job, false)))
    }
}

impl Lane {
    fn claim(&self, job: u32, all: bool) -> Option<Range<usize>> {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (of, left) = unpack(seen);
            if of != job || left.is_empty() {
                return None;
            }
            let middle = if all { left.start } else { left.end - left.len().div_ceil(2) };
            let (rest, taken) = (left.start..middle, middle..left.end);
            match self.0.compare_exchange_weak(seen, pack(job, rest), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(taken),
                Err(now) => seen = now,
            }
        }
    }
}

fn pack(job: u32, granules: Range<usize>) -> u64 {
    u64::from(job) << 32 | (granules.start as u64) << 16 | granules.end as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the three fields apart")]
fn unpack(packed: u64) -> (u32, Range<usize>) {
    ((packed >> 32) as u32, usize::from((packed >> 16) as u16)..usize::from(packed as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    #[cfg_attr(miri, ignore = "takes many minutes there")]
    fn one_thread_may_do_it_all() {
        for n in [1, 2, 9, 1000, GRANULES, GRANULES + 1, 1 << 20] {
            for threads in 1..5 {
                let (claims, granules) = (Claims::new(threads), Granules::new(n));
                claims.offer(7, granules);
                let mut done = vec![false; n];
                while let Some(some) = claims.claim(7, threads - 1) {
                    for unit in granules.units(some) {
                        assert!(!std::mem::replace(&mut done[unit], true), "unit {unit} of {n} twice");
                    }
                }
                assert!(done.iter().all(|d| *d), "{n} units, {threads} threads");
            }
        }
    }

    #[test]
    fn a_late_thread_gets_nothing() {
        let claims = Claims::new(2);
        claims.offer(1, Granules::new(10));
        while claims.claim(1, 0).is_some() {}
        claims.offer(2, Granules::new(10));
        assert_eq!(claims.claim(1, 1), None);
        assert_eq!(claims.claim(2, 1), Some(5..10));
        assert_eq!(claims.claim(2, 1), Some(2..5));
        assert_eq!(claims.claim(2, 0), Some(0..2));
    }
}
