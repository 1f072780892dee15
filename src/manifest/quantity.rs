//! Kubernetes' quantities: `500m`, `1.5Gi`, `1e3`. Exact, without floating point.
//!
//! Owns: parsing, rounding up, the canonical form, comparison. Not: which resource may have which
//! value (`lower::resources`). The rules are those of `apimachinery/pkg/api/resource` (`KUBELET.md`
//! 13): a value is a whole number of billionths; what is finer rounds *up*, away from zero, because
//! whoever asks for some of a resource should get some.
//!
//! Differences from Kubernetes: a quantity without any digit (`m`, `-`) is refused, where
//! Kubernetes reads 0; magnitudes above 10²⁷ are cut to 10²⁷.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// Billionths in one.
const NANOS: i128 = 1_000_000_000;

/// Largest magnitude, in billionths: 10²⁷. No real machine comes near, and products of two such
/// numbers are never formed.
const NANOS_MAX: i128 = 10_i128.pow(36);

/// Largest value of a quantity with a binary suffix, as in Kubernetes: 2⁶³ − 1.
const BINARY_NANOS_MAX: i128 = (i64::MAX as i128) * NANOS;

/// Longest text that is looked at: 27 digits each side of the point, a suffix, and generous room
/// for zeros.
const TEXT_BYTES_MAX: usize = 256;

/// An amount of a resource. Compares by value; remembers its format family, so that `1e3` prints as
/// `1e3` and `1Gi` as `1Gi`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The family of suffixes a quantity was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `n u m "" k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e3`, `E-2`
    DecimalExponent,
}

/// Why a text is no quantity; the messages are Kubernetes'.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ParseQuantityError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Scale {
    Ten(i64),
    Two(u32),
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number of base units, in decimal form.
    #[must_use]
    pub fn from_units(units: u64) -> Self {
        Self { nanos: i128::from(units) * NANOS, format: Format::DecimalSi }
    }

    /// A number of bytes, in binary form: `16Mi`.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// A number of thousandths, in decimal form: `100m`.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self { nanos: i128::from(millis) * (NANOS / 1000), format: Format::DecimalSi }
    }

    /// Reads a quantity; surrounding blanks are dropped, as Kubernetes' JSON reader does.
    ///
    /// # Errors
    /// See [`ParseQuantityError`].
    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseQuantityError::Number);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        check_suffix_form(suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            let dot_only = rest.starts_with('.');
            return Err(if dot_only {
                ParseQuantityError::Number
            } else {
                ParseQuantityError::Form
            });
        }
        let (scale, format) = read_suffix(suffix).ok_or(ParseQuantityError::Suffix)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => decimal_nanos(whole, fraction, exponent),
            Scale::Two(shift) => binary_nanos(whole, fraction, shift),
        };
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The value in base units (bytes, cores), rounded up.
    #[must_use]
    pub fn units_ceil(&self) -> i128 {
        ceil_div(self.nanos, NANOS)
    }

    /// The value in thousandths, rounded up.
    #[must_use]
    pub fn millis_ceil(&self) -> i128 {
        ceil_div(self.nanos, NANOS / 1000)
    }

    /// Whether the value is a whole number of base units.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS == 0
    }

    /// The base units as the runtime counts them: rounded up, negative is zero, too large is the
    /// largest.
    #[must_use]
    pub fn units_u64(&self) -> u64 {
        clamp_u64(self.units_ceil())
    }

    /// As [`Self::units_u64`], in thousandths.
    #[must_use]
    pub fn millis_u64(&self) -> u64 {
        clamp_u64(self.millis_ceil())
    }

    /// The same value rounded up to whole thousandths, as resource lists are stored.
    #[must_use]
    pub fn rounded_to_millis(self) -> Self {
        Self { nanos: self.millis_ceil() * (NANOS / 1000), format: self.format }
    }

    /// `ceil(self / divisor)`; a divisor of zero or less counts as 1 (`resourceFieldRef`).
    #[must_use]
    pub fn divided_ceil(&self, divisor_milli: u64) -> i128 {
        let divisor = i128::from(divisor_milli.max(1)) * (NANOS / 1000);
        ceil_div(self.nanos, divisor)
    }

    /// The sum, in the format of the left side.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: (self.nanos + other.nanos).clamp(-NANOS_MAX, NANOS_MAX), format: self.format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS;
        match self.format {
            Format::BinarySi if !small && self.is_whole() => write_binary(self.nanos / NANOS, f),
            Format::DecimalExponent => write_decimal(self.nanos, f, |exponent| match exponent {
                0 => String::new(),
                other => format!("e{other}"),
            }),
            Format::BinarySi | Format::DecimalSi => {
                write_decimal(self.nanos, f, |exponent| SI[si_index(exponent)].to_owned())
            }
        }
    }
}

