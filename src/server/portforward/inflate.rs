//! Inflates the header blocks of a SPDY connection (RFC 1950, 1951), with SPDY/3's dictionary.
//!
//! Owns: one direction of a connection's compression: the window reaches back over all blocks before. Pure. Is not: fast, nor
//! for data: blocks are a few hundred bytes.
//! Limits: [`BLOCK_BYTES_MAX`] for what one block inflates to; the window of 32 KiB.

use super::dictionary;

/// Largest header block, inflated. Port-forward needs under 200 bytes; what is larger is an attack.
pub(super) const BLOCK_BYTES_MAX: usize = 16 * 1024;

/// How far back a match may reach.
const WINDOW_BYTES: usize = 32 * 1024;

/// Why a block is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InflateError {
    #[error("the compressed header ends too early")]
    Short,
    #[error("the compressed header is malformed")]
    Malformed,
    #[error("the header is larger than {BLOCK_BYTES_MAX} bytes")]
    TooLong,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Inflater {
    begun: bool,
    /// What was inflated before, and the dictionary before that; its last [`WINDOW_BYTES`].
    window: Vec<u8>,
}

impl Inflater {
    /// Inflates one block, which ends where its bytes do (a sync flush).
    pub(super) fn block(&mut self, data: &[u8]) -> Result<Vec<u8>, InflateError> {
        let data = if self.begun { data } else { self.begin(data)? };
        let start = self.window.len();
        let mut bits = Bits { data, at: 0, held: 0, count: 0 };
        while !bits.is_at_end() {
            self.deflate_block(&mut bits, start)?;
        }
        let block = self.window.split_off(start);
        self.window.extend_from_slice(&block);
        let excess = self.window.len().saturating_sub(WINDOW_BYTES);
        self.window.drain(..excess);
        Ok(block)
    }

    /// The stream's own header; the rest after it.
    fn begin<'a>(&mut self, data: &'a [u8]) -> Result<&'a [u8], InflateError> {
        let (head, rest) = data.split_at_checked(2).ok_or(InflateError::Short)?;
        let check = u16::from_be_bytes([head[0], head[1]]) % 31;
        if head[0] & 0x0f != 8 || check != 0 {
            return Err(InflateError::Malformed);
        }
        self.begun = true;
        if head[1] & 0x20 == 0 {
            return Ok(rest);
        }
        let (id, rest) = rest.split_at_checked(4).ok_or(InflateError::Short)?;
        if id != dictionary::ID {
            return Err(InflateError::Malformed);
        }
        self.window = dictionary::bytes();
        Ok(rest)
    }

    fn deflate_block(&mut self, bits: &mut Bits<'_>, start: usize) -> Result<(), InflateError> {
        let _last = bits.take(1)?;
        match bits.take(2)? {
            0 => self.stored(bits, start),
            1 => self.coded(bits, start, &Codes::fixed()),
            2 => {
                let codes = Codes::read(bits)?;
                self.coded(bits, start, &codes)
            }
            _ => Err(InflateError::Malformed),
        }
    }

    fn stored(&mut self, bits: &mut Bits<'_>, start: usize) -> Result<(), InflateError> {
        bits.align();
        let (length, check) = (bits.take(16)?, bits.take(16)?);
        if length != !check & 0xffff {
            return Err(InflateError::Malformed);
        }
        for _ in 0..length {
            let byte = bits.take(8)?;
            self.put(start, low_byte(byte))?;
        }
        Ok(())
    }

    fn coded(
        &mut self,
        bits: &mut Bits<'_>,
        start: usize,
        codes: &Codes,
    ) -> Result<(), InflateError> {
        loop {
            let symbol = codes.literals.read(bits)?;
            match symbol {
                0..=255 => self.put(start, low_byte(u32::from(symbol)))?,
                256 => return Ok(()),
                _ => {
                    let length = length(symbol, bits)?;
                    let distance = distance(codes.distances.read(bits)?, bits)?;
                    for _ in 0..length {
                        let from = self.window.len().checked_sub(distance);
                        let byte = from.and_then(|at| self.window.get(at)).copied();
                        self.put(start, byte.ok_or(InflateError::Malformed)?)?;
                    }
                }
            }
        }
    }

    fn put(&mut self, start: usize, byte: u8) -> Result<(), InflateError> {
        if self.window.len() - start >= BLOCK_BYTES_MAX {
            return Err(InflateError::TooLong);
        }
        self.window.push(byte);
        Ok(())
    }
}

