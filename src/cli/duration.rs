//! Durations as Go writes them: `1h30m`, `90s`, `1.5s`, `500ms`.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// Reads a duration.
///
/// # Errors
/// If it is none, negative, or has no unit.
pub(super) fn parse(text: &str) -> anyhow::Result<Duration> {
    let invalid = || format!("invalid duration \"{text}\": write it as 5s, 2m or 1h30m");
    let mut total = 0.0_f64;
    let mut rest = text;
    ensure!(!rest.is_empty(), invalid());
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok().with_context(invalid)?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => bail!(invalid()),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(total).ok().with_context(invalid)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", 5000), ("1h30m", 5_400_000), ("1.5s", 1500), ("250ms", 250), ("0s", 0)]
        {
            assert_eq!(super::parse(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "5", "s", "-5s", "5x", "5s3", "1e400s", "999999999999999999999h"] {
            let error = format!("{:#}", super::parse(text).unwrap_err());
            assert!(error.ends_with("write it as 5s, 2m or 1h30m"), "{text}: {error}");
        }
    }
}