/// Suffixes of 10⁻⁹, 10⁻⁶, … 10¹⁸.
const SI: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// Suffixes of 2⁰, 2¹⁰, … 2⁶⁰.
const IEC: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

fn si_index(exponent: i32) -> usize {
    usize::try_from((exponent + 9) / 3).unwrap_or(0).min(SI.len() - 1)
}

fn write_decimal(
    nanos: i128,
    f: &mut fmt::Formatter<'_>,
    suffix: impl Fn(i32) -> String,
) -> fmt::Result {
    let (mut amount, mut exponent) = (nanos, -9);
    // 18 is the largest SI suffix; a larger exponent would have no name.
    while amount % 1000 == 0 && exponent < 18 {
        amount /= 1000;
        exponent += 3;
    }
    write!(f, "{amount}{}", suffix(exponent))
}

fn write_binary(units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut amount, mut index) = (units, 0);
    while amount % 1024 == 0 && index < IEC.len() - 1 {
        amount /= 1024;
        index += 1;
    }
    write!(f, "{amount}{}", IEC[index])
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The shape of Kubernetes' regular expression: letters, at most one sign, digits, nothing after.
fn check_suffix_form(suffix: &str) -> Result<(), ParseQuantityError> {
    let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if digits.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(ParseQuantityError::Form) }
}

fn read_suffix(suffix: &str) -> Option<(Scale, Format)> {
    if let Some(index) = SI.iter().position(|name| *name == suffix) {
        let exponent = i64::try_from(index).unwrap_or(0) * 3 - 9;
        return Some((Scale::Ten(exponent), Format::DecimalSi));
    }
    if let Some(index) = IEC.iter().position(|name| *name == suffix) {
        let shift = u32::try_from(index).unwrap_or(0) * 10;
        return Some((Scale::Two(shift), Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    Some((Scale::Ten(exponent), Format::DecimalExponent))
}

/// `whole.fraction × 10^exponent` in billionths, rounded up, cut at [`NANOS_MAX`].
fn decimal_nanos(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    // Position of the decimal point, counted in digits of `significant`, once the value is in
    // billionths.
    let fraction_digits = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let length = i64::try_from(significant.len()).unwrap_or(i64::MAX);
    let point = length.saturating_sub(fraction_digits).saturating_add(exponent).saturating_add(9);
    if point > 37 {
        return NANOS_MAX;
    }
    if point <= 0 {
        return 1;
    }
    let point = usize::try_from(point).unwrap_or(0);
    let (kept, dropped) = significant.split_at(point.min(significant.len()));
    let mut nanos: i128 = kept.bytes().fold(0, |sum, b| sum * 10 + i128::from(b - b'0'));
    for _ in kept.len()..point {
        nanos *= 10;
    }
    if dropped.bytes().any(|b| b != b'0') {
        nanos += 1;
    }
    nanos.min(NANOS_MAX)
}

/// `whole.fraction × 2^shift` in billionths, rounded up, cut at [`BINARY_NANOS_MAX`].
fn binary_nanos(whole: &str, fraction: &str, shift: u32) -> i128 {
    let factor = NANOS << shift;
    let mut sum: i128 = 0;
    for b in whole.bytes() {
        sum = sum * 10 + i128::from(b - b'0');
        if sum > i128::from(i64::MAX) {
            return BINARY_NANOS_MAX;
        }
    }
    let whole_part = sum.checked_mul(factor).unwrap_or(BINARY_NANOS_MAX);
    // Horner from the last digit. Rounding down at each step and at the end give the same number,
    // so one flag is enough to know whether anything was lost.
    let (mut part, mut inexact) = (0_i128, false);
    for b in fraction.bytes().rev() {
        let value = i128::from(b - b'0') * factor + part;
        inexact |= value % 10 != 0;
        part = value / 10;
    }
    whole_part.saturating_add(part + i128::from(inexact)).min(BINARY_NANOS_MAX)
}

/// Division that rounds towards +∞, as Kubernetes' scaled reads do.
fn ceil_div(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by > 0 { quotient + 1 } else { quotient }
}

fn clamp_u64(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
