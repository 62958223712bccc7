//! The operating system's clock and entropy, answered by the simulation.
//!
//! Libraries below ours ask the C library directly: hash maps for their keys, HTTP/2 for the age of a stream, openraft and
//! the client for random numbers. Defining these two functions in the binary takes the place of the C library's for every
//! one of them, which is why it happens here, in a binary of its own, and on one thread only: other threads, and this one
//! before the simulation begins, get the kernel's answers.

#![allow(unsafe_code)]

use parking_lot::Mutex;
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use tidemark_simulation::time;

static ENTROPY: Mutex<Option<ChaCha8Rng>> = Mutex::new(None);

/// From now on this thread's entropy comes from there, and its time from the simulation.
pub fn simulate(entropy: ChaCha8Rng) {
    *ENTROPY.lock() = Some(entropy);
    time::simulate_this_thread();
}

/// CPU time of this process, milliseconds: from the kernel in any case.
pub fn cpu_ms() -> u64 {
    let mut spent = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut spent) };
    spent.tv_sec as u64 * 1_000 + spent.tv_nsec as u64 / 1_000_000
}

/// # Safety
/// As of the C library's function: `out` points to a timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => time::EPOCH_SECONDS,
        // Not zero: a moment before the start must be representable.
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_BOOTTIME => {
            1_000_000
        }
        _ => 0,
    };
    if base == 0 || !time::is_simulated() {
        // SAFETY: the caller's promise is the kernel's condition.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as libc::c_int;
    }
    let elapsed = time::elapsed();
    let answer = libc::timespec {
        tv_sec: (base + elapsed.as_secs()) as libc::time_t,
        tv_nsec: libc::c_long::from(elapsed.subsec_nanos() as i32),
    };
    // SAFETY: the caller's promise.
    unsafe { out.write(answer) };
    0
}

/// # Safety
/// As of the C library's function: `buffer` points to `bytes` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, bytes: usize, flags: libc::c_uint) -> libc::ssize_t {
    if time::is_simulated()
        && let Some(entropy) = &mut *ENTROPY.lock()
        && !buffer.is_null()
    {
        // SAFETY: the caller's promise.
        entropy.fill_bytes(unsafe { std::slice::from_raw_parts_mut(buffer, bytes) });
        return bytes as libc::ssize_t;
    }
    // SAFETY: the caller's promise is the kernel's condition.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, bytes, flags) as libc::ssize_t }
}
