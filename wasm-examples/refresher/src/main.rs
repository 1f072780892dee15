//! A sidecar: asks a sensor at a steady pace and keeps a web page and a JSON file up to date.
//!
//! Both files are written beside their place and renamed over it, so a reader sees the old or the new one, whole.
//! While the sensor does not answer, the page says so and keeps the last readings.
//!
//! env: `SENSOR_URL` (default http://localhost:9000/); `INTERVAL_MS` (default 1000); `OUT_DIR` (default /srv).
//! exit codes: 1 when `SENSOR_URL` is no such URL. Anything else is said in the log and tried again.

mod page;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use guest_net::{Url, get, number_from_env};

/// Readings kept for the page's curve: two minutes at the usual pace.
const HISTORY_MAX: usize = 120;
/// How long one question to the sensor may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

fn main() {
    let text = env::var("SENSOR_URL").unwrap_or_else(|_| "http://localhost:9000/".to_owned());
    let Some(url) = Url::parse(&text) else {
        eprintln!("refresher: SENSOR_URL is no http:// URL: {text:?}");
        process::exit(1);
    };
    let interval = Duration::from_millis(number_from_env("INTERVAL_MS", 1000).max(1));
    let folder = PathBuf::from(env::var("OUT_DIR").unwrap_or_else(|_| "/srv".to_owned()));
    println!("refresher: asking {text} every {} ms for {}", interval.as_millis(), folder.display());

    let mut board = Board::default();
    let mut said = String::new();
    let mut next = Instant::now();
    loop {
        board.record(ask(&url));
        let state = match publish(&folder, &board) {
            Ok(()) => board.state(),
            Err(error) => format!("cannot write to {}: {error}", folder.display()),
        };
        // The log tells changes; the page tells the rest.
        if state != said {
            println!("refresher: {state}");
            said = state;
        }
        next = (next + interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// One answer of the sensor, its numbers kept as text: they are only shown and compared.
struct Reading {
    sequence: u64,
    uptime_seconds: u64,
    temperature: String,
    humidity: String,
}

/// What is known, and why there is no more of it.
#[derive(Default)]
struct Board {
    history: VecDeque<Reading>,
    failure: Option<String>,
    rounds: u64,
}

impl Board {
    fn record(&mut self, outcome: Result<Reading, String>) {
        self.rounds += 1;
        match outcome {
            Ok(reading) => {
                self.failure = None;
                if self.history.len() == HISTORY_MAX {
                    self.history.pop_front();
                }
                self.history.push_back(reading);
            }
            Err(why) => self.failure = Some(why),
        }
    }

    fn state(&self) -> String {
        match &self.failure {
            Some(why) => format!("sensor does not answer: {why}"),
            None => "sensor answers".to_owned(),
        }
    }
}

fn ask(url: &Url) -> Result<Reading, String> {
    let (status, body) = get(url, ANSWER_WITHIN).map_err(|error| error.kind().to_string())?;
    if status != 200 {
        return Err(format!("status {status}"));
    }
    String::from_utf8(body)
        .ok()
        .and_then(|text| parse(&text))
        .ok_or_else(|| "an answer that is no reading".to_owned())
}

fn parse(json: &str) -> Option<Reading> {
    Some(Reading {
        sequence: field(json, "sequence")?.parse().ok()?,
        uptime_seconds: field(json, "uptimeSeconds")?.parse().ok()?,
        temperature: field(json, "temperature")?.to_owned(),
        humidity: field(json, "humidity")?.to_owned(),
    })
}

/// The number behind `"name":` in a flat JSON object. Only digits, sign and point pass, so that nothing a sensor
/// says can become markup.
fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let after = json.split_once(&format!("\"{name}\":"))?.1.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-')?;
    Some(&after[..end]).filter(|number| !number.is_empty())
}

fn publish(folder: &Path, board: &Board) -> io::Result<()> {
    replace(folder, "readings.json", &page::json(board))?;
    replace(folder, "index.html", &page::html(board))
}

fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let draft = folder.join(format!(".{name}.new"));
    fs::write(&draft, text)?;
    fs::rename(&draft, folder.join(name))
}
