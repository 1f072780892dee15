//! Where the fields of an object stand in their file.
//!
//! Owns: line and column of byte offsets, and of field paths after the tree is gone. Columns count
//! characters, on absurdly long lines bytes.

use super::error::Position;
use super::node::{Node, Value};

/// Columns beyond this are counted in bytes: a file that is one line of 10 MB has a hundred
/// thousand fields, each of which would count from its start.
const COLUMN_CHARS_MAX: usize = 4096;

/// Bytes between two marks of [`Lines`].
const MARK_EVERY_BYTES: usize = 4096;

/// Finds lines and columns in a text. Remembers one mark every 4 KiB instead of each line, so that
/// 10 MB of line breaks cost 40 KiB and not 80 MB.
#[derive(Debug)]
pub struct Lines<'t> {
    text: &'t [u8],
    marks: Vec<Mark>,
}

/// What is known at a multiple of [`MARK_EVERY_BYTES`].
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Number of the line it lies in, from 1.
    line: usize,
    /// Where that line starts.
    start: usize,
}

impl<'t> Lines<'t> {
    #[must_use]
    pub fn new(text: &'t str) -> Self {
        let text = text.as_bytes();
        let mut mark = Mark { line: 1, start: 0 };
        let mut marks = vec![mark];
        for (index, chunk) in text.chunks(MARK_EVERY_BYTES).enumerate() {
            mark = advance(mark, chunk, index * MARK_EVERY_BYTES);
            marks.push(mark);
        }
        Self { text, marks }
    }

    /// The position of a byte offset; one beyond the end is the end.
    #[must_use]
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let index = offset / MARK_EVERY_BYTES;
        let from = index * MARK_EVERY_BYTES;
        let Mark { line, start } = advance(self.marks[index], &self.text[from..offset], from);
        let before = &self.text[start..offset];
        let column = if before.len() <= COLUMN_CHARS_MAX {
            before.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
        } else {
            before.len()
        };
        Position { line, column: column + 1 }
    }
}

/// The mark after `chunk`, which begins at `from`.
fn advance(mark: Mark, chunk: &[u8], from: usize) -> Mark {
    let breaks = chunk.iter().filter(|byte| **byte == b'\n').count();
    let last = chunk.iter().rposition(|byte| *byte == b'\n');
    Mark { line: mark.line + breaks, start: last.map_or(mark.start, |at| from + at + 1) }
}

/// The shape of a document with a position for each field.
#[derive(Clone, Debug)]
pub struct Layout {
    at: Option<Position>,
    parts: Parts,
}

#[derive(Clone, Debug)]
enum Parts {
    None,
    Items(Vec<Layout>),
    Fields(Vec<(String, Layout)>),
}

impl Layout {
    #[must_use]
    pub(super) fn new(node: &Node, lines: &Lines<'_>) -> Self {
        let parts = match &node.value {
            Value::Seq(items) => {
                Parts::Items(items.iter().map(|item| Self::new(item, lines)).collect())
            }
            Value::Map(map) => Parts::Fields(
                map.fields
                    .iter()
                    .map(|(key, field)| (key.name.clone(), Self::new(field, lines)))
                    .collect(),
            ),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::UInt(_) => Parts::None,
            Value::Float(_) | Value::Str(_) => Parts::None,
        };
        Self { at: node.offset().map(|offset| lines.position(offset)), parts }
    }

    /// Where the field of that path stands, or, if the text does not have it, the nearest field
    /// around it that has a place.
    #[must_use]
    pub fn position(&self, path: &str) -> Option<Position> {
        let (mut layout, mut rest, mut known) = (self, path, self.at);
        while !rest.is_empty() {
            let (step, after) = next_step(rest);
            let child = match &layout.parts {
                Parts::Items(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                Parts::Fields(fields) => {
                    fields.iter().find(|(name, _)| name == step).map(|(_, field)| field)
                }
                Parts::None => None,
            };
            let Some(child) = child else { break };
            (layout, rest) = (child, after);
            known = layout.at.or(known);
        }
        known
    }
}

/// Splits the first step off. A key may itself hold dots and brackets, so `]` ends it only before
/// `.`, `[` or the end.
fn next_step(path: &str) -> (&str, &str) {
    let Some(inside) = path.strip_prefix('[') else {
        let end = path.find(['.', '[']).unwrap_or(path.len());
        return (&path[..end], path[end..].strip_prefix('.').unwrap_or(&path[end..]));
    };
    let ends_key = |at: &usize| matches!(inside.as_bytes().get(at + 1), None | Some(b'.' | b'['));
    let mut closers = inside.match_indices(']').map(|(at, _)| at);
    match closers.find(ends_key) {
        Some(at) => {
            let after = &inside[at + 1..];
            (&inside[..at], after.strip_prefix('.').unwrap_or(after))
        }
        None => (inside, ""),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn steps_are_cut_where_kubernetes_joins_them() {
        assert_eq!(next_step("spec.containers[0].name"), ("spec", "containers[0].name"));
        assert_eq!(next_step("containers[0].name"), ("containers", "[0].name"));
        assert_eq!(next_step("[0].name"), ("0", "name"));
        assert_eq!(next_step("[a.b/c]"), ("a.b/c", ""));
        assert_eq!(next_step("[a]b].x"), ("a]b", "x"));
        assert_eq!(next_step("[unclosed"), ("unclosed", ""));
    }

    #[test]
    fn columns_count_characters() {
        let lines = Lines::new("a: ü\nbü: x\n");
        assert_eq!(lines.position(0), Position { line: 1, column: 1 });
        assert_eq!(lines.position(5), Position { line: 1, column: 5 });
        assert_eq!(lines.position(6), Position { line: 2, column: 1 });
        assert_eq!(lines.position(11), Position { line: 2, column: 5 });
        assert_eq!(lines.position(999), Position { line: 3, column: 1 });
    }

    #[test]
    fn every_offset_of_a_long_text_is_found() {
        let text = "line\n".repeat(3000) + &"x".repeat(10_000) + "\n\nend";
        let lines = Lines::new(&text);
        let (mut line, mut start) = (1, 0);
        for (offset, byte) in text.bytes().enumerate() {
            let expected = Position { line, column: offset - start + 1 };
            assert_eq!(lines.position(offset), expected, "{offset}");
            if byte == b'\n' {
                (line, start) = (line + 1, offset + 1);
            }
        }
    }
}
