//! What the refresher writes: a page for people and a JSON file for programs. Pure; `main.rs` does the rest.

use std::fmt::Write;

use crate::{Board, Reading};

/// The readings, newest last, and whether the sensor answers now.
pub(crate) fn json(board: &Board) -> String {
    let mut text = String::from("{");
    let _ =
        write!(text, "\"rounds\":{},\"sensorAnswers\":{}", board.rounds, board.failure.is_none());
    if let Some(latest) = board.history.back() {
        let _ = write!(text, ",\"latest\":{}", object(latest));
    }
    text.push_str(",\"history\":[");
    for (index, reading) in board.history.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let _ = write!(text, "{separator}\n {}", object(reading));
    }
    text.push_str("]}\n");
    text
}

fn object(reading: &Reading) -> String {
    format!(
        "{{\"sequence\":{},\"uptimeSeconds\":{},\"temperature\":{},\"humidity\":{}}}",
        reading.sequence, reading.uptime_seconds, reading.temperature, reading.humidity
    )
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:40rem;\
padding:0 1rem;color:#20352a;background:#f4f8f2}h1{font-size:1.3rem}\
.now{display:flex;gap:1rem}.now div{flex:1;background:#fff;border-radius:.6rem;padding:1rem;\
box-shadow:0 1px 3px #0002}.now b{display:block;font-size:2.2rem;font-weight:600}\
svg{width:100%;height:8rem;margin-top:1rem;background:#fff;border-radius:.6rem}\
.down{background:#fde8e4;border-radius:.6rem;padding:.6rem 1rem}small{color:#5b7567}";

/// A page that loads itself anew every two seconds.
pub(crate) fn html(board: &Board) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"refresh\" content=\"2\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Greenhouse</title><style>{STYLE}</style></head>\n<body><h1>Greenhouse</h1>\n"
    );
    if let Some(why) = &board.failure {
        // Both the error kinds and our own words are plain text.
        let _ = writeln!(text, "<p class=\"down\">The sensor does not answer: {why}.</p>");
    }
    match board.history.back() {
        Some(latest) => {
            let _ = writeln!(
                text,
                "<div class=\"now\"><div>Temperature<b>{} °C</b></div><div>Humidity<b>{} %</b></div></div>",
                latest.temperature, latest.humidity
            );
            text.push_str(&curve(board));
            let _ = writeln!(
                text,
                "<small>Reading {} · the sensor has been up for {} s · \
                 <a href=\"readings.json\">readings.json</a></small>",
                latest.sequence, latest.uptime_seconds
            );
        }
        None => text.push_str("<p>No reading yet.</p>\n"),
    }
    text.push_str("</body></html>\n");
    text
}

/// The temperatures as a line, fitted to the span they cover.
fn curve(board: &Board) -> String {
    let values: Vec<i32> =
        board.history.iter().filter_map(|reading| hundredths(&reading.temperature)).collect();
    let (Some(low), Some(high)) = (values.iter().min(), values.iter().max()) else {
        return String::new();
    };
    // Never less than one degree high, or noise would look like weather.
    let span = (high - low).max(100);
    let mut text = String::from(
        "<svg viewBox=\"0 0 119 110\" preserveAspectRatio=\"none\"><polyline fill=\"none\" \
         stroke=\"#2e8b57\" stroke-width=\"2\" vector-effect=\"non-scaling-stroke\" points=\"",
    );
    for (x, value) in values.iter().enumerate() {
        let _ = write!(text, "{x},{} ", 105 - (value - low) * 100 / span);
    }
    text.push_str("\"/></svg>\n");
    text
}

/// `-3.25` as −325; none when it is no such number.
fn hundredths(number: &str) -> Option<i32> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: String = fraction.chars().chain("00".chars()).take(2).collect();
    format!("{whole}{digits}").parse().ok()
}
