//! A fixed amount of mixed work, of the kind a small data service does: for measuring what metering costs.
//!
//! One round fills an ordered table with rows, indexes it, answers range queries, writes the answers as JSON, parses them
//! back, compresses the text by back-references, and hashes the result: branches, calls, allocation and memory traffic in
//! about the mix of an embedded database, not one tight loop.
//!
//! args: `bench-cpu [ROUNDS [ROWS]]` (default 20 and 5000).
//! Prints one line of JSON: elapsed milliseconds and a checksum that must not depend on the host.
//! exit codes: 0; 1 when what was parsed is not what was written.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

mod table;
mod text;

fn main() -> ExitCode {
    let number = |index| env::args().nth(index).and_then(|text| text.parse::<u32>().ok());
    let rounds = number(1).unwrap_or(20);
    let rows = number(2).unwrap_or(5000);
    let started = Instant::now();
    let mut checksum = 0xcbf2_9ce4_8422_2325_u64;
    for round in 0..rounds {
        let Some(hash) = work(round, rows) else {
            eprintln!("bench-cpu: round {round} read back something else than it wrote");
            return ExitCode::FAILURE;
        };
        checksum = checksum.rotate_left(7) ^ hash;
    }
    println!(
        "{{\"mode\":\"cpu\",\"rounds\":{rounds},\"rows\":{rows},\"milliseconds\":{},\"checksum\":\"{checksum:016x}\"}}",
        started.elapsed().as_millis()
    );
    ExitCode::SUCCESS
}

fn work(round: u32, rows: u32) -> Option<u64> {
    let table = table::Table::filled(round, rows);
    let answers = table.query();
    let json = text::to_json(&answers);
    if text::from_json(&json)? != answers {
        return None;
    }
    let packed = text::compress(json.as_bytes());
    (text::decompress(&packed) == json.as_bytes()).then(|| text::hash(&packed))
}
