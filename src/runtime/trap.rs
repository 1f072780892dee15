//! Says in a few lines why a guest trapped.
//!
//! Owns: the text of [`crate::spec::Exit::Trapped`]: the reason on the first line, then the Wasm backtrace, innermost first, with
//! function names where the module has them. Bounded, because Kubernetes keeps 4 KiB of termination message.

use std::fmt::Write as _;

use wasmtime::{Trap, WasmBacktrace};

/// Longest message, bytes; leaves room in Kubernetes' 4,096 for what the status adds.
const MESSAGE_BYTES_MAX: usize = 3072;

/// Longest name of one frame, bytes: generic Rust and C++ names run to kilobytes.
const FRAME_BYTES_MAX: usize = 160;

/// The reason and the backtrace.
pub(crate) fn message(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => reason(*trap),
        None => cause(error),
    };
    cut(&mut text, MESSAGE_BYTES_MAX / 2);
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        append(&mut text, backtrace);
    }
    cut(&mut text, MESSAGE_BYTES_MAX);
    text
}

/// wasmtime's words, with ours where its are easily misread.
fn reason(trap: Trap) -> String {
    if trap == Trap::UnreachableCodeReached {
        return "unreachable code was executed (a panic or an abort, most often)".to_owned();
    }
    if trap == Trap::StackOverflow {
        return "call stack exhausted (recursion too deep, most often)".to_owned();
    }
    let text = trap.to_string();
    text.strip_prefix("wasm trap: ").map_or(text.clone(), str::to_owned)
}

/// The causes of an error that a host function returned, without the backtrace that wasmtime adds as a context.
fn cause(error: &wasmtime::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    causes.filter(|text| !text.starts_with("error while executing")).collect::<Vec<_>>().join(": ")
}

fn append(text: &mut String, backtrace: &WasmBacktrace) {
    // Its own form begins with a headline; the names in it are demangled.
    for line in backtrace.to_string().lines().skip(1) {
        let mut frame = line.trim().to_owned();
        cut(&mut frame, FRAME_BYTES_MAX);
        let _ = write!(text, "\n  {frame}");
    }
}

/// Shortens `text` to `max` bytes, at the end of a character, and shows that it did.
fn cut(text: &mut String, max: usize) {
    const MARK: &str = "…";
    if text.len() <= max {
        return;
    }
    let mut end = max - MARK.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut text = "ä".repeat(100);
        cut(&mut text, 50);
        assert!(text.len() <= 50 && text.ends_with("ä…"), "{text}");
        let mut short = "short".to_owned();
        cut(&mut short, 50);
        assert_eq!(short, "short");
    }

    #[test]
    fn a_host_functions_error_is_shown_with_its_causes() {
        let error = wasmtime::Error::msg("table is full").context("open a file");
        assert_eq!(message(&error), "open a file: table is full");
    }
}
