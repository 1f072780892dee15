//! How much a YAML text would cost to parse, found out cheaply before it is parsed.
//!
//! Owns: the bound on nesting and on the number of tokens of one document. Not: whether the text is
//! right; what is broken here is left for the parser to say.
//!
//! Why: the parser below `serde_yaml` reads a whole document into memory before anyone may object
//! (130 bytes and more per value: 324 MB for 10 MB of `- a` lines), and looks at every open bracket
//! for every token (measured: `{a: ` 50,000 times, 200 KB, took 11 s; 10 MB would take hours). So
//! this file walks the text as that parser's scanner does: same token starts, same rules for
//! quotes, comments, block scalars, indentation; but it only counts. One pass, no copies.
//!
//! Where the scanner would fail it stops: the parser will not come further either.

use super::error::Excess;

/// Open collections at one place, brackets and indented blocks alike. `serde_yaml` gives up at 128.
pub const DEPTH_MAX: usize = 128;

/// Scalars, aliases, collections and indicators (`-`, `:`, `,`, `?`) in one document: about 60,000
/// fields. A pod has some hundred; with this many the parser needs some 25 MB for a moment.
pub const TOKENS_MAX: usize = 200_000;

/// Too much, and where it became too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    pub offset: usize,
    pub kind: Excess,
}

/// Walks the text of one or more documents.
///
/// # Errors
/// The first place at which a bound is passed.
pub fn check(text: &str) -> Result<(), TooMuch> {
    let mut scan = Scan::new(text.as_bytes());
    while scan.next_token() {
        if scan.flow + scan.indents.len() > DEPTH_MAX {
            return Err(scan.too_much(Excess::Depth { max: DEPTH_MAX }));
        }
        if scan.tokens > TOKENS_MAX {
            return Err(scan.too_much(Excess::Tokens { max: TOKENS_MAX }));
        }
    }
    Ok(())
}

/// The state of the walk, named as in the scanner it follows.
struct Scan<'t> {
    text: &'t [u8],
    at: usize,
    /// Characters since the last line break.
    column: usize,
    line: usize,
    /// Open brackets.
    flow: usize,
    /// Columns of the enclosing blocks; the innermost is the last. Columns are one too high, so
    /// that 0 can mean "no block".
    indents: Vec<usize>,
    /// A key may start here.
    key_allowed: bool,
    /// Where the last thing that may turn out to be a key began, outside brackets.
    key: Option<KeyStart>,
    tokens: usize,
}

#[derive(Clone, Copy)]
struct KeyStart {
    at: usize,
    line: usize,
    column: usize,
}

/// A key must be followed by its `:` within this many bytes, on its line.
const KEY_BYTES_MAX: usize = 1024;

