//! The one binary: argv to `podling::cli`, its exit code back. And the allocator of the whole process, with what it is told before
//! anything is allocated.

use std::ffi::{c_int, c_long};
use std::process::ExitCode;

fn main() -> ExitCode {
    podling::cli::main()
}

/// A thread's memory is its own, and what another thread frees comes back without a lock: guests' threads and the control plane's
/// free what the others allocated all the time. musl's allocator has one lock for all of them, glibc's one for a few.
/// `docs/performance.md` has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's numbers of its options (`mi_option_e` of its third version), of which the crate names only a few.
const ARENA_EAGER_COMMIT: c_int = 4;
const ARENA_RESERVE: c_int = 23;

/// What a small board wants otherwise than mimalloc by itself. Whoever starts the program can still say it differently
/// (`MIMALLOC_ARENA_RESERVE` and the like).
const OPTIONS: [(c_int, c_long); 2] = [
    // What is reserved becomes accessible as it is used, 64 KiB at a time. Else the kernel would put huge pages where a few
    // kilobytes are, wherever it gives them to everybody: 9 MiB of an idle daemon.
    (ARENA_EAGER_COMMIT, 0),
    // KiB to reserve at a time. By itself it is a gigabyte, as much as a child that compiles may have in all (`runtime::compile`) and
    // more than many an `ulimit -v`. mimalloc rounds this up to 64 MiB (16 MiB where addresses have 32 bits), the least that it can.
    (ARENA_RESERVE, 8 << 10),
];

/// The loader calls it before `main`, where it would be too late: Rust's own start has allocated by then.
#[used]
#[allow(unsafe_code, reason = "there is no other way to run before the standard library's start")]
// SAFETY: what stands in this section are functions without arguments, called once, by the only thread.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = set_options;

extern "C" fn set_options() {
    for (option, value) in OPTIONS {
        #[allow(unsafe_code, reason = "mimalloc's options have no safe wrapper")]
        // SAFETY: it sets an integer in a table, checks the index, and allocates nothing; there is one thread.
        unsafe {
            libmimalloc_sys::mi_option_set_default(option, value);
        }
    }
}
