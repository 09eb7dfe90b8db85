//! Storage of integers.

/// How an integer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Int {
    /// 4 bits, signed; two to a byte where stored.
    I4,
    /// 4 bits, unsigned.
    U4,
    /// 8 bits, signed.
    I8,
    /// 8 bits, unsigned.
    U8,
    /// 16 bits, signed.
    I16,
    /// 32 bits, signed.
    I32,
    /// 64 bits, signed: indices and shapes.
    I64,
}

impl Int {
    /// All storages, in the order of their width.
    pub const ALL: [Int; 7] = [Int::I4, Int::U4, Int::I8, Int::U8, Int::I16, Int::I32, Int::I64];

    /// Spelling in text.
    pub fn name(self) -> &'static str {
        match self {
            Int::I4 => "i4",
            Int::U4 => "u4",
            Int::I8 => "i8",
            Int::U8 => "u8",
            Int::I16 => "i16",
            Int::I32 => "i32",
            Int::I64 => "i64",
        }
    }

    /// The storage spelled `name`.
    pub fn from_name(name: &str) -> Option<Int> {
        Int::ALL.into_iter().find(|i| i.name() == name)
    }

    /// Least storable value.
    pub const fn min(self) -> i64 {
        match self {
            Int::U4 | Int::U8 => 0,
            Int::I4 => -8,
            Int::I8 => i8::MIN as i64,
            Int::I16 => i16::MIN as i64,
            Int::I32 => i32::MIN as i64,
            Int::I64 => i64::MIN,
        }
    }

    /// Greatest storable value.
    pub const fn max(self) -> i64 {
        match self {
            Int::I4 => 7,
            Int::U4 => 15,
            Int::I8 => i8::MAX as i64,
            Int::U8 => u8::MAX as i64,
            Int::I16 => i16::MAX as i64,
            Int::I32 => i32::MAX as i64,
            Int::I64 => i64::MAX,
        }
    }

    /// Bits of storage.
    pub const fn bits(self) -> u32 {
        match self {
            Int::I4 | Int::U4 => 4,
            Int::I8 | Int::U8 => 8,
            Int::I16 => 16,
            Int::I32 => 32,
            Int::I64 => 64,
        }
    }
}