impl<'t> Scan<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self {
            text,
            at: 0,
            column: 0,
            line: 0,
            flow: 0,
            indents: Vec::new(),
            key_allowed: true,
            key: None,
            tokens: 0,
        }
    }

    fn too_much(&self, kind: Excess) -> TooMuch {
        TooMuch { offset: self.at.min(self.text.len()), kind }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Bytes of the line break `ahead`, 0 if there is none. YAML 1.1 knows NEL, LS and PS as well.
    fn break_len(&self, ahead: usize) -> usize {
        match (self.peek(ahead), self.peek(ahead + 1), self.peek(ahead + 2)) {
            (b'\r', b'\n', _) | (0xC2, 0x85, _) => 2,
            (b'\r' | b'\n', _, _) => 1,
            (0xE2, 0x80, 0xA8 | 0xA9) => 3,
            _ => 0,
        }
    }

    fn at_end(&self, ahead: usize) -> bool {
        self.at + ahead >= self.text.len()
    }

    fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.peek(ahead), b' ' | b'\t')
    }

    fn is_break_or_end(&self, ahead: usize) -> bool {
        self.at_end(ahead) || self.break_len(ahead) > 0
    }

    fn is_blank_or_end(&self, ahead: usize) -> bool {
        self.is_blank(ahead) || self.is_break_or_end(ahead)
    }

    /// Passes one character.
    fn skip(&mut self) {
        self.at += 1;
        while self.peek(0) & 0xC0 == 0x80 {
            self.at += 1;
        }
        self.column += 1;
    }

    /// Passes a line break, if there is one.
    fn skip_break(&mut self) -> bool {
        let length = self.break_len(0);
        if length > 0 {
            self.at += length;
            self.column = 0;
            self.line += 1;
        }
        length > 0
    }

    fn skip_to_break(&mut self) {
        while !self.is_break_or_end(0) {
            self.skip();
        }
    }

    /// Column of the innermost block plus one; 0 outside all.
    fn indent(&self) -> usize {
        self.indents.last().copied().unwrap_or(0)
    }

    fn roll_indent(&mut self, column: usize) {
        if self.flow == 0 && self.indent() < column + 1 {
            self.indents.push(column + 1);
            self.tokens += 1;
        }
    }

    fn unroll_indent(&mut self, column_plus_one: usize) {
        while self.flow == 0 && self.indent() > column_plus_one {
            self.indents.pop();
        }
    }

    fn save_key(&mut self) {
        if self.key_allowed && self.flow == 0 {
            self.key = Some(KeyStart { at: self.at, line: self.line, column: self.column });
        }
    }

    fn drop_key(&mut self) {
        if self.flow == 0 {
            self.key = None;
        }
    }

    /// Passes one token; false at the end or where the parser's scanner would stop.
    fn next_token(&mut self) -> bool {
        self.skip_between();
        self.unroll_indent(self.column + 1);
        if self.at_end(0) {
            return false;
        }
        if self.column == 0 && self.peek(0) == b'%' {
            self.unroll_indent(0);
            (self.key, self.key_allowed) = (None, false);
            self.skip_to_break();
            // Passed here, so that no key may start on the next line either.
            self.skip_break();
            return true;
        }
        if self.is_document_marker() {
            // A new document: the parser has handed the last one over, and its memory is free
            // again.
            self.unroll_indent(0);
            (self.key, self.key_allowed, self.tokens) = (None, false, 0);
            self.at += 3;
            self.column += 3;
            return true;
        }
        self.tokens += 1;
        let blank_next = self.is_blank_or_end(1);
        match self.peek(0) {
            b'[' | b'{' => {
                self.save_key();
                self.flow += 1;
                self.indicator(true)
            }
            b']' | b'}' => {
                self.drop_key();
                self.flow = self.flow.saturating_sub(1);
                self.indicator(false)
            }
            b',' => {
                self.drop_key();
                self.indicator(true)
            }
            b'-' if blank_next => self.block_indicator(self.column, true),
            b'?' if self.flow > 0 || blank_next => {
                self.block_indicator(self.column, self.flow == 0)
            }
            b':' if self.flow > 0 || blank_next => self.value_indicator(),
            b'*' | b'&' => self.anchor(),
            b'!' => self.tag(),
            b'|' | b'>' if self.flow == 0 => self.block_scalar(),
            b'\'' => self.quoted(b'\''),
            b'"' => self.quoted(b'"'),
            b'-' | b'?' | b':' => self.plain(),
            b'#' | b'|' | b'>' | b'%' | b'@' | b'`' | b'\t' => false,
            _ => self.plain(),
        }
    }

    fn is_document_marker(&self) -> bool {
        let marker = &self.text[self.at..(self.at + 3).min(self.text.len())];
        self.column == 0 && matches!(marker, b"---" | b"...") && self.is_blank_or_end(3)
    }

    /// Blanks, comments and line breaks.
    fn skip_between(&mut self) {
        loop {
            if self.column == 0
                && self.text[self.at.min(self.text.len())..].starts_with(b"\xEF\xBB\xBF")
            {
                self.skip();
            }
            let tab_may = self.flow > 0 || !self.key_allowed;
            while self.peek(0) == b' ' || tab_may && self.peek(0) == b'\t' {
                self.skip();
            }
            if self.peek(0) == b'#' {
                self.skip_to_break();
            }
            if !self.skip_break() {
                return;
            }
            if self.flow == 0 {
                self.key_allowed = true;
            }
        }
    }

    fn indicator(&mut self, key_allowed: bool) -> bool {
        self.key_allowed = key_allowed;
        self.skip();
        true
    }

    fn block_indicator(&mut self, column: usize, key_allowed: bool) -> bool {
        if self.flow == 0 && !self.key_allowed {
            return false;
        }
        self.roll_indent(column);
        self.drop_key();
        self.indicator(key_allowed)
    }

    fn value_indicator(&mut self) -> bool {
        if self.flow > 0 {
            return self.indicator(false);
        }
        let fresh = |key: &KeyStart| key.line == self.line && self.at - key.at <= KEY_BYTES_MAX;
        match self.key.take().filter(fresh) {
            Some(key) => {
                self.roll_indent(key.column);
                self.indicator(false)
            }
            None => self.block_indicator(self.column, true),
        }
    }

    fn anchor(&mut self) -> bool {
        self.save_key();
        self.key_allowed = false;
        self.skip();
        while matches!(self.peek(0), b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'-') {
            self.skip();
        }
        true
    }

    fn tag(&mut self) -> bool {
        self.save_key();
        self.key_allowed = false;
        let verbatim = self.peek(1) == b'<';
        self.skip();
        while !self.is_blank_or_end(0) {
            match self.peek(0) {
                b'[' | b']' | b',' if !verbatim => break,
                b'{' | b'}' | b'"' => break,
                _ => self.skip(),
            }
        }
        true
    }

    fn quoted(&mut self, quote: u8) -> bool {
        self.save_key();
        self.key_allowed = false;
        self.skip();
        loop {
            if self.at_end(0) || self.is_document_marker() {
                return false;
            }
            match self.peek(0) {
                b'\\' if quote == b'"' => {
                    self.skip();
                    if !self.skip_break() {
                        self.skip();
                    }
                }
                b'\'' if quote == b'\'' && self.peek(1) == b'\'' => {
                    self.skip();
                    self.skip();
                }
                byte if byte == quote => {
                    self.skip();
                    return true;
                }
                _ => {
                    if !self.skip_break() {
                        self.skip();
                    }
                }
            }
        }
    }

    fn plain(&mut self) -> bool {
        self.save_key();
        self.key_allowed = false;
        // Whether only blanks and line breaks have been passed since the last line of the scalar.
        let mut between_lines = false;
        while !self.is_document_marker() && self.peek(0) != b'#' {
            let (line, start) = (self.line, self.at);
            while !self.is_blank_or_end(0) && !self.ends_plain() {
                self.skip();
            }
            between_lines &= self.at == start;
            let stopped = !self.is_blank_or_end(0) || self.at_end(0);
            while self.is_blank(0) || self.skip_break() {
                if self.is_blank(0) {
                    self.skip();
                }
            }
            between_lines |= self.line > line;
            // A further line belongs to the scalar only if it is indented more than the block.
            if stopped || self.flow == 0 && self.column < self.indent() {
                break;
            }
        }
        if between_lines {
            self.key_allowed = true;
        }
        true
    }

    /// Whether a plain scalar ends before this character.
    fn ends_plain(&self) -> bool {
        match self.peek(0) {
            b':' => self.is_blank_or_end(1),
            b',' | b'[' | b']' | b'{' | b'}' => self.flow > 0,
            _ => false,
        }
    }

    fn block_scalar(&mut self) -> bool {
        self.key = None;
        self.key_allowed = true;
        self.skip();
        let mut increment = 0;
        while let byte @ (b'+' | b'-' | b'1'..=b'9') = self.peek(0) {
            if byte.is_ascii_digit() {
                increment = usize::from(byte - b'0');
            }
            self.skip();
        }
        while self.is_blank(0) {
            self.skip();
        }
        if self.peek(0) == b'#' {
            self.skip_to_break();
        }
        if !self.is_break_or_end(0) {
            return false;
        }
        self.skip_break();
        // Column the content must reach; 0: the first line that has content decides.
        let block = self.indent().saturating_sub(1);
        let mut wanted = if increment > 0 { block + increment } else { 0 };
        self.block_breaks(&mut wanted);
        while self.column == wanted && !self.at_end(0) {
            self.skip_to_break();
            self.skip_break();
            self.block_breaks(&mut wanted);
        }
        true
    }

    /// Indentation and empty lines within a block scalar.
    fn block_breaks(&mut self, wanted: &mut usize) {
        let mut deepest = 0;
        loop {
            while (*wanted == 0 || self.column < *wanted) && self.peek(0) == b' ' {
                self.skip();
            }
            deepest = deepest.max(self.column);
            if !self.skip_break() {
                break;
            }
        }
        if *wanted == 0 {
            *wanted = deepest.max(self.indent()).max(1);
        }
    }
}

#[cfg(test)]
mod tests;
