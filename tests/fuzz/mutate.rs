//! Changes to bytes and texts, each from a seed.

use qcc_num::random::Random;

/// Numbers at which something ends.
pub const INTEGERS: [i64; 21] = [
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    -2,
    255,
    256,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    -0x8000_0000,
    0x1_0000_0000,
    1 << 62,
    i64::MAX,
    i64::MIN,
    1000,
    100_000,
];

/// The same among real numbers.
pub const REALS: [f32; 14] =
    [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, 1e38, -1e38, 3.4e38, 1e-30, 1e30, 0.5];

/// Pieces of graphs, tables and pipelines.
const PIECES: [&str; 44] = [
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "2147483648",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551616",
    "1e-46",
    "3.5e38",
    "[]",
    "[",
    "{",
    "}",
    "(",
    ")",
    "<",
    ">",
    "%",
    "@",
    "\"",
    "\\",
    "\n",
    "tensor<",
    "!quant.uniform<",
    "u8",
    "i8",
    "f32",
    "i64",
    "dense<",
    "return",
    "const",
    "=",
    "->",
    ":",
    ",",
    "\u{e9}",
    "\u{1f600}",
    "null",
    "true",
    "fixpoint(",
    "{exact=yes}",
];

/// Makes changes.
pub struct Mutator {
    pub random: Random,
}

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator { random: Random::new(seed) }
    }

    /// How many changes an input gets: few, now and then many.
    pub fn changes(&mut self) -> usize {
        self.random.pick(&[1, 1, 1, 2, 3, 8])
    }

    /// Changes bytes; the first ones, in which formats say how long everything is, more often.
    pub fn bytes(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..self.changes() {
            if out.is_empty() {
                break;
            }
            let range = self.random.pick(&[64, 512, out.len()]).min(out.len());
            let at = self.random.below(range);
            let length = self.random.pick(&[1, 2, 4, 16, 100]).min(out.len() - at);
            match self.random.below(9) {
                0 => out[at] ^= 1 << self.random.below(8),
                1 => out[at] = self.random.pick(&[0, 1, 0x7f, 0x80, 0xff, b'(', b'{', b'\'']),
                2 => out.truncate(at),
                3 => drop(out.drain(at..at + length)),
                4 => {
                    let part = out[at..at + length].to_vec();
                    out.splice(at..at, part);
                }
                5 => {
                    let random: Vec<u8> = (0..length).map(|_| self.random.below(256) as u8).collect();
                    out.splice(at..at, random);
                }
                6 => drop(out.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
                7 if !other.is_empty() => {
                    let from = self.random.below(other.len());
                    let end = other.len().min(from + self.random.pick(&[8, 64, 512]));
                    out.splice(at..at, other[from..end].iter().copied());
                }
                _ => out[at..at + length].fill(0),
            }
        }
        out
    }

    /// Changes a text: characters, numbers, words and lines.
    pub fn text(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(input).into_owned();
        for _ in 0..self.changes() {
            if text.is_empty() {
                break;
            }
            let at = self.boundary(&text);
            match self.random.below(8) {
                0 => text.insert_str(at, self.random.pick(&PIECES)),
                1 => {
                    let end = text.char_indices().map(|(i, _)| i).find(|&i| i > at).unwrap_or(text.len());
                    text.replace_range(at..end, "");
                }
                2 => text.truncate(at),
                3 => self.swap_word(&mut text, char::is_numeric, |m| match m.random.below(3) {
                    0 => m.random.pick(&REALS).to_string(),
                    _ => m.random.pick(&INTEGERS).to_string(),
                }),
                4 => self.lines(&mut text),
                5 => {
                    let words: Vec<String> =
                        String::from_utf8_lossy(other).split_whitespace().map(String::from).collect();
                    self.swap_word(
                        &mut text,
                        |c| !c.is_whitespace(),
                        |m| if words.is_empty() { String::new() } else { m.random.pick(&words) },
                    );
                }
                6 => {
                    let names: Vec<String> = names(&text);
                    let is_name = |c: char| c.is_alphanumeric() || "%@._".contains(c);
                    self.swap_word(&mut text, is_name, |m| {
                        if names.is_empty() { "%x".into() } else { m.random.pick(&names) }
                    });
                }
                _ => text.insert(at, self.random.pick(&['\0', '\t', '"', '%', '\u{7f}', '\u{4e2d}'])),
            }
        }
        text.into_bytes()
    }

    /// A place between two characters.
    fn boundary(&mut self, text: &str) -> usize {
        let at = self.random.below(text.len());
        (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0)
    }

    /// Puts another word in the place of one that consists of such characters.
    fn swap_word(
        &mut self,
        text: &mut String,
        belongs: impl Fn(char) -> bool,
        word: impl FnOnce(&mut Mutator) -> String,
    ) {
        let from = self.boundary(text);
        let Some(start) = text[from..].find(&belongs).map(|i| from + i) else { return };
        let end = text[start..].find(|c| !belongs(c)).map_or(text.len(), |i| start + i);
        let word = word(self);
        text.replace_range(start..end, &word);
    }

    /// Doubles a line, leaves one out, or moves one.
    fn lines(&mut self, text: &mut String) {
        let mut lines: Vec<&str> = text.split('\n').collect();
        let (from, to) = (self.random.below(lines.len()), self.random.below(lines.len()));
        match self.random.below(3) {
            0 => lines.insert(to, lines[from]),
            1 => drop(lines.remove(from)),
            _ => lines.swap(from, to),
        }
        *text = lines.join("\n");
    }
}

/// Names of values and operators in a text.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || "%@._".contains(c)));
    words.filter(|w| w.len() > 1 && (w.starts_with(['%', '@']) || w.contains('.'))).map(String::from).collect()
}
