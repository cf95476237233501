//! The processor's time stamp counter, for measurements.
//!
//! It counts at a fixed rate whatever the core's clock does, so it is a fine clock and no count of the core's own cycles.

/// The counter now, or `None` where there is none that can be read from user space without a system call.
///
/// Reads may be executed out of order with what stands around them by some tens of cycles: good for spans of microseconds and more.
#[inline]
pub fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the instruction reads a register and touches no memory. It could only fault where a kernel has forbidden it to
        // the process (`prctl(PR_SET_TSC)`), which is then a clean SIGSEGV.
        Some(unsafe { std::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        None
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn it_counts_up_while_time_passes() {
        let before = super::ticks().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        // The slowest counters of x86-64 servers run at more than half a gigahertz.
        assert!(super::ticks().unwrap() - before > 1_000_000);
    }
}
