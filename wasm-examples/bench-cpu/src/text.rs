//! Text out and in again: JSON, a small back-reference packer, and a hash.

use std::fmt::Write;

use crate::table::Row;

pub(crate) fn to_json(rows: &[Row]) -> String {
    let mut text = String::from("[");
    for (index, row) in rows.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        let _ = write!(
            text,
            "{separator}{{\"id\":{},\"name\":\"{}\",\"value\":{}}}",
            row.id, row.name, row.value
        );
    }
    text.push(']');
    text
}

/// Reads what [`to_json`] writes; none when it is anything else.
pub(crate) fn from_json(text: &str) -> Option<Vec<Row>> {
    let mut rest = text.strip_prefix('[')?;
    let mut rows = Vec::new();
    while !rest.starts_with(']') {
        rest = rest.strip_prefix(',').unwrap_or(rest).strip_prefix("{\"id\":")?;
        let (id, after) = rest.split_once(",\"name\":\"")?;
        let (name, after) = after.split_once("\",\"value\":")?;
        let (value, after) = after.split_once('}')?;
        let (id, value) = (id.parse().ok()?, value.parse().ok()?);
        rows.push(Row { id, name: name.to_owned(), value });
        rest = after;
    }
    Some(rows)
}

const WINDOW: usize = 8192;
const MATCH_MIN: usize = 6;
const MATCH_MAX: usize = 255;

/// Literals are `0 BYTE`; repeats are `LENGTH DISTANCE(2)`.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut last_seen = vec![usize::MAX; 1 << 14];
    let mut packed = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let mut length = 0;
        let mut distance = 0;
        if let Some(start) = bytes.get(at..at + MATCH_MIN) {
            let slot = (hash(start) & 0x3fff) as usize;
            let candidate = last_seen[slot];
            last_seen[slot] = at;
            if candidate < at && at - candidate <= WINDOW {
                distance = at - candidate;
                length = bytes[at..]
                    .iter()
                    .zip(&bytes[candidate..])
                    .take(MATCH_MAX)
                    .take_while(|(new, old)| new == old)
                    .count();
            }
        }
        if length >= MATCH_MIN {
            packed.extend([length as u8, (distance >> 8) as u8, distance as u8]);
            at += length;
        } else {
            packed.extend([0, bytes[at]]);
            at += 1;
        }
    }
    packed
}

pub(crate) fn decompress(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = packed.iter().map(|byte| usize::from(*byte));
    while let (Some(length), Some(next)) = (rest.next(), rest.next()) {
        if length == 0 {
            bytes.push(next as u8);
        } else {
            let distance = next << 8 | rest.next().unwrap_or(0);
            for _ in 0..length {
                bytes.push(bytes[bytes.len() - distance]);
            }
        }
    }
    bytes
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
