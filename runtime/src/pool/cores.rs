//! The core that a thread runs on: asked without a call, and left for another one.

/// No core's number.
pub const NO_CORE: u32 = u32::MAX;

/// Whether [`this_core`] works.
pub fn tells_core() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
    {
        // `rdtscp` has a bit of the extended features.
        let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
        highest > 0x8000_0000 && std::arch::x86_64::__cpuid(0x8000_0001).edx >> 27 & 1 == 1
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
    false
}

/// The core that this thread runs on, where the system tells it without a call ([`tells_core`]).
pub fn this_core() -> u32 {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
    {
        let mut core = NO_CORE;
        // SAFETY: callers know that the CPU has the instruction.
        unsafe { std::arch::x86_64::__rdtscp(&mut core) };
        core
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
    NO_CORE
}

/// Moves this thread to another of the cores that it may use, if there is one: a system that wakes it where it ran last may
/// leave it there, behind the thread that woke it, for as long as that one runs.
pub fn leave_core() {
    #[cfg(target_os = "linux")]
    // SAFETY: the sets are plain bits of the size that is told, and 0 stands for the calling thread.
    unsafe {
        const SIZE: usize = size_of::<libc::cpu_set_t>();
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, SIZE, &mut may) != 0 {
            return;
        }
        let mut others = may;
        if let Ok(core) = usize::try_from(libc::sched_getcpu()) {
            libc::CPU_CLR(core, &mut others);
        }
        // What it may use stays what it was: it is only moved.
        if libc::CPU_COUNT(&others) > 0 && libc::sched_setaffinity(0, SIZE, &others) == 0 {
            libc::sched_setaffinity(0, SIZE, &may);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "inline assembly")]
    fn a_thread_moves_to_another_core() {
        if !tells_core() || std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
            return;
        }
        let moves = || {
            let before = this_core();
            leave_core();
            this_core() != before
        };
        assert!((0..100).any(|_| moves()));
    }
}
