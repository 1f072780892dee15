//! The one binary: argv to `podling::cli`, its exit code back.

use std::process::ExitCode;

fn main() -> ExitCode {
    podling::cli::main()
}
