#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

/// What a patch makes of a base, and the most that was handed over at once.
fn patched(patch: &[u8], base: &[u8], size: u64) -> Result<Vec<u8>, PatchFault> {
    let mut read = |offset: u64, into: &mut [u8]| {
        let start = usize::try_from(offset).unwrap();
        let bytes = base.get(start..start + into.len());
        into.copy_from_slice(bytes.expect("only what the base has is read"));
        Ok(())
    };
    let mut result = Vec::new();
    let mut out = |piece: &[u8]| {
        assert!(piece.len() <= CHUNK_BYTES);
        result.extend_from_slice(piece);
        assert!(result.len() as u64 <= size, "no more than was announced");
        Ok(())
    };
    apply::<PatchFault>(patch, (base.len() as u64, &mut read), size, &mut out)?;
    Ok(result)
}

#[test]
fn a_patch_is_these_bytes() {
    let patch = b"pdlt\x01\x0a\x0c\
        \x06\x02\x01\x05\x02\x01\xff\
        \x03new\x02\
        \x03\x03\x00\x00\x00";
    // Two bytes as they are, one five higher, two as they are, one lower; three new ones; one skipped; the last three.
    assert_eq!(patched(patch, b"0123456789", 12).unwrap(), b"017344new789");
}

#[test]
fn what_does_not_fit_is_told_apart() {
    let said =
        |patch: &[u8], base: &[u8], size| patched(patch, base, size).unwrap_err().to_string();
    assert_eq!(said(b"", b"", 0), "the difference ends early");
    assert_eq!(said(b"hello", b"", 0), "the difference does not begin as one");
    assert_eq!(
        said(b"pdlt\x01\x03\x00", b"", 0),
        "the difference is for a module of 3 bytes, and the one here has 0"
    );
    assert_eq!(
        said(b"pdlt\x01\x00\x03", b"", 5),
        "the difference makes 3 bytes, where 5 are expected"
    );
    let outside = "the difference is damaged: it leaves the module that it is for";
    assert_eq!(said(b"pdlt\x01\x02\x03\x03\x03\x00\x00\x00", b"ab", 3), outside);
    assert_eq!(said(b"pdlt\x01\x02\x03\x00\x00\x06", b"ab", 3), outside);
    assert_eq!(said(b"pdlt\x01\x02\x03\x00\x00\x01", b"ab", 3), outside);
    let too_much = "the difference is damaged: it makes more than it should";
    assert_eq!(said(b"pdlt\x01\x02\x01\x02\x02\x00\x00\x00", b"ab", 1), too_much);
    assert_eq!(said(b"pdlt\x01\x00\x01\x00\x02xy\x00", b"", 1), too_much);
    assert_eq!(said(b"pdlt\x01\x02\x01\x01\x00\x00\x00\x00", b"ab", 1), too_much);
    assert_eq!(said(b"pdlt\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"", 1), too_much);
    assert_eq!(
        said(b"pdlt\x01\x00\x01\x00\x01x\x00y", b"", 1),
        "the difference is damaged: it goes on behind its end"
    );
    assert_eq!(said(b"pdlt\x01\x00\x01\x00\x01", b"", 1), "the difference ends early");
}

#[cfg(feature = "compiler")]
#[test]
fn a_module_that_changed_a_little_differs_by_little() {
    let old: Vec<u8> =
        (0..200_000_u32).map(|n| (n.wrapping_mul(n) / 77).to_le_bytes()[0]).collect();
    let mut new = old.clone();
    new.splice(50_000..50_010, *b"something longer than before");
    for at in (60_000..120_000).step_by(500) {
        new[at] = new[at].wrapping_add(28);
    }
    let patch = make(&old, &new).unwrap();
    assert!(patch.len() < 2000, "{}", patch.len());
    assert!(patched(&patch, &old, new.len() as u64).unwrap() == new);
    let nothing_in_common: Vec<u8> =
        (0..50_000_u32).map(|n| n.wrapping_mul(7919).to_be_bytes()[2]).collect();
    assert_eq!(make(&old, &nothing_in_common), Err(MakeError::NoUse));
}

#[cfg(feature = "compiler")]
fn edits() -> impl Strategy<Value = Vec<(usize, usize, Vec<u8>)>> {
    let edit = (0usize..5000, 0usize..300, proptest::collection::vec(any::<u8>(), 0..200));
    proptest::collection::vec(edit, 0..12)
}

#[cfg(feature = "compiler")]
proptest! {
    #[test]
    fn whatever_was_edited_the_patch_makes_it(
        seed in proptest::collection::vec(any::<u8>(), 64..400), edits in edits(),
    ) {
        let old: Vec<u8> = seed.iter().cycle().take(20_000).enumerate()
            .map(|(at, byte)| byte.wrapping_mul((at / 97).to_le_bytes()[0] | 1)).collect();
        let mut new = old.clone();
        for (at, length, bytes) in edits {
            let end = (at + length).min(new.len());
            new.splice(at.min(end)..end, bytes);
        }
        if let Ok(patch) = make(&old, &new) {
            prop_assert!(patched(&patch, &old, new.len() as u64).unwrap() == new);
        }
    }
}

proptest! {
    #[test]
    fn no_patch_panics_or_makes_too_much(
        body in proptest::collection::vec(any::<u8>(), 0..200), size in 0u64..5000,
    ) {
        let mut patch = b"pdlt\x01\x0a".to_vec();
        patch.extend([size.to_le_bytes()[0] | 0x80, (size >> 7).to_le_bytes()[0]]);
        patch.extend(body);
        let _ = patched(&patch, b"0123456789", size);
    }
}
