//! Durations as `kubectl` shows them: two units at most, the smaller one dropped as the larger grows.
//!
//! Follows `apimachinery/pkg/util/duration.HumanDuration`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// `5s`, `2m3s`, `4h12m`, `3d`, `2y14d`. A little negative is 0s (clocks of two machines differ), more is `<invalid>`.
#[must_use]
pub fn human(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds / MINUTE % 60, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, "d", seconds / HOUR % 24, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, "y", seconds / DAY % 365, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// Time since then, for an AGE column.
#[must_use]
pub fn since(then: Option<&Time>, now_ms: i64) -> String {
    match then {
        Some(then) => human(now_ms.saturating_sub(then.0.as_millisecond())),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod test {
    #[test]
    fn durations_read_as_in_kubectl() {
        let cases = [
            (-2000, "<invalid>"),
            (-1999, "0s"),
            (-1, "0s"),
            (0, "0s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (123_000, "2m3s"),
            (599_000, "9m59s"),
            (600_000, "10m"),
            (3 * 3600 * 1000 - 1, "179m"),
            (3 * 3600 * 1000, "3h"),
            ((4 * 3600 + 12 * 60) * 1000, "4h12m"),
            (8 * 3600 * 1000, "8h"),
            (47 * 3600 * 1000, "47h"),
            (48 * 3600 * 1000, "2d"),
            (50 * 3600 * 1000, "2d2h"),
            (8 * 86400 * 1000, "8d"),
            (729 * 86400 * 1000, "729d"),
            (730 * 86400 * 1000, "2y"),
            (744 * 86400 * 1000, "2y14d"),
            (9 * 365 * 86400 * 1000, "9y"),
        ];
        for (milliseconds, expected) in cases {
            assert_eq!(super::human(milliseconds), expected, "{milliseconds} ms");
        }
    }
}