fn low_byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

/// RFC 1951, 3.2.5: where each length code begins, and its extra bits.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The same for distances.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The order in which lengths of code-length codes come (RFC 1951, 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

fn length(symbol: u16, bits: &mut Bits<'_>) -> Result<usize, InflateError> {
    extended(LENGTHS.get(usize::from(symbol).wrapping_sub(257)), bits)
}

fn distance(symbol: u16, bits: &mut Bits<'_>) -> Result<usize, InflateError> {
    extended(DISTANCES.get(usize::from(symbol)), bits)
}

fn extended(row: Option<&(u16, u8)>, bits: &mut Bits<'_>) -> Result<usize, InflateError> {
    let &(base, extra) = row.ok_or(InflateError::Malformed)?;
    let more = bits.take(extra)?;
    usize::try_from(u32::from(base) + more).map_err(|_| InflateError::Malformed)
}

/// The codes of one block.
#[derive(Debug)]
struct Codes {
    literals: Code,
    distances: Code,
}

impl Codes {
    fn fixed() -> Self {
        let mut lengths = [8_u8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        Self { literals: Code::new(&lengths), distances: Code::new(&[5; 30]) }
    }

    fn read(bits: &mut Bits<'_>) -> Result<Self, InflateError> {
        let size = |value: u32| usize::try_from(value).map_err(|_| InflateError::Malformed);
        let literals = size(bits.take(5)?)? + 257;
        let distances = size(bits.take(5)?)? + 1;
        let orders = size(bits.take(4)?)? + 4;
        if literals > 286 {
            return Err(InflateError::Malformed);
        }
        let mut of_lengths = [0_u8; 19];
        for &place in &ORDER[..orders] {
            of_lengths[place] = low_byte(bits.take(3)?);
        }
        let code = Code::new(&of_lengths);
        let mut lengths = Vec::with_capacity(literals + distances);
        while lengths.len() < literals + distances {
            let symbol = code.read(bits)?;
            let (value, times) = match symbol {
                0..=15 => (low_byte(u32::from(symbol)), 1),
                16 => (*lengths.last().ok_or(InflateError::Malformed)?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                _ => (0, 11 + bits.take(7)?),
            };
            lengths.extend((0..times).map(|_| value));
        }
        if lengths.len() > literals + distances {
            return Err(InflateError::Malformed);
        }
        let (literals, distances) = lengths.split_at(literals);
        Ok(Self { literals: Code::new(literals), distances: Code::new(distances) })
    }
}

/// A canonical Huffman code (RFC 1951, 3.2.2): how many codes of each length, and the symbols in order.
#[derive(Debug)]
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0_u16; 16];
        let mut symbols = Vec::new();
        for length in 1..16_u8 {
            for (symbol, _) in (0_u16..).zip(lengths).filter(|(_, of)| **of == length) {
                counts[usize::from(length)] += 1;
                symbols.push(symbol);
            }
        }
        Self { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<u16, InflateError> {
        let (mut code, mut first, mut before) = (0_u32, 0_u32, 0_u32);
        for count in &self.counts[1..] {
            let count = u32::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                let place = usize::try_from(before + code - first);
                let symbol = place.ok().and_then(|place| self.symbols.get(place));
                return symbol.copied().ok_or(InflateError::Malformed);
            }
            before += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(InflateError::Malformed)
    }
}

/// Bits from the lowest of each byte.
#[derive(Debug)]
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u8,
}

