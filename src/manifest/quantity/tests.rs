#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    Quantity::parse(text).unwrap().to_string()
}

/// Each pair was read back from kubectl 1.32.
#[test]
fn the_canonical_form_is_kubernetes_own() {
    for (text, expected) in [
        ("1000m", "1"),
        ("1.5Gi", "1536Mi"),
        ("0.5", "500m"),
        ("1e3", "1e3"),
        ("1e4", "10e3"),
        ("1e-3", "1e-3"),
        ("1500", "1500"),
        ("0.0001Ki", "102400u"),
        ("1000Ki", "1000Ki"),
        ("1023", "1023"),
        ("1024", "1024"),
        ("1024Ki", "1Mi"),
        ("0.5Ki", "512"),
        ("10E", "10E"),
        ("1Ei", "1Ei"),
        ("10Ei", "9223372036854775807"),
        ("0.1n", "1n"),
        ("1n", "1n"),
        ("1.5", "1500m"),
        ("-1", "-1"),
        ("-1.5Gi", "-1536Mi"),
        ("5E", "5E"),
        (" 1", "1"),
        ("1.0000000001", "1000000001n"),
        ("1048577Ki", "1048577Ki"),
        ("0.3Gi", "322122547200m"),
        ("1.1Ki", "1126400m"),
        ("0Ki", "0"),
        ("00012", "12"),
        ("1.", "1"),
        (".5", "500m"),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_quantity_says_so_in_kubernetes_words() {
    use ParseQuantityError::{Form, Number, Suffix};
    for (text, expected) in [
        ("", Form),
        ("1.1.M", Form),
        ("0x10", Form),
        ("1_000", Form),
        ("aoeu", Form),
        ("1 ki", Form),
        ("m", Form),
        ("-", Form),
        (".", Number),
        ("1K", Suffix),
        ("1i", Suffix),
        ("12e", Suffix),
        ("1Eie", Suffix),
        ("1mm", Suffix),
        ("1Ki5", Suffix),
    ] {
        assert_eq!(Quantity::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn a_text_of_any_length_is_answered_at_once() {
    assert_eq!(Quantity::parse(&"9".repeat(100_000)), Err(ParseQuantityError::Number));
    assert_eq!(Quantity::parse("1e999999999").unwrap().nanos, NANOS_MAX);
    assert_eq!(canonical("1e-999999999"), "1e-9");
    assert_eq!(Quantity::parse("1e99999999999999999999"), Err(ParseQuantityError::Suffix));
}

#[test]
fn rounding_is_always_up() {
    let q = |text| Quantity::parse(text).unwrap();
    assert_eq!(q("0.1").units_ceil(), 1);
    assert_eq!(q("100m").millis_ceil(), 100);
    assert_eq!(q("1u").millis_ceil(), 1);
    assert_eq!(q("1.5Gi").units_u64(), 3 << 29);
    assert_eq!(q("-5").units_u64(), 0);
    assert_eq!(q("1e27").units_u64(), u64::MAX);
    assert_eq!(q("1u").rounded_to_millis().to_string(), "1m");
    // resourceFieldRef: 1 500 millicores over a divisor of one core are 2, over one millicore 1
    // 500.
    assert_eq!(q("1500m").divided_ceil(1000), 2);
    assert_eq!(q("1500m").divided_ceil(1), 1500);
    assert_eq!(q("64Mi").divided_ceil(1024 * 1024 * 1000), 64);
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,40}") {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn the_canonical_form_means_the_same_and_is_a_fixed_point(
        text in "[+-]?([0-9]{1,12}|[0-9]{0,8}\\.[0-9]{1,8})(n|u|m||k|M|G|T|P|E|Ki|Mi|Gi|Ti|e[0-9]|E-[0-9])"
    ) {
        let first = Quantity::parse(&text).unwrap();
        let printed = first.to_string();
        let second = Quantity::parse(&printed).unwrap();
        prop_assert_eq!(first, second);
        prop_assert_eq!(second.to_string(), printed);
    }

    #[test]
    fn whole_numbers_with_a_binary_suffix_are_exact(number in 0_u64..1 << 20, power in 0_usize..4) {
        let text = format!("{number}{}", IEC[power]);
        let expected = number << (10 * power);
        prop_assert_eq!(Quantity::parse(&text).unwrap().units_u64(), expected);
    }

    #[test]
    fn a_decimal_fraction_is_the_integer_over_its_power_of_ten(number in 0_u32.., digits in 1_usize..9) {
        let text = format!("{number:010}");
        let (whole, fraction) = text.split_at(text.len() - digits);
        let quantity = Quantity::parse(&format!("{whole}.{fraction}")).unwrap();
        let exact = i128::from(number) * 10_i128.pow(9 - u32::try_from(digits).unwrap());
        prop_assert_eq!(quantity.nanos, exact);
    }
}
