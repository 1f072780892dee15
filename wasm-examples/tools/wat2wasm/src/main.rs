//! `wat2wasm IN.wat OUT.wasm`: turns WebAssembly text into a module. Exit codes: 0, or 1 with the reason.

use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        eprintln!("usage: wat2wasm IN.wat OUT.wasm");
        return ExitCode::FAILURE;
    };
    let module = wat::parse_file(input).map_err(|error| error.to_string());
    match module.and_then(|bytes| fs::write(output, bytes).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wat2wasm: {input}: {error}");
            ExitCode::FAILURE
        }
    }
}
