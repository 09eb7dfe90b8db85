//! Weights of few values as codes of 4 bits, two a byte, and the table that tells what they stand for.
//!
//! ```text
//! header  table[0..16], zeros up to [`HEADER`] bytes
//! codes   [pair of units] byte j = code[unit 2t][j] | code[unit 2t + 1][j] << 4
//! ```
//! A unit is so many packed weights, in the order of `pack`, as one vector holds when it is decoded: both halves of a vector of codes are
//! then whole vectors of weights, and nothing is permuted. Decoded weights are the packed weights of 8 bits that they were made of, whatever their
//! format was: a linear format of up to 4 bits, and any that names 16 values, are the same to whoever multiplies.

use crate::machine::VectorShape;

/// Bytes of a header: what is behind it stays aligned.
pub const HEADER: usize = 64;

/// Values that a code of 4 bits can name.
pub const VALUES: usize = 16;

/// Bits of a code.
pub const BITS: usize = 4;
/// Codes of a byte.
pub const PER_BYTE: usize = 8 / BITS;

/// The values of codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTable([i8; VALUES]);

impl CodeTable {
    /// A table of all `weights`, and of zero where runs of packed weights are `padded`; nothing if those are too many values.
    pub fn of(weights: &[i8], padded: bool) -> Option<CodeTable> {
        let mut seen = [false; 256];
        let mut count = usize::from(padded);
        seen[0] = padded;
        for &weight in weights {
            let seen = &mut seen[usize::from(weight as u8)];
            count += usize::from(!*seen);
            *seen = true;
            if count > VALUES {
                return None;
            }
        }
        let mut table = [0; VALUES];
        let values = (i8::MIN..=i8::MAX).filter(|&value| seen[usize::from(value as u8)]);
        table.iter_mut().zip(values).for_each(|(entry, value)| *entry = value);
        Some(CodeTable(table))
    }

    /// The header.
    pub fn header(&self) -> Vec<u8> {
        let mut header: Vec<u8> = self.0.iter().map(|&value| value as u8).collect();
        header.resize(HEADER, 0);
        header
    }

    /// The codes of packed weights in units of so many. A last pair that is not full is filled with any code; so are lanes of no channel, whose
    /// zero need not be in the table.
    pub fn encode(&self, packed: &[i8], unit: usize) -> Vec<u8> {
        let mut code_of = [None; 256];
        for (code, &value) in self.0.iter().enumerate() {
            code_of[usize::from(value as u8)].get_or_insert(code as u8);
        }
        let code = |weight: Option<&i8>| {
            let code = weight.and_then(|&weight| code_of[usize::from(weight as u8)]);
            debug_assert!(code.is_some() || weight.is_none_or(|&weight| weight == 0), "the table has every weight");
            code.unwrap_or(0)
        };
        let pair = |pair: &[i8]| -> Vec<u8> {
            (0..unit).map(|j| code(pair.get(j)) | code(pair.get(unit + j)) << BITS).collect()
        };
        packed.chunks(2 * unit).flat_map(pair).collect()
    }

    /// What codes stand for, in units of so many.
    pub fn decode(&self, codes: &[u8], unit: usize) -> Vec<i8> {
        let value = |code: u8| self.0[usize::from(code) % VALUES];
        let vector = |codes: &[u8]| -> Vec<i8> {
            let halves = [0, BITS].into_iter();
            halves.flat_map(|shift| codes.iter().map(move |&byte| value(byte >> shift))).collect()
        };
        codes.chunks(unit).flat_map(vector).collect()
    }
}

/// What stored codes behind their header stand for, as the microkernel reads it where weights are bytes.
pub fn decoded(stored: &[u8], unit: usize) -> Vec<u8> {
    let (header, codes) = stored.split_at(HEADER);
    let table = CodeTable(std::array::from_fn(|code| header[code] as i8));
    table.decode(codes, unit).into_iter().map(|weight| weight as u8).collect()
}

/// Packed weights that a decoded vector holds: bytes, or the 16-bit numbers that a dot takes.
pub fn unit(shape: &VectorShape, weight_bytes: usize) -> usize {
    4 * shape.lanes / weight_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_num::random::Random;

    #[test]
    fn codes_stand_for_the_weights_they_were_made_of() {
        let mut random = Random::new(1);
        for unit in [8, 16, 32, 64] {
            for count in [0, 1, unit, 2 * unit - 1, 2 * unit, 7 * unit, 1000] {
                let values: Vec<i8> = (0..15).map(|_| random.bits() as i8).collect();
                let weights: Vec<i8> = (0..count).map(|_| values[random.below(15)]).collect();
                let table = CodeTable::of(&weights, true).expect("15 values and zero");
                let codes = table.encode(&weights, unit);
                assert_eq!(codes.len(), count.div_ceil(2 * unit) * unit);
                assert_eq!(table.decode(&codes, unit)[..count], weights, "{count} in units of {unit}");
            }
        }
    }

    #[test]
    fn halves_of_bytes_are_neighbouring_units() {
        let table = CodeTable::of(&[-8, 7, 3, 3, 7], true).expect("few values");
        // Sorted: -8, 0, 3, 7.
        assert_eq!(table.header()[..5], [(-8i8) as u8, 0, 3, 7, 0]);
        assert_eq!(table.encode(&[-8, 7, 3, 3, 7], 2), [2 << 4, 3 | 2 << 4, 3, 0]);
    }

    #[test]
    fn padding_needs_a_code_and_more_than_sixteen_values_have_none() {
        let all: Vec<i8> = (-8..8).collect();
        assert!(CodeTable::of(&all, true).is_some());
        let without_zero: Vec<i8> = (1..=16).collect();
        assert_eq!(CodeTable::of(&without_zero, true), None);
        let table = CodeTable::of(&without_zero, false).expect("16 values");
        assert_eq!(table.decode(&table.encode(&without_zero, 8), 8), without_zero);
        assert!(CodeTable::of(&without_zero[1..], true).is_some());
        assert_eq!(CodeTable::of(&(-8..9).collect::<Vec<i8>>(), false), None);
    }
}