impl Bits<'_> {
    fn take(&mut self, wanted: u8) -> Result<u32, InflateError> {
        while self.count < wanted {
            let byte = *self.data.get(self.at).ok_or(InflateError::Short)?;
            self.held |= u32::from(byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
        let value = self.held & ((1_u32 << wanted) - 1);
        self.held >>= wanted;
        self.count -= wanted;
        Ok(value)
    }

    /// On to the next whole byte.
    fn align(&mut self) {
        self.held = 0;
        self.count = 0;
    }

    fn is_at_end(&self) -> bool {
        self.at == self.data.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    // Made with zlib: compressobj(level=9, zdict=SPDY/3's dictionary), one sync flush after each text.
    const FIRST: &str = "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c \
        0600000000ffff";
    const SECOND: &str = "c2aa19540e2512d60b000000ffff";
    const DYNAMIC: &str = "78f9e3c6a7c2eccb3d0a80200006d0441d024d2111a44d0449f0277048f1fee7ea164ddfdbdf46d8ae5d78a8 \
        89cb5699443e5f7f8cfb527cf6564aeb93abeb1e877fcf2c92ac7645439fe0f4ce0832323232323232323232 \
        f22ff9030000ffff";

    #[test]
    fn what_zlib_made_with_the_dictionary_is_read_block_by_block() {
        let mut inflater = Inflater::default();
        let first = inflater.block(&hex(FIRST)).unwrap();
        assert_eq!(
            first,
            hex(
                "000000030000000a73747265616d74797065000000056572726f7200000004706f7274000000043830383000 \
        0000097265717565737469640000000130"
            )
        );
        let second = inflater.block(&hex(SECOND)).unwrap();
        assert_eq!(
            second,
            hex(
                "000000030000000a73747265616d74797065000000046461746100000004706f727400000004383038300000 \
        00097265717565737469640000000130"
            ),
            "it refers back to the first"
        );
        let mut inflater = Inflater::default();
        let plain: Vec<u8> = (0..3000_u32).map(|n| low_byte(n * n % 61)).collect();
        assert_eq!(inflater.block(&hex(DYNAMIC)).unwrap(), plain);
    }

    #[test]
    fn a_stream_without_dictionary_and_compression_is_read() {
        let mut inflater = Inflater::default();
        let plain = inflater.block(&hex("7801 00 0400 fbff 00000000 00 0000 ffff")).unwrap();
        assert_eq!(plain, [0; 4]);
    }

    #[test]
    fn damage_is_an_error() {
        let table: [(&str, InflateError); 6] = [
            ("78", InflateError::Short),
            ("7802", InflateError::Malformed),
            ("78bb 01020304", InflateError::Malformed),
            ("7801 00 0400 0000 00000000", InflateError::Malformed),
            ("7801 00 0400 fbff 0000", InflateError::Short),
            ("7801 07", InflateError::Malformed),
        ];
        for (text, error) in table {
            assert_eq!(Inflater::default().block(&hex(text)), Err(error), "{text}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        // Stored blocks, each of them honest.
        let mut bomb = hex("7801");
        for _ in 0..2 {
            bomb.extend(hex("00 ff2f 00d0"));
            bomb.extend(std::iter::repeat_n(7, 0x2fff));
        }
        assert_eq!(Inflater::default().block(&bomb), Err(InflateError::TooLong));
    }

    proptest! {
        /// Whatever comes, it ends, within the bound, and without a panic.
        #[test]
        fn anything_is_answered(data in prop::collection::vec(any::<u8>(), 0..400), ours in any::<bool>()) {
            let mut stream = if ours { hex("78bbe3c6a7c2") } else { Vec::new() };
            stream.extend(data);
            if let Ok(plain) = Inflater::default().block(&stream) {
                prop_assert!(plain.len() <= BLOCK_BYTES_MAX);
            }
        }
    }
}
