//! Plain scalars as `kubectl` reads them.
//!
//! `kubectl` turns YAML into JSON with a YAML 1.1 reader (`sigs.k8s.io/yaml`), so `yes` is a
//! boolean, `0644` is 420 and `1_000` is 1000 before any Kubernetes type is looked at. `serde_yaml`
//! has already settled what both versions agree on; this file settles the rest. Sexagesimal numbers
//! (`1:30`) stay text, dates too, as they do there.

use super::node::Value;

/// What a plain scalar means that YAML 1.2 takes for text.
#[must_use]
pub fn resolve(text: &str) -> Value {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-') {
        return Value::Str(text.to_owned());
    }
    let digits = text.replace('_', "");
    let (negative, magnitude) = match digits.as_bytes().first() {
        Some(b'-') => (true, &digits[1..]),
        Some(b'+') => (false, &digits[1..]),
        _ => (false, digits.as_str()),
    };
    if let Some(value) = integer(magnitude) {
        if !negative {
            return i64::try_from(value).map_or(Value::UInt(value), Value::Int);
        }
        if let Ok(value) = i64::try_from(-i128::from(value)) {
            return Value::Int(value);
        }
    }
    let read = is_float(magnitude).then(|| digits.parse::<f64>().ok()).flatten();
    if let Some(value) = read.filter(|value| value.is_finite()) {
        return float(value);
    }
    Value::Str(text.to_owned())
}

/// A YAML number with a fraction or an exponent. On its way through JSON a whole one loses its
/// point, so `1.0` may stand where an integer must.
#[must_use]
pub fn float(value: f64) -> Value {
    // 2⁵³: up to here a float names exactly one integer.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        return Value::Int(value as i64);
    }
    Value::Float(value)
}

/// An integer with Go's prefixes: `0x`, `0o`, `0b`, or a leading zero for octal.
fn integer(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (8, octal)
    } else {
        (10, lower.as_str())
    };
    if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// `.5`, `5.`, `5.5`, each with an optional exponent.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    });
    exponent_fits
        && is_digits(whole)
        && is_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod test {
    use super::*;

    fn int(value: i64) -> Value {
        Value::Int(value)
    }

    /// Each row was read back from kubectl 1.32.
    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        for (text, expected) in [
            ("yes", Value::Bool(true)),
            ("y", Value::Bool(true)),
            ("OFF", Value::Bool(false)),
            ("yEs", Value::Str("yEs".to_owned())),
            ("0644", int(420)),
            ("-0644", int(-420)),
            ("1_000", int(1000)),
            ("08", int(8)),
            ("0X1f", int(31)),
            ("0b1_1", int(3)),
            ("1_000.5", Value::Float(1000.5)),
            ("1_0e2", int(1000)),
            ("12:30", Value::Str("12:30".to_owned())),
            ("2024-01-01", Value::Str("2024-01-01".to_owned())),
            ("1.2.3", Value::Str("1.2.3".to_owned())),
            ("0x", Value::Str("0x".to_owned())),
            ("1k", Value::Str("1k".to_owned())),
            ("-", Value::Str("-".to_owned())),
            ("18446744073709551615", Value::UInt(u64::MAX)),
            ("-9223372036854775808", int(i64::MIN)),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
