//! The clock that all processes share.
//!
//! One rule: it is the kernel's monotonic clock, so what the service writes down and what clients note can be compared.
//! It does not know what is timed.

/// Microseconds since the machine started.
pub fn now_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which is all that the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}
