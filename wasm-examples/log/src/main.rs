//! Writes logs of every shape.
//!
//! args, in any order: `lines=N` (default 10), `length=BYTES` of each line (default 40), `rate=N` lines a second (default 0:
//! as fast as it can), `to=stdout|stderr|both` (default stdout), and `shape=`
//!   `plain`    numbered lines (default)          `partial`  one line in pieces, 50 ms apart, and no end to the last
//!   `binary`   lines that are not UTF-8          `empty`    empty lines
//!   `silent`   nothing at all
//! env: none. exit codes: 0; 1 when a stream is closed or an argument makes no sense.

use std::io::{self, Write};
use std::time::Duration;
use std::{env, thread};

struct Plan {
    lines: u64,
    length: usize,
    rate: u64,
    to: String,
    shape: String,
}

fn main() -> io::Result<()> {
    let Some(plan) = parse(env::args().skip(1)) else {
        eprintln!("usage: log [lines=N] [length=N] [rate=N] [to=…] [shape=…]");
        return Err(io::ErrorKind::InvalidInput.into());
    };
    for number in 0..plan.lines {
        let line = line(&plan, number);
        if plan.to != "stderr" {
            write(&mut io::stdout(), &line, &plan)?;
        }
        if plan.to != "stdout" {
            write(&mut io::stderr(), &line, &plan)?;
        }
        if let Some(pause) = 1_000_000_u64.checked_div(plan.rate) {
            thread::sleep(Duration::from_micros(pause));
        }
    }
    if plan.shape == "partial" {
        io::stdout().write_all(b"unfinished")?;
        io::stdout().flush()?;
    }
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Option<Plan> {
    let (to, shape) = ("stdout".to_owned(), "plain".to_owned());
    let mut plan = Plan { lines: 10, length: 40, rate: 0, to, shape };
    for argument in arguments {
        let (name, value) = argument.split_once('=')?;
        match name {
            "lines" => plan.lines = value.parse().ok()?,
            "length" => plan.length = value.parse().ok()?,
            "rate" => plan.rate = value.parse().ok()?,
            "to" if ["stdout", "stderr", "both"].contains(&value) => value.clone_into(&mut plan.to),
            "shape" => value.clone_into(&mut plan.shape),
            _ => return None,
        }
    }
    ["plain", "partial", "binary", "empty", "silent"].contains(&plan.shape.as_str()).then_some(plan)
}

fn line(plan: &Plan, number: u64) -> Vec<u8> {
    match plan.shape.as_str() {
        "silent" => Vec::new(),
        "empty" => b"\n".to_vec(),
        "binary" => [b"line \xff\xfe\x80 ", number.to_string().as_bytes(), b"\n"].concat(),
        _ => {
            let mut text = format!("line {number} ").into_bytes();
            text.resize(plan.length.max(text.len()), b'.');
            text.push(b'\n');
            text
        }
    }
}

fn write(stream: &mut dyn Write, line: &[u8], plan: &Plan) -> io::Result<()> {
    let pieces = if plan.shape == "partial" { 3 } else { 1 };
    for piece in line.chunks(line.len().div_ceil(pieces).max(1)) {
        stream.write_all(piece)?;
        stream.flush()?;
        if pieces > 1 {
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}
